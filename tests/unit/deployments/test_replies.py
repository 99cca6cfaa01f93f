"""What one POST is answered with: JSON in one piece, or a stream that ends with the answer."""

import asyncio
from typing import Any

import pytest

from thornback.deployments import replies
from thornback.deployments.http_edge import ClientGone
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


class Front:
    """The front end of one request: what it was sent, and a client that leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.written = asyncio.Event()
        self.left = asyncio.Event()
        self.asked = asyncio.Event()
        """Set when somebody looked whether the client is there."""

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.written.set()

    async def receive(self) -> dict[str, Any]:
        self.asked.set()
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def forever() -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


def test_work_that_is_soon_over_is_not_watched() -> None:
    async def scenario() -> None:
        front = Front()

        async def work() -> Answer:
            await asyncio.sleep(0)
            return Answer(200, b"{}")

        assert await Reply(front.send).during(work(), front.receive) == Answer(200, b"{}")
        assert not front.asked.is_set()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_work_that_says_nothing_is_watched_by_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "WATCH_AFTER_S", 0.0)

    async def scenario() -> None:
        front = Front()

        async def work() -> Answer:
            await front.asked.wait()
            # This one, that which looks for the client, and no third.
            assert len(asyncio.all_tasks()) == 2
            return Answer(200, b"{}")

        reply = Reply(front.send)
        async with asyncio.timeout(5):
            await reply.finish(await reply.during(work(), front.receive))
        assert front.body == b"{}"
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_work_that_is_silent_for_long_is_said_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "WATCH_AFTER_S", 0.0)

    async def scenario() -> None:
        front = Front()

        async def work() -> Answer:
            for _ in range(2):
                front.written.clear()
                await front.written.wait()
            return Answer(200, b"{}")

        reply = Reply(front.send, keep_alive_s=0.001)
        async with asyncio.timeout(5):
            await reply.finish(await reply.during(work(), front.receive))
        assert front.body.startswith(b": keep-alive\r\n\r\n: keep-alive\r\n\r\n")
        assert front.body.endswith(b"data: {}\r\n\r\n")

    asyncio.run(scenario())


def test_what_work_reports_is_written_while_it_goes_on() -> None:
    async def scenario() -> None:
        front = Front()
        reply = Reply(front.send)

        async def work() -> Answer:
            reply.notify("n", {"step": 1})
            await front.written.wait()
            reply.notify("n", {"step": 2})
            return Answer(200, b"{}")

        async with asyncio.timeout(5):
            await reply.finish(await reply.during(work(), front.receive))
        assert front.body.count(b"event: message") == 3
        assert front.body.index(b'"step":2') < front.body.index(b"data: {}")

    asyncio.run(scenario())


def test_work_ends_when_its_client_has_left() -> None:
    async def scenario() -> None:
        front = Front()
        front.left.set()
        async with asyncio.timeout(5):
            with pytest.raises(ClientGone):
                await Reply(front.send).during(forever(), front.receive)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_over", [True, False])
def test_work_ends_when_what_it_reports_cannot_be_written(is_over: bool) -> None:
    async def scenario() -> None:
        async def send(_: dict[str, Any]) -> None:
            raise BrokenPipeError

        reply = Reply(send)

        async def work() -> Answer:
            reply.notify("n", {})
            return Answer(200, b"{}") if is_over else await forever()

        async with asyncio.timeout(5):
            with pytest.raises(BrokenPipeError):
                await reply.during(work(), Front().receive)

    asyncio.run(scenario())


def test_a_request_that_is_cancelled_from_outside_stays_cancelled() -> None:
    async def scenario() -> None:
        front = Front()
        reply = Reply(front.send)

        async def work() -> Answer:
            reply.notify("n", {})
            return await forever()

        request = asyncio.create_task(reply.during(work(), front.receive))
        async with asyncio.timeout(5):
            await front.asked.wait()
            watching = asyncio.all_tasks() - {asyncio.current_task(), request}
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await asyncio.wait(watching)

    asyncio.run(scenario())
