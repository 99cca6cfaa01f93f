"""What a call says on its way from the tool's thread; the host's tests cover the rest of it."""

import asyncio
from collections.abc import Callable

from thornback.cluster.messages import WIRE_VERSION, Partial, Progress
from thornback.deployments.event_stream import EventStream


def test_a_burst_of_reports_calls_the_loop_once_and_its_last_is_read() -> None:
    calls: list[Callable[[], None]] = []

    async def burst() -> list[object]:
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe = calls.append  # type: ignore[method-assign,assignment]
        stream = EventStream(loop, lambda: None)
        for number in range(1000):
            stream(Progress(WIRE_VERSION, float(number)))
        return [*stream.take(), *stream.take()]

    assert asyncio.run(burst()) == [Progress(WIRE_VERSION, 999.0)]
    assert len(calls) == 1


def test_items_wait_for_their_reader_by_their_bytes_too() -> None:
    async def main() -> None:
        stream = EventStream(asyncio.get_running_loop(), lambda: None)
        for _ in range(2):  # what was read makes room for as much again
            stream(Partial(WIRE_VERSION, 0, b"x" * (1024 * 1024 - 1), ""))
            await stream.room()
            stream(Partial(WIRE_VERSION, 1, b"x", ""))
            waiting = asyncio.create_task(stream.room())
            await asyncio.sleep(0)
            assert not waiting.done()
            assert len(stream.take()) == 2
            await waiting

    asyncio.run(asyncio.wait_for(main(), 5))
