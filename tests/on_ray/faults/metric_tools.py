"""Tools that one test alone calls: what others called before it is shown half a minute later."""

from thornback.tools import Batch, tool


@tool(timeout_s=60, read_only=True)
def counted(word: str) -> str:
    """Answer with the word.

    Args:
        word: Anything.
    """
    return word


@tool(timeout_s=60, read_only=True)
def counted_bug(secret: str) -> str:
    """Fail with a bug whose message has the argument in it.

    Args:
        secret: What must not be told.
    """
    raise RuntimeError(secret)


@tool(batch=Batch(max_batch_size=64, batch_wait_timeout_s=0.2), timeout_s=60, read_only=True)
async def counted_together(word: list[str]) -> list[int]:
    """Count the calls of this invocation.

    Args:
        word: Anything.
    """
    return [len(word)] * len(word)
