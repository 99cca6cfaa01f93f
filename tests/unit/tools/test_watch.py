"""`cluster_watch` without a cluster: what is seen is sent when it changes."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from thornback.cluster.messages import Progress
from thornback.tools import ToolContext, watch
from thornback.tools.watch import ApplicationState, ClusterState, DeploymentState


def state(running: int) -> ClusterState:
    deployment = DeploymentState("text", "HEALTHY", {"RUNNING": running} if running else {})
    return ClusterState(1, [ApplicationState("thornback.local.text", "RUNNING", [deployment])], [])


def looking(*running: int) -> Callable[[], ClusterState]:
    """A look that sees so many replicas, one after the other, and then stays."""
    seen: Iterator[int] = iter(running)
    last = [0]

    def look() -> ClusterState:
        last[0] = next(seen, last[0])
        return state(last[0])

    return look


async def collected(
    ctx: ToolContext, look: Callable[[], ClusterState], for_s: float | None
) -> list[ClusterState]:
    return [seen async for seen in watch.watched(ctx, look, interval_s=0.001, for_s=for_s)]


def test_a_state_is_sent_once_until_it_changes() -> None:
    ctx = ToolContext(lambda event: None, remaining_s=1.3)
    seen = asyncio.run(collected(ctx, looking(0, 0, 1, 1, 1, 2, 0), for_s=0.2))
    assert seen == [state(0), state(1), state(2), state(0)]


def test_every_look_is_progress_with_a_line_to_read() -> None:
    events: list[object] = []
    ctx = ToolContext(events.append, remaining_s=30, progress_wanted=True)
    asyncio.run(collected(ctx, looking(2), for_s=0.1))
    reports = [event for event in events if isinstance(event, Progress)]
    assert len(reports) > 1
    assert {report.message for report in reports} == {"1 applications; replicas: 2 running"}


def test_a_watch_ends_before_its_calls_time_does() -> None:
    ctx = ToolContext(lambda event: None, remaining_s=1.05)
    asyncio.run(collected(ctx, looking(1), for_s=None))
    assert ctx.remaining_s > 0.5


def test_a_watch_ends_before_its_result_is_too_large() -> None:
    ctx = ToolContext(lambda event: None, remaining_s=30, max_result_bytes=2000)
    seen = asyncio.run(collected(ctx, looking(*range(1, 1000)), for_s=None))
    assert 1 < len(seen) < 20


def test_what_ray_says_becomes_data_without_addresses_and_tracebacks() -> None:
    deployment = SimpleNamespace(
        status=SimpleNamespace(value="UNHEALTHY"),
        message="Traceback: password=hunter2",
        replica_states={"RUNNING": 1, "STARTING": 0},
    )
    application = SimpleNamespace(
        status="DEPLOYING", message="at 10.0.0.7", deployments={"ToolHost": deployment}
    )
    seen = watch.state_of(
        2,
        SimpleNamespace(applications={"a": application}),
        {"CPU": 4.0, "memory": 100.0, "node:10.0.0.7": 1.0},
        {"CPU": 2.5},
    )
    assert seen.applications == [
        ApplicationState(
            "a", "DEPLOYING", [DeploymentState("ToolHost", "UNHEALTHY", {"RUNNING": 1})]
        )
    ]
    assert [(one.name, one.used, one.total) for one in seen.resources] == [
        ("CPU", 1.5, 4.0),
        ("memory", 100.0, 100.0),
    ]
    assert "hunter2" not in repr(seen)
    assert "10.0.0.7" not in repr(seen)
