"""A config's tool modules, imported into the command that asks about them.

`up` imports each module in its pool's environment; a command that speaks to no cluster has only its
own. A module that cannot be imported here may be perfectly well there, so that is never an error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple

from thornback.cluster.config import ClusterConfig
from thornback.tools.definition import Tool, problems


class ToolsHere(NamedTuple):
    """What this process can say of a config's tools."""

    tools: list[tuple[str, Tool]]
    """Each with the name of its pool; empty where a pool of its own will be made for it."""
    unseen: dict[str, str]
    """Modules that cannot be imported here, and why."""


def tools_here(config: ClusterConfig) -> ToolsHere:
    """Import every module of a config. Runs their code; what they print goes to stderr."""
    from thornback.deployments.tool_modules import load

    modules = [(pool, module) for pool, one in config.pools.items() for module in one.tools]
    found = ToolsHere([], {})
    with _importing(config.base_dir):
        for pool, module in [*modules, *(("", module) for module in config.modules)]:
            loaded = load([module])
            found.unseen.update(loaded.broken)
            found.tools.extend((pool, tool) for tool in loaded.tools.values())
    return found


def warnings_of(config: ClusterConfig, found: ToolsHere) -> list[str]:
    """What is valid and could be better, one line each."""
    lines = [line for _, tool in found.tools for line in problems(tool)]
    lines += [f"{module} is not checked: here, {why}" for module, why in found.unseen.items()]
    if not found.unseen:
        names = {tool.name for _, tool in found.tools}
        lines += [
            f"tools.{name}: no module of this config declares this tool"
            for name in sorted(config.tools.keys() - names)
        ]
        batched = {tool.name for _, tool in found.tools if tool.batch is not None}
        lines += [
            f"tools.{name}.batch: {name} is no batch tool, and takes one call at a time"
            for name in sorted(names - batched)
            if name in config.tools and config.tools[name].batch is not None
        ]
    return lines


@contextmanager
def _importing(base_dir: str) -> Iterator[None]:
    """Import as `up` does, from the config's directory, and leave stdout to the command."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)  # a traceback where the cause alone says too little
    logger = logging.getLogger("thornback")
    logger.addHandler(handler)
    sys.path.insert(0, base_dir)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path.remove(base_dir)
        logger.removeHandler(handler)
