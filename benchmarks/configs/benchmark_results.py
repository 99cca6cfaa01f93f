"""Tools with much to say: a large result, and many items."""

from collections.abc import AsyncIterator, Generator

from thornback.tools import tool
from thornback.tools.benchmark import CALLS


@tool(read_only=True, idempotent=True, timeout_s=60)
async def echo_padded(text: str, padding_bytes: int) -> str:
    """Answer with the text it was given and so many letters x behind it.

    Args:
        text: Any text.
        padding_bytes: How many letters.
    """
    CALLS.add()
    return text + "x" * padding_bytes


@tool(read_only=True, idempotent=True, timeout_s=60)
async def items(text: str, count: int) -> AsyncIterator[str]:
    """Yield so many items, each with the text and its number.

    Args:
        text: Any text.
        count: How many items.
    """
    CALLS.add()
    for number in range(count):
        yield f"{text}{number}"


@tool(read_only=True, idempotent=True, timeout_s=900)  # for a client that reads slowly
def many_items(text: str, count: int) -> Generator[str, None, int]:
    """Yield so many items, each with the text and its number, and return how many.

    Args:
        text: Any text.
        count: How many items.
    """
    CALLS.add()
    for number in range(count):
        yield f"{text}{number}"
    return count
