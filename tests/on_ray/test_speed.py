"""The cluster beside a bare server on the same machine: ratios, which hold on any of them."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.measuring import rounds
from benchmarks.servers import Peer, started_peer
from tests.conftest import RunningCluster
from thornback.deployments.load import Figures, Load, WrongAnswers
from thornback.deployments.load_python import run_python
from thornback.deployments.load_wrk import has_wrk, run_wrk

CALLS_AT_LEAST = 1.0
"""Of the calls per second of `MCPServer` in one process, at 64 connections, where a quiet machine
with two cores shows 1.8 to 2.6 times as many (`python -m benchmarks echo`).

What else runs on a machine only ever takes calls from a run: the best run of a side is what came
nearest to a quiet machine. For the figure to be missed, a fault must slow each run of ours, or a
neighbour must be busy in each of them and leave one of the bare server's alone; the sides take
turns, hence a busy spell meets both.
"""
CALLS_AT_LEAST_WITHOUT_WRK = 0.3
"""A client in Python takes a core for itself, which the cluster's processes are short of."""
RUNS = 5
QUICK = Load(url="", connections=16, warm_up_s=0.4, seconds=1.0)


@pytest.fixture(scope="module")
def bare() -> Iterator[Peer]:
    """The benchmark's first peer, in this environment."""
    with started_peer("bare", Path(sys.executable)) as peer:
        yield peer


def figures_of(load: Load) -> Figures:
    return run_wrk(load) if has_wrk() else asyncio.run(run_python(load))


def test_calls_go_through_the_cluster_about_as_fast_as_before(
    cluster: RunningCluster, bare: Peer
) -> None:
    theirs = msgspec.structs.replace(QUICK, url=bare.url, connections=64)
    ours = msgspec.structs.replace(
        theirs,
        url=cluster.url,
        tools=("json_schema_2020_12_tool",),  # it answers with its arguments
        arguments='{"name":"@","email":"x"}',
    )
    rates: dict[str, list[float]] = {bare.url: [], cluster.url: []}
    for _, load in rounds([theirs, ours], RUNS):
        rates[load.url].append(figures_of(load).calls_per_s)
    base, reached = (max(found) for found in rates.values())
    least = CALLS_AT_LEAST if has_wrk() else CALLS_AT_LEAST_WITHOUT_WRK
    assert reached >= least * base, rates


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25", "2025-06-18"])
def test_the_bare_server_counts_as_many_calls_as_it_answers(bare: Peer, revision: str) -> None:
    before = bare.counted()
    figures = figures_of(msgspec.structs.replace(QUICK, url=bare.url, revision=revision))
    assert bare.counted() - before == figures.answered > 0


@pytest.mark.parametrize(
    "changes",
    [{"expected": "never said"}, {"tools": ("unknown",)}, {"padding_bytes": 1}],
    ids=["another text", "an error", "too short"],
)
def test_a_wrong_answer_spoils_a_run(bare: Peer, changes: dict[str, object]) -> None:
    quick = msgspec.structs.replace(QUICK, url=bare.url, warm_up_s=0, seconds=0.1)
    with pytest.raises(WrongAnswers):
        figures_of(msgspec.structs.replace(quick, **changes))
