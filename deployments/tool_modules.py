"""A pool's tool modules: imported once, and compared with what the catalog promised of them.

A module that cannot be imported is a fact about it, never an exception: its neighbours go on, and
a replica that died of it would only be started again. Nothing here waits or talks to anybody.
"""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.errors import shown
from thornback.cluster.ids import new_id
from thornback.tools.definition import DefinitionError, Tool, tools_of

logger = logging.getLogger(__name__)

MAX_CAUSE_CHARS = 300


class ToolModules(msgspec.Struct, frozen=True):
    """What importing the modules of a pool came to."""

    tools: dict[str, Tool]
    """By `name@version`."""
    broken: dict[str, str]
    """Dotted name of each module that failed, and why."""
    tracebacks: dict[str, str] = {}
    """Of each module that failed; for the operator alone."""


class Mismatch(msgspec.Struct, frozen=True):
    """Why a tool of the catalog cannot be run here, or one that is here must not be."""

    module: str
    """Dotted name of the module that declares the tool."""
    cause: str


def load(modules: Iterable[str]) -> ToolModules:
    """Import modules, in order. Runs their code: may take long, and belongs in a thread."""
    tools: dict[str, Tool] = {}
    broken: dict[str, str] = {}
    tracebacks: dict[str, str] = {}
    for module in modules:
        try:
            found = {f"{t.name}@{t.version}": t for t in tools_of(importlib.import_module(module))}
            if both := tools.keys() & found.keys():
                raise ImportError(f"{module} and another module of this pool declare {min(both)}")
        except BaseException as error:  # a module may raise anything, SystemExit included
            broken[module] = cause_of(error, module)
            tracebacks[module] = "".join(traceback.format_exception(error))
        else:
            tools.update(found)
    return ToolModules(tools, broken, tracebacks)


def cause_of(error: BaseException, module: str) -> str:
    """Why importing `module` failed, in one line that callers may read.

    Errors of the import itself and of `@tool` speak of names. What else a module raises may hold
    anything, so that only its class leaves this host, with an id under which the rest is logged.
    """
    kind = type(error).__name__
    if isinstance(error, (ImportError, SyntaxError, DefinitionError)):
        logger.warning("cannot import %s", module, exc_info=error)
        return shown(f"{kind}: {error}", MAX_CAUSE_CHARS)
    error_id = new_id("err")
    logger.error("cannot import %s (%s)", module, error_id, exc_info=error)
    return f"{kind} (error {error_id})"


def mismatches(loaded: ToolModules, pool: str, specs: Sequence[ToolSpec]) -> dict[str, Mismatch]:
    """How what was imported differs from what the catalog offers, by `name@version`.

    Args:
        specs: The catalog's tools of this pool.
    """
    offered = {spec.key: spec for spec in specs}
    found: dict[str, Mismatch] = {}
    for key, tool in loaded.tools.items():
        spec = offered.get(key)
        if spec is None:
            why = "is not in the catalog"
        elif spec.content_hash != (mine := tool.spec(pool).content_hash):
            why = (
                f"differs from the catalog (here {mine[:12]}, there {spec.content_hash[:12]}); "
                "apply the config again"
            )
        else:
            continue
        found[key] = Mismatch(tool.module, f"{key} {why}")
    for key in offered.keys() - loaded.tools.keys():
        module = offered[key].module
        found[key] = Mismatch(module, loaded.broken.get(module, f"does not declare {key}"))
    return found


def close(loaded: ToolModules) -> None:
    """Close what the modules' class tools hold open. One that fails to is left to the process."""
    for tool in loaded.tools.values():
        with suppress(Exception):
            tool.close()
