"""What one POST is answered with: JSON in one piece, or a stream that ends with the answer."""

import asyncio
from typing import Any

from thornback.deployments.replies import Answer, Reply


async def streamed(answer: Answer) -> bytes:
    """The bytes of a response that had a notification before its answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    reply = Reply(send)
    reply.notify("notifications/progress", {"progress": 1})

    async def work() -> Answer:
        return answer

    await reply.follow(asyncio.create_task(work()), asyncio.get_running_loop().create_future())
    await reply.finish(answer)
    return b"".join(message.get("body", b"") for message in sent)


def test_a_line_break_in_a_published_schema_does_not_end_an_event() -> None:
    stream = asyncio.run(streamed(Answer(200, b'{"schema":\n {"type":\r\n"object"}}')))
    events = stream.strip().split(b"\r\n\r\n")
    assert len(events) == 2
    assert events[1].splitlines()[1:] == [
        b'data: {"schema":',
        b'data:  {"type":',
        b'data: "object"}}',
    ]
