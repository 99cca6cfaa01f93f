"""The cluster beside a bare server on the same machine: ratios, which hold on any of them."""

import asyncio
import statistics
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

CALLS_AT_LEAST = 0.3
"""Of the calls per second of `MCPServer` in one process, at 16 connections. Far below what a quiet
machine shows (`python -m benchmarks echo`): to be missed it takes a fault, not a busy neighbour."""
RUNS = 3
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
    theirs = msgspec.structs.replace(QUICK, url=bare.url)
    ours = msgspec.structs.replace(
        QUICK,
        url=cluster.url,
        tools=("json_schema_2020_12_tool",),  # it answers with its arguments
        arguments='{"name":"@","email":"x"}',
    )
    rates: dict[str, list[float]] = {bare.url: [], cluster.url: []}
    for _, load in rounds([theirs, ours], RUNS):
        rates[load.url].append(figures_of(load).calls_per_s)
    base, reached = (statistics.median(found) for found in rates.values())
    assert reached >= CALLS_AT_LEAST * base, rates


def test_the_bare_server_counts_as_many_calls_as_it_answers(bare: Peer) -> None:
    before = bare.counted()
    figures = figures_of(msgspec.structs.replace(QUICK, url=bare.url))
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
