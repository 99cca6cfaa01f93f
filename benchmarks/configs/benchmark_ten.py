"""Ten tools that do nothing; under `modules` each gets a pool of its own."""

from thornback.tools import tool
from thornback.tools.benchmark import CALLS


def _tool(number: int) -> object:
    async def noop(text: str) -> str:
        """Answer with the text it was given.

        Args:
            text: Any text.
        """
        CALLS.add()
        return text

    return tool(name=f"noop_{number}", read_only=True, idempotent=True, timeout_s=30)(noop)


globals().update({f"noop_{number}": _tool(number) for number in range(10)})
