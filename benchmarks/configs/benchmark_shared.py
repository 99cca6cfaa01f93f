"""A batch tool some of whose calls hurt: nobody else of their batch may feel it."""

import time
from typing import Any

from thornback.tools import Batch, ToolResult, tool
from thornback.tools.benchmark import CALLS

WORK_S = 0.2
LARGE = "x" * 100_000_000


@tool(
    read_only=True,
    idempotent=True,
    timeout_s=60,
    batch=Batch(max_batch_size=64, batch_wait_timeout_s=0.1),
)
def shared(text: list[str], kind: list[str]) -> list[Any]:
    """Wait a while, and answer each call with its text and the size of its batch.

    Args:
        text: Any text.
        kind: `plain`; `large` adds 100 MB; `unserialisable` answers with what JSON has no word for.
    """
    for _ in text:
        CALLS.add()
    time.sleep(WORK_S)
    answers: list[Any] = []
    for one, its_kind in zip(text, kind, strict=True):
        # Not a bare text, which would be sent twice, as structured content too.
        parts = [f"{one} {len(text)}", *([LARGE] if its_kind == "large" else [])]
        odd = {"it": object()} if its_kind == "unserialisable" else None
        answers.append(ToolResult(parts, odd))
    return answers
