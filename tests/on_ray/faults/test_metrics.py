"""What Ray's metrics show of calls is what its clients counted."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections import Counter

import psutil

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import until

SAMPLE = re.compile(r"^ray_(thornback_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SHOWN_S = 40.0
"""Longest time until a call is shown: two exports, ours and Ray's."""
PLACES = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId", "NodeId"}
"""Labels that Ray adds."""
OURS = {"tool", "version", "outcome", "code", "cluster", "pool", "state", "le"}


def metrics(hurt: HurtCluster) -> list[tuple[str, dict[str, str], float]]:
    """Our samples on Ray's metrics endpoint, of every process."""
    with urllib.request.urlopen(f"http://{_exporter(hurt)}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return [
        (name, dict(LABEL.findall(labels)), float(value))
        for name, labels, value in SAMPLE.findall(text)
    ]


def _exporter(hurt: HurtCluster) -> str:
    """Where Ray's agent shows metrics, as the raylet is told that starts it."""
    (raylet,) = hurt.named("raylet")
    told = re.search(r"--metrics-export-port=(\d+)", " ".join(psutil.Process(raylet).cmdline()))
    assert told is not None
    return f"127.0.0.1:{told[1]}"


def total(hurt: HurtCluster, name: str, **wanted: str) -> float:
    """The sum of a metric over all processes."""
    return sum(
        value
        for sample, labels, value in metrics(hurt)
        if re.fullmatch(rf"{name}(_total)?", sample) and wanted.items() <= labels.items()
    )


async def call_all(hurt: HurtCluster) -> Counter[str]:
    """Calls of every outcome through both gateways; how many came to what."""
    asks = [("counted", {"word": f"metric-{n}"}) for n in range(20)]
    asks += [("counted_bug", {"secret": "hunter2"})] * 3
    asks += [("counted_together", {"word": f"w{n}"}) for n in range(16)]
    targets = hurt.gateways()
    answers = await asyncio.gather(
        *(targets[n % 2].ask(targets[n % 2].tool(*ask), 30) for n, ask in enumerate(asks))
    )
    return Counter(
        f"{tool} {'error' if answer.result['isError'] else 'ok'}"
        for (tool, _), answer in zip(asks, answers, strict=True)
    )


def test_the_metrics_count_what_the_clients_count(hurt: HurtCluster) -> None:
    counted = {
        f"{tool} {outcome}": {"tool": tool, "outcome": outcome}
        for tool, outcome in (
            ("counted", "ok"),
            ("counted_bug", "error"),
            ("counted_together", "ok"),
        )
    }
    came_to = asyncio.run(call_all(hurt))
    assert came_to == {"counted ok": 20, "counted_bug error": 3, "counted_together ok": 16}

    def are_shown() -> bool:
        return all(
            total(hurt, "thornback_calls", **labels) == came_to[key]
            for key, labels in counted.items()
        )

    asyncio.run(until(are_shown, SHOWN_S))
    assert total(hurt, "thornback_batch_size_count", tool="counted_together") == 16
    assert total(hurt, "thornback_batch_size_bucket", tool="counted_together", le="1") < 16
    shown = {
        (name, labels["cluster"], labels["pool"])
        for name, labels, _ in metrics(hurt)
        if "pool" in labels
    }
    assert {
        ("thornback_target_replicas", hurt.name, "batches"),
        ("thornback_replicas", hurt.name, "batches"),
    } <= shown
    assert total(hurt, "thornback_replicas", pool="batches", state="running") == 1
    assert total(hurt, "thornback_last_decision_seconds", pool="batches") > 1_700_000_000
    assert total(hurt, "thornback_errors", tool="counted_bug", code="tool.bug") == 3
    assert total(hurt, "thornback_total_seconds_count", tool="counted_bug", outcome="error") == 3
    for name, labels, _ in metrics(hurt):
        ours = {label for label in labels if not label.startswith("otel_")} - PLACES
        assert ours <= OURS, name
        told = " ".join(labels[label] for label in ours)
        assert not re.search(r"hunter2|metric-|\bann\b", told)
