"""Registered datasets: from a name in the config to files that the data tools may read.

The host of a pool gets the `datasets` of the config in the environment variable
`THORNBACK_DATASETS`: a JSON object from name to a path or glob, or to a list of them. A reference
`package:PACKAGE/PATH` means files inside an installed package, so that shipped data is found from
a wheel as well as from a checkout. Nothing here opens a file.
"""

from __future__ import annotations

import difflib
import glob
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from thornback.tools import ToolFailure

VARIABLE = "THORNBACK_DATASETS"
PACKAGE_PREFIX = "package:"
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}


@dataclass(frozen=True)
class File:
    """One file as it was when it was looked at; a changed file is another `File`."""

    path: str
    """Absolute."""
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Dataset:
    """A table that the data tools offer under a name."""

    name: str
    format: str
    """`csv`, `parquet` or `json`."""
    files: tuple[File, ...]
    """In the order of their paths; never empty."""


class Registered(NamedTuple):
    """The datasets of the config as they are now, by name, in its order."""

    here: dict[str, Dataset]
    absent: dict[str, str]
    """Those that cannot be read now, and the sentence that `dataset` refuses each with."""


def registered() -> Registered:
    """Look at every dataset: a broken one does not take the others away."""
    found = Registered({}, {})
    for name, references in _references(os.environ.get(VARIABLE, "{}")).items():
        try:
            found.here[name] = _dataset(name, references)
        except ToolFailure as error:
            found.absent[name] = str(error)
    return found


def dataset(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        ToolFailure: if there is none, naming the nearest; or if it has no files now.
    """
    references = _references(os.environ.get(VARIABLE, "{}"))
    if name not in references:
        raise ToolFailure(unknown_dataset(name, list(references)))
    return _dataset(name, references[name])


def unknown_dataset(name: str, names: list[str]) -> str:
    """The sentence about a name that no dataset has."""
    if not names:
        return f"there is no dataset {name!r}: this cluster has no datasets"
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no dataset {name!r}: {hint}there are {', '.join(sorted(names))}"


def resolve(reference: str) -> list[Path]:
    """The files that a path, glob or `package:` reference names now, in order.

    Raises:
        ValueError: if a `package:` reference names no installed package.
    """
    if reference.startswith(PACKAGE_PREFIX):
        package, _, inside = reference.removeprefix(PACKAGE_PREFIX).partition("/")
        try:
            directory = importlib.resources.files(package)
        except (ModuleNotFoundError, ValueError) as error:
            raise ValueError(f"{reference}: no package {package!r} is installed") from error
        reference = str(directory / inside)
    pattern = os.path.abspath(os.path.expanduser(reference))
    return [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]


@lru_cache(maxsize=8)
def _references(text: str) -> Mapping[str, tuple[str, ...]]:
    return {
        name: (value,) if isinstance(value, str) else tuple(value)
        for name, value in json.loads(text).items()
    }


def _dataset(name: str, references: tuple[str, ...]) -> Dataset:
    # The path stays out of these sentences: a model reads them, and paths are the operator's.
    try:
        paths = [path for reference in references for path in resolve(reference)]
        files = tuple(_file(path) for path in paths if path.is_file())
    except (OSError, ValueError) as error:
        raise ToolFailure(f"the files of dataset {name} cannot be found") from error
    formats = {_format(file.path) for file in files}
    if not files:
        raise ToolFailure(f"dataset {name} has no files at present")
    if len(formats) > 1 or None in formats:
        raise ToolFailure(f"the files of dataset {name} are not all CSV, all Parquet or all JSON")
    return Dataset(name, str(formats.pop()), files)


def _file(path: Path) -> File:
    status = path.stat()
    return File(str(path), status.st_size, status.st_mtime_ns)


def _format(path: str) -> str | None:
    return FORMATS.get(Path(path.removesuffix(".gz")).suffix.lower())
