"""The fenced blocks of a page, and how each kind runs.

The word after the language is the name of a file that the block is saved as, in a folder that all
blocks of a page share; or for `bash`, that the block is checked by a test of its own (`install`,
`test`). A block of any other kind than those below fails the test: nothing goes unread.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT, RunningCluster, free_port
from tests.on_ray.peers import python_with

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKED_ELSEWHERE = ("install", "test")
BLOCK_TIMEOUT_S = 240


class Block(NamedTuple):
    """One fenced block."""

    page: str
    line: int
    language: str
    word: str
    """What stands after the language; empty for nothing."""
    text: str


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2] or "", m[3])
        for m in FENCE.finditer(text)
    ]


class Runner:
    """Runs the blocks of a page in their order, against the session's cluster."""

    def __init__(self, cluster: RunningCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        # The pages speak of a cluster on port 8000, and of a second one beside it.
        self._ports = {"8000": str(cluster.port), "8001": str(free_port())}

    def run(self, block: Block) -> None:
        text = re.sub(r"\b800[01]\b", lambda m: self._ports[m[0]], block.text)
        match block.language, block.word:
            case "bash", "":
                self._execute(block, ["bash", "-euo", "pipefail", "-c", text])
            case "bash", word if word in CHECKED_ELSEWHERE:
                pass
            case "python", "":
                self._execute(block, [sys.executable, "-c", text])
            case (("python" | "yaml"), name) if name:
                (self._folder / name).write_text(text, "utf-8")
            case "json", "":
                self._execute(block, [python_with("fastmcp==4.1.0"), "-c", LIST_TOOLS, text])
            case "text", "":
                pass
            case _:
                raise AssertionError(f"{block.page}:{block.line}: nobody runs this block")

    def end_others(self) -> None:
        """End the clusters that blocks started and, because one failed, did not end."""
        pointers = self._cluster.home / "thornback" / "clusters"
        for name in {pointer.stem for pointer in pointers.glob("*.json")} - {self._cluster.name}:
            self._cluster.thornback("down", name)

    def _execute(self, block: Block, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._cluster.environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_TIMEOUT_S,
        )
        said = f"{block.page}:{block.line}\n{block.text}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said


LIST_TOOLS = """
import asyncio, json, sys
from fastmcp import Client

async def main():
    async with Client(json.loads(sys.argv[1])) as client:
        assert await client.list_tools()

asyncio.run(main())
"""
