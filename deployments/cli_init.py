"""`thornback init`: a new project with one tool, a test for it and a config that runs it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from thornback.cluster.errors import ConfigError
from thornback.deployments.cli_output import hint, writing

TOOLS = '''"""Tools for agents. A tool is a function; its docstring is what the model reads."""

from thornback.tools import tool


@tool(timeout_s=5)
def reverse(text: str) -> str:
    """Write a text backwards.

    Args:
        text: The text to turn around.
    """
    return text[::-1]
'''

TEST = '''"""A tool stays a plain function; `client` shows it as an agent sees it, without Ray."""

import asyncio

import {module}

from thornback.tools.testing import client


def test_reverse_turns_a_text_around() -> None:
    assert {module}.reverse("stop") == "pots"


def test_an_agent_can_call_reverse() -> None:
    async def answer() -> str:
        async with client({module}) as agent:
            result = await agent.call_tool("reverse", {{"text": "stop"}})
            return result.content[0].text

    assert asyncio.run(answer()) == "pots"
'''

CONFIG = """version: 1
name: {name}
pools:
  {name}: {{tools: [{module}]}}  # a module of tools beside this file; more can share the pool
"""

NEXT = """\
  cd {directory}
  pip install pytest && python -m pytest
  thornback up thornback.yaml --detach
  thornback call reverse text=stop --cluster {name}
  thornback down {name}
"""


def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make; may exist, files may not.")],
) -> None:
    """Start a project: one tool, a test, a config.

    Example: thornback init my-agent-tools
    """
    name = project_name(directory.resolve().name)
    module = name.replace("-", "_").removesuffix("_tools") + "_tools"
    files = {
        f"{module}.py": TOOLS,
        f"test_{module}.py": TEST.format(module=module),
        "thornback.yaml": CONFIG.format(name=name, module=module),
    }
    with writing(directory):
        if present := [file for file in files if (directory / file).exists()]:
            raise ConfigError(f"{directory} already has {', '.join(present)}; nothing was written")
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (directory / file).write_text(text, "utf-8")
            typer.echo(str(directory / file))
    hint("\nNext:\n" + NEXT.format(directory=shlex.quote(str(directory)), name=name).rstrip())


def project_name(folder: str) -> str:
    """A valid name of a cluster and of a Python module, as near to `folder` as can be."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")[:32].strip("-")
    return name if name[:1].isalpha() else f"tools-{name}".strip("-")
