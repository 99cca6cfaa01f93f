"""A config's tool modules, imported beside the command that asks about them.

`up` imports each module in its pool's environment; a command that speaks to no cluster has only its
own packages, and the variables that the config gives a pool. What cannot be imported so is a
problem, as `up` would call it broken, unless its pool brings code of its own: then it may be
perfectly well there. The modules are imported in child processes, which are theirs to end.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import shown
from thornback.deployments.packages import CAUSE_CHARS
from thornback.deployments.serve_config import plan_modules, plan_pool
from thornback.tools.definition import DefinitionError, problems, tools_of

SAME_CODE = {"env_vars", "config"}
"""Keys of a runtime environment that bring no code into it."""
OF_ONE_POOL = ("THORNBACK_POOL", "THORNBACK_CODE")
"""Variables that tell pools apart, and are nothing to a module that is imported."""
_CHILD = "from thornback.deployments.modules_here import look; look()"


class Look(msgspec.Struct, frozen=True):
    """What importing one module came to."""

    tools: list[ToolSpec] = []
    remarks: list[str] = []
    """What models will not read well."""
    cause: str | None = None
    """Why it could not be imported, in one line; None: it was."""


class ToolsHere(NamedTuple):
    """What this machine can say of a config's tools."""

    tools: list[tuple[str, ToolSpec]]
    """Each with the name of its pool; empty where a pool of its own will be made for it."""
    remarks: list[str]
    """What models will not read well."""
    unseen: dict[str, str]
    """Modules that cannot be imported here, and why that may be otherwise in their pool."""
    broken: list[str]
    """A line for everything that `up` would call broken, or refuse."""


class _Group(NamedTuple):
    """Modules that `up` imports together: a pool's, or one that no pool names."""

    pool: str
    """Empty for a module that no pool names."""
    path: str
    """Where the config names them."""
    modules: Sequence[str]
    environment: Mapping[str, Any]
    """Runtime environment of their hosts."""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that an import may read."""
        given: dict[str, str] = self.environment["env_vars"]
        return {key: value for key, value in given.items() if key not in OF_ONE_POOL}

    @property
    def why_otherwise(self) -> str:
        """Why what is so here may be otherwise in the pool; empty where nothing says so."""
        brings = ", ".join(sorted(self.environment.keys() - SAME_CODE))
        return brings and f"its pool has a runtime_env of its own ({brings})"


def tools_here(config: ClusterConfig) -> ToolsHere:
    """Import every module of a config. Runs their code; what they print goes to stderr."""
    found = ToolsHere([], [], {}, [])
    groups = list(_groups(config))
    for group, looks in zip(groups, _looks_of(groups, config), strict=True):
        for module, one in looks.items():
            found.tools.extend((group.pool, spec) for spec in one.tools)
            found.remarks.extend(line for line in one.remarks if line not in found.remarks)
            if one.cause is not None:
                _put(found, group, module, one.cause)
        if not any(one.tools or one.cause for one in looks.values()):
            _put(found, group, ", ".join(looks), "it declares no tool")
        found.broken.extend(_declared_twice(group, looks))
    found.broken.extend(_offered_twice(found.tools))
    return found


def _put(found: ToolsHere, group: _Group, module: str, cause: str) -> None:
    if group.why_otherwise:
        found.unseen[module] = f"{cause}; {group.why_otherwise}"
    else:
        found.broken.append(f"{group.path}: {module}: {cause}")


def _groups(config: ClusterConfig) -> Iterator[_Group]:
    plans = [(name, f"pools.{name}.tools", plan_pool(config, name, pool, version=""))
             for name, pool in config.pools.items()]  # fmt: skip
    plans += [("", "modules", plan) for plan in plan_modules(config, version="")]
    for pool, path, plan in plans:
        yield _Group(pool, path, plan.config.tools, plan.runtime_env)


def _declared_twice(group: _Group, looks: Mapping[str, Look]) -> Iterator[str]:
    """A line for each tool version that two modules of one pool declare."""
    owners: dict[str, str] = {}
    for module, one in looks.items():
        for spec in one.tools:
            owner = owners.setdefault(spec.key, module)
            if owner != module:
                yield f"{group.path}: {owner} and {module} both declare {spec.name} {spec.version}"


def _offered_twice(tools: Iterable[tuple[str, ToolSpec]]) -> Iterator[str]:
    """A line for each tool version that two pools would offer."""
    owners: dict[str, str] = {}
    for pool, spec in tools:
        home = f"pools.{pool}" if pool else f"modules ({spec.module})"
        owner = owners.setdefault(spec.key, home)
        if owner != home:
            yield (
                f"{owner} and {home} both offer {spec.name} {spec.version}; "
                "two pools may offer one tool only at different versions"
            )


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
        return Look(cause=_cause_of(error))


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


def _looks_of(groups: Sequence[_Group], config: ClusterConfig) -> list[dict[str, Look]]:
    """What each group's modules come to; those with the same variables share a child process."""
    alike: dict[frozenset[tuple[str, str]], dict[str, Look]] = {}
    for group in groups:
        looks = alike.setdefault(frozenset(group.variables.items()), {})
        looks.update(dict.fromkeys(group.modules, Look()))
    for variables, looks in alike.items():
        looks.update(_looks(list(looks), config.base_dir, dict(variables)))
    return [
        {module: alike[frozenset(group.variables.items())][module] for module in group.modules}
        for group in groups
    ]


def _looks(modules: Sequence[str], base_dir: str, variables: dict[str, str]) -> dict[str, Look]:
    """Each module as a child process finds it; a new child after one that a module has ended."""
    # As Ray does, which puts the node's own values in the place of references.
    given = {key: os.path.expandvars(value) for key, value in variables.items()}
    found: list[Look] = []
    while len(found) < len(modules):
        with tempfile.TemporaryDirectory() as answers:
            asked = {
                "base_dir": base_dir,
                "modules": list(modules[len(found) :]),
                "answers": answers,
            }
            child = subprocess.run(
                [sys.executable, "-P", "-c", _CHILD],
                input=json.dumps(asked).encode(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **given},
                check=False,
            )
            written = sorted(Path(answers).iterdir(), key=lambda file: int(file.name))
            found += [msgspec.json.decode(file.read_bytes(), type=Look) for file in written]
        if len(found) < len(modules):
            how = f"exit {child.returncode}"
            how = how if child.returncode >= 0 else f"signal {-child.returncode}"
            found.append(Look(cause=f"it ends the process ({how})"))
    return dict(zip(modules, found, strict=True))
