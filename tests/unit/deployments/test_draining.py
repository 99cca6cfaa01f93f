import asyncio

from thornback.deployments.draining import FRONT_TOLD_S, POLL_S, when_drained


def test_what_is_to_be_done_is_done_when_the_front_door_knows_of_the_drain() -> None:
    happened: list[object] = []
    answers = iter([False, False, True])

    async def sleep(pause_s: float) -> None:
        happened.append(pause_s)

    async def end_streams() -> None:
        happened.append("ended")

    asyncio.run(when_drained(end_streams, lambda: next(answers), sleep))
    assert happened == [POLL_S, POLL_S, FRONT_TOLD_S, "ended"]
