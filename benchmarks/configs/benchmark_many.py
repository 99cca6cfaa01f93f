"""As many tools as `BENCHMARK_TOOLS` says, no two alike; they are listed and not called."""

import os

from thornback.tools import tool


def _tool(number: int) -> object:
    async def listed(text: str, language: str = "en", limit: int = 10) -> str:
        return text

    listed.__doc__ = f"""Stand in a long list as number {number}.

    Args:
        text: Any text.
        language: What the text is written in; it changes nothing.
        limit: How many answers there may be; it changes nothing.
    """
    return tool(name=f"listed_{number}", read_only=True, idempotent=True)(listed)


globals().update({f"listed_{n}": _tool(n) for n in range(int(os.environ["BENCHMARK_TOOLS"]))})
