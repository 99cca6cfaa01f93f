"""Why a pool has no replica: it asks for what no node has, its code is broken, or it is starting.

The decision is a pure function over facts; `ClusterFacts` collects them, at most every second or
two and in a thread, because Ray's answers block. `status` and waiting calls use the same words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from thornback.cluster.catalog import PoolEntry
from thornback.cluster.errors import PoolBroken, PoolInfeasible, shown
from thornback.deployments.clock import Clock

if TYPE_CHECKING:  # importing Ray Serve takes seconds; these facts are read where it is there
    from ray.serve.schema import ApplicationStatusOverview

MAX_CAUSE_CHARS = 300
MAX_AGE_S = 1.5
"""Seconds for which facts about the cluster are believed."""
READ_TIMEOUT_S = 5.0
"""Seconds after which a cluster that does not answer is taken for one of which nothing is known."""
GIB = 1024**3
TOLERANCE = 1e-6
"""Ray counts resources in steps of 1/10,000; sums of such numbers are not exact."""


class Node(msgspec.Struct, frozen=True):
    """One living node of the cluster."""

    total: dict[str, float]
    """What it has, busy or not: `CPU`, `GPU`, `memory` (bytes) and custom resources."""


class ApplicationFacts(msgspec.Struct, frozen=True):
    """What Serve says of a pool's application."""

    status: str
    """`DEPLOYING`, `RUNNING`, `DEPLOY_FAILED`, `UNHEALTHY`, ..."""
    message: str = ""
    replicas: dict[str, int] = msgspec.field(default_factory=dict)
    """Number of replicas by state: `STARTING`, `RUNNING`, ..."""
    failed: bool = False
    """Whether Serve gave up: it could not build the application, or no replica would start. A
    replica that ran and died is no such failure, although Serve calls both `UNHEALTHY`."""


class Facts(msgspec.Struct, frozen=True):
    """What a diagnosis is made from."""

    nodes: tuple[Node, ...] = ()
    """Empty where nothing is known of them."""
    free: dict[str, float] = {}
    """What no replica holds, summed over all nodes."""
    applications: dict[str, ApplicationFacts] = {}


class Starting(msgspec.Struct, frozen=True):
    """Nothing stands against the pool; a replica will be there."""

    why: str
    """In words, for one who waits."""
    busy: bool = False
    """Whether it has replicas, and none of them takes calls now."""


Diagnosis = PoolInfeasible | PoolBroken | Starting


def explain(pool: str, ask: Mapping[str, float], nodes: Sequence[Node]) -> PoolInfeasible | None:
    """What a replica of `pool` asks for and no single node has; None where some node has it all.

    Args:
        ask: What one replica asks of one node.
        nodes: Living nodes; of an empty list nothing is concluded.
    """
    if not nodes or any(_fits(ask, node) for node in nodes):
        return None
    most = {name: max(node.total.get(name, 0.0) for node in nodes) for name in ask}
    short = [name for name in sorted(ask) if ask[name] > most[name] + TOLERANCE]
    named = short or sorted(ask)
    asked, available = ({n: f[n] for n in named} for f in (ask, most))
    where = "its only node" if len(nodes) == 1 else f"any of its {len(nodes)} nodes"
    return PoolInfeasible(
        pool,
        _in_words(asked),
        f"at most {_in_words(available)} on {where}"
        if short
        else f"{_in_words(available)}, but not on one node",
    )


def diagnose(entry: PoolEntry, facts: Facts) -> Diagnosis:
    """Why a pool has no replica, as far as `facts` tell."""
    if entry.state == "broken":
        return PoolBroken(
            entry.name, entry.failed_module or "its modules", entry.cause or "unknown"
        )
    application = facts.applications.get(entry.application)
    if application is not None and (running := application.replicas.get("RUNNING")):
        return Starting(f"none of its {running} replicas takes calls now", busy=True)
    if infeasible := explain(entry.name, entry.ask, facts.nodes):
        return infeasible
    if application is None:
        return Starting("it is not deployed yet")
    if application.failed:
        return PoolBroken(entry.name, "its deployment", cause_in(application.message))
    if busy := _lacking(entry.ask, facts.free):
        return Starting(f"there is no room: a replica asks for {busy}")
    return Starting("a replica is starting")


def cause_in(message: str) -> str:
    """The line of one of Serve's messages that says what went wrong, without the traceback.

    Serve's text ends in the exception that it caught, as `module.Class: message`; what a URL
    carries before its `@` is left out.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    line = (errors or lines or ["Serve does not say why"])[-1]
    return shown(re.sub(r"//[^/@\s]+@", "//", line), MAX_CAUSE_CHARS)


class ClusterFacts:
    """The facts of this moment, or of a moment ago; read when somebody asks and not before."""

    def __init__(self, clock: Clock, read: Callable[[], Facts] | None = None) -> None:
        """
        Args:
            read: Collects the facts; may block. None: asks Ray and Ray Serve.
        """
        self._clock = clock
        self._read = read or read_facts
        self._facts = Facts()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def now(self) -> Facts:
        """Facts not older than `MAX_AGE_S`, or the last ones where the cluster does not answer."""
        if self._clock.monotonic() - self._read_at > MAX_AGE_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._refresh())
            # One reading serves all who wait, and goes on when one of them gives up.
            await asyncio.wait({self._reading}, timeout=READ_TIMEOUT_S)
        return self._facts

    async def _refresh(self) -> None:
        try:
            self._facts = await asyncio.to_thread(self._read)
        except Exception:  # Ray raises what it likes while its head is away
            return
        self._read_at = self._clock.monotonic()


def read_facts() -> Facts:
    """Ask Ray and Ray Serve. Blocks; raises whatever they do."""
    import ray
    from ray import serve

    # Ray's own types are missing on these two.
    all_nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    nodes = tuple(Node(node["Resources"]) for node in all_nodes if node["Alive"])
    applications = {n: _facts_of(a) for n, a in serve.status().applications.items()}
    return Facts(nodes, free, applications)


def _facts_of(application: ApplicationStatusOverview) -> ApplicationFacts:
    deployments = application.deployments.values()
    replicas: dict[str, int] = {}
    for deployment in deployments:
        for state, count in deployment.replica_states.items():
            replicas[str(state)] = replicas.get(str(state), 0) + count
    failed = any(
        d.status in ("UNHEALTHY", "DEPLOY_FAILED") and d.status_trigger == "REPLICA_STARTUP_FAILED"
        for d in deployments
    )
    unbuilt = application.status == "DEPLOY_FAILED" and not deployments
    messages = [application.message, *(deployment.message for deployment in deployments)]
    return ApplicationFacts(
        str(application.status.value),
        "\n".join(filter(None, messages)),
        replicas,
        failed or unbuilt,
    )


def _fits(ask: Mapping[str, float], node: Node) -> bool:
    return all(node.total.get(name, 0.0) + TOLERANCE >= amount for name, amount in ask.items())


def _lacking(ask: Mapping[str, float], free: Mapping[str, float]) -> str:
    """What is asked for and not free now, in words; empty where there is enough or none knows."""
    short = {name: n for name, n in ask.items() if free and n > free.get(name, 0.0) + TOLERANCE}
    if not short:
        return ""
    return f"{_in_words(short)}; {_in_words({name: free.get(name, 0.0) for name in short})} free"


def _in_words(resources: Mapping[str, float]) -> str:
    """`2 CPU, 16 GiB memory`; memory is bytes."""
    return ", ".join(
        f"{amount / GIB:.5g} GiB {name}" if name.endswith("memory") else f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
    )
