"""A batch tool that says how many calls shared its invocation, and traces a step of its own."""

from opentelemetry import trace

from thornback.tools import Batch, tool


@tool(batch=Batch(max_batch_size=64, batch_wait_timeout_s=0.2), timeout_s=60, read_only=True)
async def together(word: list[str]) -> list[int]:
    """Count the calls of this invocation.

    Args:
        word: Anything.
    """
    with trace.get_tracer(__name__).start_as_current_span("count"):
        return [len(word)] * len(word)
