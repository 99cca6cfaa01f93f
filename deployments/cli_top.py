"""`thornback top`: what a cluster does at this moment, on a terminal, in a pipe or as JSON.

Draws what `top_feed` tells, a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from thornback.cluster.errors import ClusterNotRunning
from thornback.deployments.cli_output import JsonOption, print_table
from thornback.deployments.cli_target import NameOption, cluster_here

if TYPE_CHECKING:
    from thornback.deployments.cluster_file import ClusterFile
    from thornback.deployments.live_numbers import Snapshot

TOOL_COLUMNS = ("tool", "calls/s", "p50 ms", "p99 ms", "running", "queued", "errors/s")
POOL_COLUMNS = ("pool", "replicas", "states")
END_TIMEOUT_S = 5.0
LEAST_WINDOW_S = 0.9
"""Of what is shown once."""

Draw = Callable[["Snapshot"], None]


def top(
    once: Annotated[bool, typer.Option("--once", help="Show one second of it, and leave.")] = False,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show calls, times, errors and replicas as they are, each second, until Ctrl-C.

    Rates and times are over the last 5 seconds and all gateways, for each version of a tool that
    was called since its gateways began. With --json one line of JSON for each second.

    Example: thornback top --once --json
    """
    cluster = cluster_here(name)
    # Ctrl-C is how one leaves.
    with (
        contextlib.suppress(KeyboardInterrupt),
        _feed_of(cluster) as lines,
        _drawing(as_json) as (draw),
    ):
        for snapshot in _snapshots(lines, cluster.name):
            if once and snapshot.gateways and snapshot.window_s < LEAST_WINDOW_S:
                continue  # too little to compare with
            draw(snapshot)
            if once:
                return


def _snapshots(lines: Iterator[str], cluster: str) -> Iterator[Snapshot]:
    """
    Raises:
        ClusterNotRunning: when there is nothing more to come.
    """
    import msgspec

    from thornback.deployments.live_numbers import Gone, Snapshot

    for line in lines:
        if line.startswith('{"gone"'):
            raise ClusterNotRunning(msgspec.json.decode(line, type=Gone).gone)
        yield msgspec.json.decode(line, type=Snapshot)
    raise ClusterNotRunning(f"{cluster} does not answer any more")


@contextmanager
def _feed_of(cluster: ClusterFile) -> Iterator[Iterator[str]]:
    """The lines of `top_feed`, which ends with the block."""
    command = [sys.executable, "-m", "thornback.deployments.top_feed", cluster.state_dir]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield _lines_of(process.stdout)
        finally:
            process.kill()
            process.wait(END_TIMEOUT_S)


def _lines_of(output: IO[str]) -> Iterator[str]:
    yield from output


@contextmanager
def _drawing(as_json: bool) -> Iterator[Draw]:
    if as_json:
        yield lambda snapshot: typer.echo(json.dumps(_plain(snapshot)))
    elif not sys.stdout.isatty():
        yield _print_plainly
    else:
        from rich.live import Live

        # On the other screen: what was on the terminal before is there again afterwards.
        with Live(screen=True, auto_refresh=False) as live:
            yield lambda snapshot: live.update(picture(snapshot), refresh=True)


def _plain(snapshot: Snapshot) -> Any:
    import msgspec

    return msgspec.to_builtins(snapshot)


def _print_plainly(snapshot: Snapshot) -> None:
    typer.echo(headline(snapshot))
    print_table(TOOL_COLUMNS, tool_cells(snapshot))
    print_table(POOL_COLUMNS, pool_cells(snapshot))
    typer.echo("")


def picture(snapshot: Snapshot) -> Any:
    """What a terminal shows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    for columns, rows in (
        (TOOL_COLUMNS, tool_cells(snapshot)),
        (POOL_COLUMNS, pool_cells(snapshot)),
    ):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(
                column, justify="left" if column in ("tool", "pool", "states") else ("right")
            )
        for row in rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    return Group(Text(headline(snapshot)), *tables)


def headline(snapshot: Snapshot) -> str:
    """The cluster, the moment, and what is wrong."""
    moment = time.strftime("%H:%M:%S", time.localtime(snapshot.time))
    calls = sum(row.calls_per_s for row in snapshot.tools)
    said = f"{snapshot.cluster}  {moment}  {snapshot.gateways} gateways  {calls:.1f} calls/s"
    return "\n  ! ".join([said, *snapshot.problems])


def tool_cells(snapshot: Snapshot) -> list[tuple[str, ...]]:
    return [
        (
            f"{row.tool}@{row.version}",
            f"{row.calls_per_s:.1f}",
            _ms(row.p50_ms),
            _ms(row.p99_ms),
            str(row.running),
            str(row.queued),
            f"{row.errors_per_s:.1f}",
        )
        for row in snapshot.tools
    ]


def pool_cells(snapshot: Snapshot) -> list[tuple[str, ...]]:
    """Replicas that run, of those that shall; and those that do neither."""
    return [
        (
            row.pool,
            f"{row.running}/{row.target}",
            ", ".join(f"{n} {state}" for state, n in row.states.items() if state != "RUNNING"),
        )
        for row in snapshot.pools
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
