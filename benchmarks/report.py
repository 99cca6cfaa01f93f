"""What a benchmark leaves behind: a table, the raw results, a plot, and the config's difference."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.accounting import ROLES, is_on_the_way
from benchmarks.bars import Judged
from benchmarks.bars import table as bar_table
from benchmarks.measuring import Failure, Measured, Point, medians

COLUMNS = {
    "calls_per_s": ("calls/s", "{:.0f}"),
    "p50_ms": ("p50 ms", "{:.2f}"),
    "p99_ms": ("p99 ms", "{:.2f}"),
    "cpu_ms_per_call": ("CPU ms/call", "{:.3f}"),
    "beside_percent": ("beside %", "{:.1f}"),
    "unique_mb": ("USS MB", "{:.0f}"),
    "first_call_ms": ("first call ms", "{:.0f}"),
    "idle_mb": ("idle MB", "{:.0f}"),
    "replicas": ("replicas", "{:.1f}"),
    "busy_spread_percent": ("least busy below %", "{:.1f}"),
    "share_s": ("share after s", "{:.2f}"),
    "most_at_once": ("most at once", "{:.0f}"),
    "held": ("calls held", "{:.0f}"),
    "longest_wait_s": ("longest other s", "{:.2f}"),
    "ran_twice": ("ran twice", "{:.0f}"),
    "first_new_s": ("first new s", "{:.1f}"),
    "decisions_up": ("decisions up", "{:.0f}"),
    "changes_per_period": ("changes/period", "{:.1f}"),
    "times_ideal": ("times ideal", "{:.2f}"),
    "each_has": ("each has", "{:.2f}"),
    "off_target_percent": ("off target %", "{:.1f}"),
    "mean_batch": ("calls/batch", "{:.1f}"),
    "answered_of_60": ("of 60", "{:.0f}"),
    "grown_mb": ("grown MB", "{:.1f}"),
    "items_per_s": ("items/s", "{:.0f}"),
    "kb_per_connection": ("kB/connection", "{:.0f}"),
    "changes_per_s": ("changes/s", "{:.0f}"),
    "gateways": ("gateways", "{:.0f}"),
    "seen_p50_ms": ("seen p50 ms", "{:.0f}"),
    "seen_max_ms": ("seen max ms", "{:.0f}"),
}
"""Of each figure: head of its column, and how it is written."""
LEGEND = (
    "Medians of {runs} runs of {seconds:g} s after {warm_up_s:g} s; order of servers alternates. "
    "`times` is calls/s over those of {first}, `added` the p50 above its. CPU is user and system "
    "time of the processes that a call passes through; beside them, in percent of a core, "
    "controller, raylet, GCS and others. "
    "Every request was a fresh one, every answer was right, and the tools counted as many calls."
)


def text(
    points: Sequence[Point],
    measured: Sequence[Measured],
    bars: Sequence[Judged] = (),
    failures: Sequence[Failure] = (),
    *,
    runs: int,
    warm_up_s: float,
) -> str:
    """Everything that is printed at the end."""
    legend = LEGEND.format(
        runs=runs, seconds=points[0].load.seconds, warm_up_s=warm_up_s, first=measured[0].server
    )
    cpu = cpu_table(points, measured)
    parts = ["", table(points, measured), "", legend]
    if failures:
        parts += ["", failure_list(failures)]
    if cpu:
        parts += ["", "CPU microseconds a call, by role:", cpu]
    if bars:
        parts += ["", bar_table(bars)]
    return "\n".join(parts)


def table(points: Sequence[Point], measured: Sequence[Measured]) -> str:
    """A Markdown table, a row for each load and server; `times` compares with the load's first."""
    figured = medians(measured[:1]).keys() | {name for m in measured for name in m.extra}
    shown = [name for name in COLUMNS if name in figured]
    heads = ["load", "server", "times", "added ms", *(COLUMNS[name][0] for name in shown)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for point in points:
        by_name = {name: medians(runs) for name, runs in by_server(measured, point.label)}
        base = by_name.get(measured[0].server)  # a peer may have failed under this load alone
        for server, figures in by_name.items():
            compared = ["", ""]
            if base is not None:
                compared = [
                    f"{figures['calls_per_s'] / base['calls_per_s']:.2f}",
                    f"{figures['p50_ms'] - base['p50_ms']:+.2f}",
                ]
            cells = [_cell(name, figures) for name in shown]
            lines.append("| " + " | ".join([_labelled(point), server, *compared, *cells]) + " |")
    return "\n".join(lines)


def failure_list(failures: Sequence[Failure]) -> str:
    """What was not measured, a line for each load and server."""
    why = {(f.point, f.server): f.why for f in reversed(failures)}  # the first is told
    times = Counter((f.point, f.server) for f in failures)
    lines = [f"  {p}, {s}, {n} times: {why[p, s]}" for (p, s), n in times.items()]
    return "\n".join(["Failed, so that there are no figures of it:", *lines])


def _cell(name: str, figures: Mapping[str, float]) -> str:
    return COLUMNS[name][1].format(figures[name]) if name in figures else ""


def by_server(measured: Sequence[Measured], point: str) -> Iterator[tuple[str, list[Measured]]]:
    """The runs of one load, server by server, in the order of the first run."""
    of_point = [m for m in measured if m.point == point]
    for server in dict.fromkeys(m.server for m in of_point):
        yield server, [m for m in of_point if m.server == server]


def cpu_table(points: Sequence[Point], measured: Sequence[Measured]) -> str:
    """CPU time a call by role of process, in microseconds, of servers that have several roles.

    First the roles that a call passes through, then those beside its way, then what they are.
    """
    lines = []
    named: set[str] = set()
    for point in points:
        for server, runs in by_server(measured, point.label):
            calls = sum(m.calls for m in runs)
            roles = sum((Counter(m.cpu_s) for m in runs), Counter[str]())
            if len(roles) > 1 and calls:
                named |= roles.keys()
                way = {role: s for role, s in roles.items() if is_on_the_way(role, roles)}
                rest = {role: s for role, s in roles.items() if role not in way}
                line = f"{_labelled(point)}, {server}: {_parts(way, calls)}"
                lines.append(line + (f"; beside: {_parts(rest, calls)}" if rest else ""))
    return "\n".join([*lines, *(f"  {role}: {ROLES[role]}" for role in ROLES if role in named)])


def _parts(cpu_s: Mapping[str, float], calls: int) -> str:
    return ", ".join(f"{role} {s * 1e6 / calls:.0f}" for role, s in sorted(cpu_s.items()))


def _labelled(point: Point) -> str:
    ideal = point.ideal_per_s
    return point.label if ideal is None else f"{point.label} (ideal {ideal:g}/s)"


def config_difference(
    local: Mapping[str, Any], ours: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Every setting that two configs do not both have with one value; None: it is not written.

    What neither writes is the built-in value in both, so that this is the whole difference.
    """
    before, after = dict(_flat(local)), dict(_flat(ours))
    keys = [*before, *(key for key in after if key not in before)]
    return [(k, before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def difference_text(difference: Sequence[tuple[str, Any, Any]]) -> str:
    rows = [f"  {key}: {_said(before)} -> {_said(after)}" for key, before, after in difference]
    return "\n".join(["The cluster's config, as it differs from `local`:", *rows])


def _said(value: Any) -> str:
    return "(not written)" if value is None else str(value)


def write_results(
    directory: Path,
    name: str,
    text: str,
    points: Sequence[Point],
    measured: Sequence[Measured],
    bars: Sequence[Judged] = (),
    failures: Sequence[Failure] = (),
) -> None:
    """The table, every single measurement, and the plot, in one directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.md").write_text(text + "\n", "utf-8")
    raw = {
        "workload": name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.platform()}, Python {platform.python_version()}",
        "points": points,
        "measured": measured,
        "bars": bars,
        "failures": failures,
    }
    (directory / f"{name}.json").write_bytes(msgspec.json.encode(raw))
    plotted = plot_series if any(m.series for m in measured) else plot
    plotted(directory / f"{name}.svg", name, points, measured)


def plot_series(
    path: Path, name: str, points: Sequence[Point], measured: Sequence[Measured]
) -> None:
    """What changed with time: a panel for each load and server, of its first run."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as pyplot

    chosen = [
        next(m for m in measured if (m.point, m.server) == pair)
        for pair in dict.fromkeys((m.point, m.server) for m in measured)
    ]
    figure, panels = pyplot.subplots(
        len(chosen), figsize=(8, 1 + 2.5 * len(chosen)), layout="constrained", squeeze=False
    )
    for axes, m in zip(panels[:, 0], chosen, strict=True):
        for label, seen in m.series.items():
            axes.step(*zip(*seen, strict=True), where="post", label=label)
        axes.set_title(f"{name}: {m.point}, {m.server}")
        axes.set_xlabel("s")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


def plot(path: Path, name: str, points: Sequence[Point], measured: Sequence[Measured]) -> None:
    """Calls per second: a bar for each median, a dot for each run."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    servers = list(dict.fromkeys(m.server for m in measured))
    figure, axes = plt.subplots(figsize=(2 + 1.6 * len(points), 4), layout="constrained")
    width = 0.8 / len(servers)
    for number, point in enumerate(points):
        for server, runs in by_server(measured, point.label):
            index = servers.index(server)
            x = number + (index - (len(servers) - 1) / 2) * width
            axes.bar(x, medians(runs)["calls_per_s"], width * 0.9, color=f"C{index}")
            rates = [m.figures.calls_per_s for m in runs]
            axes.plot([x] * len(rates), rates, "k.", markersize=4)
    axes.set_xticks(range(len(points)), [_labelled(point) for point in points])
    axes.set_ylabel("calls/s")
    axes.set_title(name)
    handles = [Patch(color=f"C{i}") for i in range(len(servers))]
    axes.legend(handles, servers)
    figure.savefig(path)
    plt.close(figure)
