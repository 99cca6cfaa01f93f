"""Cancellations that go to every gateway: all of them, and no more often than is good."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from thornback.cluster.principals import Principal
from thornback.deployments import cancellations
from thornback.deployments.cancellations import Cancellations
from thornback.deployments.running_calls import Key

SOMEBODY, ANOTHER = Principal("default", "somebody"), Principal("default", "another")


class Gateways:
    """Stands for all gateways: each question is held until a test lets it go."""

    def __init__(self, *, fails: int = 0) -> None:
        self.asked: list[Sequence[Key]] = []
        self.let_go = asyncio.Semaphore(0)
        self.begun = asyncio.Semaphore(0)
        self._fails = fails

    async def ask(self, keys: Sequence[Key]) -> None:
        self.asked.append(sorted(keys, key=str))
        self.begun.release()
        await self.let_go.acquire()
        if len(self.asked) <= self._fails:
            raise RuntimeError("a gateway went away")


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    return run


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


@in_a_loop
async def test_a_flood_of_cancellations_becomes_one_question_at_a_time() -> None:
    gateways = Gateways()
    passing = Cancellations(gateways.ask, no_pause)
    passing.pass_on(SOMEBODY, ("session", 0))
    await gateways.begun.acquire()
    for _ in range(3):
        for number in range(1, 5):
            passing.pass_on(SOMEBODY, ("session", number))
    gateways.let_go.release()
    await gateways.begun.acquire()
    assert gateways.asked == [[("session", 0)], [("session", n) for n in range(1, 5)]]


@in_a_loop
async def test_who_floods_leaves_out_its_own_cancellations_alone() -> None:
    gateways = Gateways()
    passing = Cancellations(gateways.ask, no_pause)
    for number in range(cancellations.MAX_WAITING + 10):
        passing.pass_on(SOMEBODY, ("session", number))
    passing.pass_on(ANOTHER, ("other", 1))
    await gateways.begun.acquire()
    assert len(gateways.asked[0]) == cancellations.MAX_WAITING + 1
    assert ("other", 1) in gateways.asked[0]


@in_a_loop
async def test_there_is_a_pause_between_two_questions() -> None:
    gateways, pauses = Gateways(), list[float]()
    over = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await over.wait()

    passing = Cancellations(gateways.ask, pause)
    gateways.let_go.release()
    passing.pass_on(SOMEBODY, ("session", 1))
    await gateways.begun.acquire()
    passing.pass_on(SOMEBODY, ("session", 2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (pauses, len(gateways.asked)) == ([cancellations.PAUSE_S], 1)
    over.set()
    await gateways.begun.acquire()
    assert gateways.asked[1] == [("session", 2)]


@in_a_loop
async def test_a_question_that_fails_does_not_end_the_asking() -> None:
    gateways = Gateways(fails=1)
    passing = Cancellations(gateways.ask, no_pause)
    for number in (1, 2):
        passing.pass_on(SOMEBODY, ("session", number))
        await gateways.begun.acquire()
        gateways.let_go.release()
    assert gateways.asked == [[("session", 1)], [("session", 2)]]
