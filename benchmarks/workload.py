"""`Workload`: what is asked, of which servers, under which config, and what it must show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from benchmarks.bars import Bar, Results
from benchmarks.measuring import Measured, Point, measure
from benchmarks.servers import Server

CLUSTER = "cluster"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark."""

    about: str
    config: Path
    """Of the cluster."""
    points: tuple[Point, ...]
    peers: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = MappingProxyType({CLUSTER: {}})
    """The cluster by name in tables, with the settings that lie over its config."""
    measure: Callable[[Server, Point, int], Measured] = measure
    bars: tuple[Bar, ...] = ()
    """What it must show."""
    seconds: float = 20.0
    runs: int = 3
    """Of each measurement, where nothing else is asked for."""


def times(what: str, point: str, over: str, **limits: Any) -> Bar:
    """Calls per second of the cluster over those of another server."""
    return Bar(
        what=f"{what}, calls/s: cluster over {over}",
        figure=lambda r: r.ratio("calls_per_s", (point, CLUSTER), (point, over)),
        unit=" times",
        **limits,
    )


def figure_of(what: str, figure: str, point: str, server: str = CLUSTER, **limits: Any) -> Bar:
    """The median of one figure."""
    return Bar(what=what, figure=lambda r: r.median(figure, point, server), **limits)


def ratio_of(
    what: str, figure: str, over: tuple[str, str], under: tuple[str, str], **limits: Any
) -> Bar:
    return Bar(what=what, figure=lambda r: r.ratio(figure, over, under), unit=" times", **limits)


def difference_of(
    what: str, figure: str, first: tuple[str, str], second: tuple[str, str], **limits: Any
) -> Bar:
    """The median of the differences of one figure within a run."""
    return Bar(what=what, figure=lambda r: r.difference(figure, first, second), **limits)


def clear_of(
    others: Sequence[str], what: str, figure: str, point: str, server: str, *, highest: bool
) -> Bar:
    """How far the worst run of one server lies from the best run of any of the others."""

    def gap(results: Results) -> float:
        sign = 1 if highest else -1
        own = min(sign * one for one in results.runs(figure, point, server))
        theirs = [sign * one for name in others for one in results.runs(figure, point, name)]
        return own - max(theirs)

    return Bar(what=what, figure=gap, least=0.0)
