"""`python -m thornback.deployments.top_feed STATE_DIR`: asks a cluster each second for `top`.

A process of its own, because Ray writes to its standard error what it likes and ends a driver whose
node is gone without a word; whoever draws on a terminal must not share that. One line of JSON for
each second on standard output: a `Snapshot`, or at the end `{"gone": why}`. Ends when nobody reads.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from thornback.cluster.config import GATEWAY_APP
from thornback.cluster.errors import LaunchError
from thornback.deployments.cluster_file import ClusterFile, read_cluster_file
from thornback.deployments.dashboard import Dashboard
from thornback.deployments.lean_serve import import_serve
from thornback.deployments.live_numbers import (
    GatewaySums,
    Gone,
    Snapshot,
    Window,
    pool_rows,
)
from thornback.deployments.ray_driver import join
from thornback.deployments.ray_process import answers, half_dead
from thornback.deployments.serve_config import GATEWAY_DEPLOYMENT

PERIOD_S = 1.0
TIMEOUT_S = 2.0
"""For gateways and dashboard to answer: `top` shows what there is."""
PROBLEM_CHARS = 200


def why_gone(cluster: ClusterFile) -> str | None:
    """Why there is nothing more to see of a cluster; None: it is there."""
    found = read_cluster_file(Path(cluster.state_dir))
    if found is None or found.pids != cluster.pids:
        return f"{cluster.name} was ended"
    return half_dead(cluster) or (
        None if answers(cluster.address) else f"nobody answers at {cluster.address} any more"
    )


class Feed:
    """Looks at a cluster again and again."""

    def __init__(self, cluster: ClusterFile) -> None:
        self._cluster = cluster
        self._window = Window()
        self._dashboard = Dashboard(cluster.dashboard_url, cluster.token, timeout_s=TIMEOUT_S)
        self._handle: Any = None
        """Of the gateways; None: it must be made."""

    def look(self) -> Snapshot:
        """What there is to see now."""
        problems: list[str] = []
        gateways = self._ask_gateways(problems)
        self._window.add(time.monotonic(), gateways)
        details: dict[str, Any] = {}
        try:
            details = self._dashboard.serve_details()
        except LaunchError as error:
            problems.append(str(error))
        return Snapshot(
            time=round(time.time(), 3),
            cluster=self._cluster.name,
            window_s=round(self._window.length_s, 2),
            gateways=len(gateways),
            tools=self._window.rows(),
            pools=pool_rows(details, self._cluster.namespace, GATEWAY_APP),
            problems=problems,
        )

    def _ask_gateways(self, problems: list[str]) -> list[GatewaySums]:
        try:
            if self._handle is None:
                application = f"{self._cluster.namespace}.{GATEWAY_APP}"
                serve = import_serve()
                self._handle = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, application)
            response = self._handle.broadcast("numbers")
            found = response.results(timeout_s=TIMEOUT_S, return_exceptions=True)
        except Exception as error:  # Ray and Serve raise what they like of what is not there
            self._handle = None
            problems.append(f"no gateway answers: {type(error).__name__}"[:PROBLEM_CHARS])
            return []
        answered = [answer for answer in found if isinstance(answer, bytes)]
        if not answered:
            problems.append("no gateway answers")
        elif len(answered) < len(found):
            problems.append(f"{len(found) - len(answered)} gateways do not answer")
        return [msgspec.msgpack.decode(answer, type=GatewaySums) for answer in answered]


def feed(cluster: ClusterFile) -> str:
    """Write a line each second; returns why it is over."""
    try:
        join(cluster)
    except LaunchError as error:
        return str(error)
    source = Feed(cluster)
    due = time.monotonic()
    while (gone := why_gone(cluster)) is None:
        _say(source.look())
        due = max(due + PERIOD_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return gone


def _say(what: Snapshot | Gone) -> None:
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Feed whoever started this."""
    cluster = read_cluster_file(Path(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):
        _say(Gone("it was ended" if cluster is None else feed(cluster)))
    # Leaving a Ray in order takes longer than anybody waits for, and longer still one that is gone.
    os._exit(0)


if __name__ == "__main__":
    main()
