"""Tools that measure the way to a tool and back; what they do themselves is next to nothing."""

from thornback.tools import tool


@tool(read_only=True, idempotent=True, timeout_s=30)
async def echo(text: str) -> str:
    """Answer with the text it was given, to measure how long a call takes.

    Args:
        text: Any text.
    """
    return text
