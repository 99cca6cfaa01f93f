"""What one POST is answered with: JSON in one piece, or a stream that ends with the answer."""

import asyncio
from typing import Any

from thornback.deployments.replies import MAX_WAITING_BYTES, Answer, Reply


async def streamed(answer: Answer, *messages: str) -> bytes:
    """The bytes of a response that had notifications before its answer."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    reply = Reply(send)
    for message in messages:
        reply.notify("notifications/progress", {"message": message})

    async def work() -> Answer:
        return answer

    await reply.follow(asyncio.create_task(work()), asyncio.get_running_loop().create_future())
    await reply.finish(answer)
    return b"".join(message.get("body", b"") for message in sent)


def test_a_line_break_in_a_published_schema_does_not_end_an_event() -> None:
    stream = asyncio.run(streamed(Answer(200, b'{"schema":\n {"type":\r\n"object"}}'), "first"))
    events = stream.strip().split(b"\r\n\r\n")
    assert len(events) == 2
    assert events[1].splitlines()[1:] == [
        b'data: {"schema":',
        b'data:  {"type":',
        b'data: "object"}}',
    ]


def test_a_slow_reader_costs_so_much_memory_and_no_more() -> None:
    third = "x" * (MAX_WAITING_BYTES // 3)
    stream = asyncio.run(streamed(Answer(200, b"{}"), "oldest", third, third, third, "newest"))
    assert stream.count(third.encode()) == 2
    assert b"oldest" not in stream
    assert stream.index(b"newest") < stream.index(b"data: {}")
