"""A config's tool modules, imported beside the command that asks about them.

`up` imports each module in its pool's environment; a command that speaks to no cluster has only its
own. A module that cannot be imported here may be perfectly well there; one that is here and that
`up` would call broken is a problem. The modules are imported in a child process, which is theirs to
end.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import shown
from thornback.cluster.settings import effective_pool
from thornback.deployments.packages import CAUSE_CHARS
from thornback.tools.definition import DefinitionError, problems, tools_of

SAME_CODE = {"env_vars", "config"}
"""Keys of a runtime environment that bring no code into it."""
_CHILD = "from thornback.deployments.modules_here import look; look()"


class Look(msgspec.Struct, frozen=True):
    """What importing one module came to."""

    tools: list[ToolSpec] = []
    remarks: list[str] = []
    """What models will not read well."""
    cause: str | None = None
    """Why it could not be imported, in one line; None: it was."""
    is_wrong: bool = False
    """Whether that has its reason in the module or its name, and not in this machine."""


class ToolsHere(NamedTuple):
    """What this machine can say of a config's tools."""

    tools: list[tuple[str, ToolSpec]]
    """Each with the name of its pool; empty where a pool of its own will be made for it."""
    remarks: list[str]
    """What models will not read well."""
    unseen: dict[str, str]
    """Modules that cannot be imported here, and why."""
    broken: list[str]
    """A line for everything that `up` would call broken."""


def tools_here(config: ClusterConfig) -> ToolsHere:
    """Import every module of a config. Runs their code; what they print goes to stderr."""
    pools = {name: pool.tools for name, pool in config.pools.items()}
    alone = [[module] for module in config.modules]
    groups = [*pools.items(), *(("", modules) for modules in alone)]
    looks = _looks(list(dict.fromkeys(m for _, modules in groups for m in modules)), config)
    found = ToolsHere([], [], {}, [])
    for pool, modules in groups:
        is_same_code = not _brings_code(config, pool)
        for module in modules:
            one = looks[module]
            found.tools.extend((pool, spec) for spec in one.tools)
            found.remarks.extend(one.remarks)
            if one.cause is not None and one.is_wrong and is_same_code:
                found.broken.append(f"{module}: {one.cause}")
            elif one.cause is not None:
                found.unseen[module] = one.cause
        if not any(looks[module].tools or looks[module].cause for module in modules):
            if is_same_code:
                found.broken.append(f"{', '.join(modules)}: declares no tool")
            else:
                found.unseen[modules[0]] = "it declares no tool"
    return found


def warnings_of(config: ClusterConfig, found: ToolsHere) -> list[str]:
    """What is valid and could be better, one line each."""
    lines = list(found.remarks)
    lines += [f"{module} is not checked: here, {why}" for module, why in found.unseen.items()]
    if not found.unseen and not found.broken:
        names = {spec.name for _, spec in found.tools}
        lines += [
            f"tools.{name}: no module of this config declares this tool"
            for name in sorted(config.tools.keys() - names)
        ]
        batched = {spec.name for _, spec in found.tools if spec.batch is not None}
        lines += [
            f"tools.{name}.batch: {name} is no batch tool, and takes one call at a time"
            for name in sorted(names - batched)
            if name in config.tools and config.tools[name].batch is not None
        ]
    return lines


def look() -> None:
    """The child's part: import the modules that stdin names, and write a file about each.

    There is none about a module that ends the process.
    """
    asked = json.load(sys.stdin)
    sys.path.insert(0, asked["base_dir"])
    # What modules print is not the command's answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for number, module in enumerate(asked["modules"]):
        Path(asked["answers"], str(number)).write_bytes(msgspec.json.encode(_look_at(module)))
    sys.stdout.flush()
    os._exit(0)  # a thread that a module has started keeps nobody waiting


def _look_at(module: str) -> Look:
    try:
        tools = tools_of(importlib.import_module(module))
        specs = [tool.spec("") for tool in tools]
        return Look(specs, [line for tool in tools for line in problems(tool)])
    except BaseException as error:  # a module may raise anything, SystemExit included
        name = getattr(error, "name", None) or ""
        is_missing = isinstance(error, ModuleNotFoundError) and module.startswith(name)
        is_ours = is_missing and name.startswith("thornback.")
        return Look(cause=_cause_of(error), is_wrong=is_ours or isinstance(error, DefinitionError))


def _cause_of(error: BaseException) -> str:
    """The error and the last place in the author's code, in one line."""
    text = shown(f"{type(error).__name__}: {error}".rstrip(": "), CAUSE_CHARS)
    tools_room = str(Path(sys.modules[DefinitionError.__module__].__file__ or "").parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", tools_room, importlib.__file__, __file__))
    ]
    return (
        f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text
    )


def _looks(modules: Sequence[str], config: ClusterConfig) -> dict[str, Look]:
    """Each module as a child process finds it; a new child after one that a module has ended."""
    found: list[Look] = []
    while len(found) < len(modules):
        with tempfile.TemporaryDirectory() as answers:
            asked = {
                "base_dir": config.base_dir,
                "modules": list(modules[len(found) :]),
                "answers": answers,
            }
            child = subprocess.run(
                [sys.executable, "-P", "-c", _CHILD],
                input=json.dumps(asked).encode(),
                stdout=subprocess.DEVNULL,
                check=False,
            )
            written = sorted(Path(answers).iterdir(), key=lambda file: int(file.name))
            found += [msgspec.json.decode(file.read_bytes(), type=Look) for file in written]
        if len(found) < len(modules):
            how = f"exit {child.returncode}"
            how = how if child.returncode >= 0 else f"signal {-child.returncode}"
            found.append(Look(cause=f"it ends the process ({how})"))
    return dict(zip(modules, found, strict=True))


def _brings_code(config: ClusterConfig, pool: str) -> bool:
    """Whether the hosts of a pool may have other packages than this machine."""
    if not pool:
        return bool(config.defaults.runtime_env.keys() - SAME_CODE)
    options = effective_pool(config, pool, config.pools[pool])
    layers = (options.runtime_env, options.ray_actor_options.runtime_env)
    return any(layer.keys() - SAME_CODE for layer in layers)
