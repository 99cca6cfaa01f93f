"""What one POST is answered with: JSON in one piece, or a stream that ends with the answer."""

import asyncio
from typing import Any

import pytest

from thornback.deployments.replies import (
    MAX_WAITING_BYTES,
    ROOM_BYTES,
    ROOM_NOTIFICATIONS,
    Answer,
    Reply,
)


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


class SlowClient:
    """Takes one message each time that the test lets it."""

    def __init__(self) -> None:
        self.taken = 0
        self._may = asyncio.Semaphore(0)

    async def send(self, message: dict[str, Any]) -> None:
        await self._may.acquire()
        self.taken += 1

    def take(self, messages: int) -> None:
        for _ in range(messages):
            self._may.release()


async def settled() -> None:
    for _ in range(10 * ROOM_NOTIFICATIONS):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("notifications", "characters"), [(ROOM_NOTIFICATIONS + 2, 1), (3, ROOM_BYTES // 2)]
)
def test_there_is_room_again_when_the_client_has_read(notifications: int, characters: int) -> None:
    async def scenario() -> None:
        client, gone = SlowClient(), asyncio.get_running_loop().create_future()
        reply = Reply(client.send)
        await reply.room()
        work = asyncio.create_task(asyncio.sleep(60))
        following = asyncio.create_task(reply.follow(work, gone))
        for _ in range(notifications):
            reply.notify("n", {"message": "x" * characters})
        waiting = asyncio.create_task(reply.room())
        await settled()
        assert not waiting.done()
        client.take(notifications)  # the head of the response is one of them
        await asyncio.wait_for(waiting, 5)
        assert client.taken < notifications + 1
        work.cancel()
        following.cancel()

    asyncio.run(scenario())


def test_a_client_that_is_gone_keeps_nobody_waiting_for_room() -> None:
    async def scenario() -> None:
        reply = Reply(SlowClient().send)
        for _ in range(ROOM_NOTIFICATIONS + 1):
            reply.notify("n", {})
        waiting = asyncio.create_task(reply.room())
        await settled()
        assert not waiting.done()
        reply.abandon()
        await asyncio.wait_for(waiting, 5)
        for _ in range(ROOM_NOTIFICATIONS + 1):
            reply.notify("n", {})
        await asyncio.wait_for(reply.room(), 5)

    asyncio.run(scenario())
