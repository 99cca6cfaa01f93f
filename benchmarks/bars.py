"""What a workload must show, and whether a run of it did: pure.

Figures are compared within a run, because machines have good and bad days; what counts is the
median over the runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from benchmarks.measuring import Measured, all_figures


class NotMeasured(Exception):
    """The load or the server of a bar was left out."""


class Results:
    """The figures of every measurement, by load and server."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        self._figures: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        for one in measured:
            self._figures.setdefault((one.point, one.server), {})[one.run] = all_figures(one)

    def runs(self, figure: str, point: str, server: str) -> list[float]:
        """The figure of each run.

        Raises:
            NotMeasured: nothing was measured there.
        """
        return list(self._by_run(figure, point, server).values())

    def median(self, figure: str, point: str, server: str) -> float:
        """
        Raises:
            NotMeasured: as `runs`.
        """
        return statistics.median(self.runs(figure, point, server))

    def ratio(self, figure: str, over: tuple[str, str], under: tuple[str, str]) -> float:
        """The median of the ratios within each run.

        Args:
            over: Load and server of what is divided.
            under: Of what it is divided by.

        Raises:
            NotMeasured: they have no run in common.
        """
        return statistics.median(self._paired(figure, over, under, lambda a, b: a / b if b else 0))

    def difference(self, figure: str, first: tuple[str, str], second: tuple[str, str]) -> float:
        """The median of the differences within each run.

        Raises:
            NotMeasured: as `ratio`.
        """
        return statistics.median(self._paired(figure, first, second, lambda a, b: a - b))

    def _paired(
        self,
        figure: str,
        first: tuple[str, str],
        second: tuple[str, str],
        compared: Callable[[float, float], float],
    ) -> list[float]:
        ours, theirs = self._by_run(figure, *first), self._by_run(figure, *second)
        found = [compared(ours[run], theirs[run]) for run in ours if run in theirs]
        if not found:
            raise NotMeasured
        return found

    def _by_run(self, figure: str, point: str, server: str) -> dict[int, float]:
        runs = self._figures.get((point, server), {})
        found = {run: figures[figure] for run, figures in runs.items() if figure in figures}
        if not found:
            raise NotMeasured
        return found


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, and what it must be."""

    what: str
    """The figure in words."""
    figure: Callable[[Results], float]
    """Raises `NotMeasured` where it cannot be told."""
    least: float | None = None
    most: float | None = None
    """Neither of both: it is shown, and nothing is asked of it."""
    aim: float | None = None
    """What one would like."""
    unit: str = ""
    digits: int = 2


class Judged(msgspec.Struct, frozen=True):
    """A bar and what was measured."""

    what: str
    measured: float | None
    bar: str
    verdict: str
    """`met`, `NOT MET`, `-` for what has no bar, `not measured`."""
    said: str
    """The figure as it is written."""


def judged(bars: Sequence[Bar], measured: Iterable[Measured]) -> list[Judged]:
    """Every bar with its figure, in their order."""
    results = Results(measured)
    return [_judged(bar, results) for bar in bars]


def _judged(bar: Bar, results: Results) -> Judged:
    wanted = _wanted(bar)
    try:
        figure = bar.figure(results)
    except NotMeasured:
        return Judged(bar.what, None, wanted, "not measured", "")
    verdict = "-"
    if bar.least is not None or bar.most is not None:
        low = bar.least is not None and figure < bar.least
        high = bar.most is not None and figure > bar.most
        verdict = "NOT MET" if low or high else "met"
    return Judged(bar.what, figure, wanted, verdict, _number(figure, bar))


def _wanted(bar: Bar) -> str:
    parts = []
    if bar.least is not None:
        parts.append(f"at least {bar.least:g}{bar.unit}")
    if bar.most is not None:
        parts.append(f"at most {bar.most:g}{bar.unit}")
    if bar.aim is not None:
        parts.append(f"aim {bar.aim:g}{bar.unit}")
    return ", ".join(parts) or "none"


def _number(figure: float, bar: Bar) -> str:
    return f"{figure:,.{bar.digits}f}{bar.unit}"


def table(found: Sequence[Judged]) -> str:
    """A Markdown table of bars."""
    rows = [f"| {j.what} | {j.said} | {j.bar} | {j.verdict} |" for j in found]
    return "\n".join(["| what | measured | bar | |", "|---|---|---|---|", *rows])
