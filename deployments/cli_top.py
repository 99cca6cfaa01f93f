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
from thornback.deployments.cli_output import JsonOption, hint, print_table
from thornback.deployments.cli_target import NameOption, cluster_here

if TYPE_CHECKING:
    from thornback.deployments.cluster_file import ClusterFile
    from thornback.deployments.live_numbers import Snapshot

TOOL_COLUMNS = ("tool", "calls/s", "p50 ms", "p99 ms", "running", "queued", "errors/s")
POOL_COLUMNS = ("pool", "replicas", "states")
LEFT_COLUMNS = ("tool", "pool", "states")
END_TIMEOUT_S = 5.0
LEAST_TOOLS = 3
LINES_AROUND = 10
"""Of a terminal: headline, problems, heads of tables."""
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
        _drawing(cluster.name, as_json) as draw,
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
            yield _lines_of(process.stdout, said)
        finally:
            process.kill()
            process.wait(END_TIMEOUT_S)


def _lines_of(output: IO[str], said: IO[bytes]) -> Iterator[str]:
    yield from output
    said.seek(0)
    if last := said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]:
        hint(last)


@contextmanager
def _drawing(cluster: str, as_json: bool) -> Iterator[Draw]:
    if as_json:
        yield lambda snapshot: typer.echo(json.dumps(_plain(snapshot)))
    elif not sys.stdout.isatty():
        yield _print_plainly
    else:
        from rich.live import Live
        from rich.text import Text

        # On the other screen: what was on the terminal before is there again afterwards.
        with Live(Text(f"asking {cluster}"), screen=True, auto_refresh=False) as live:

            def draw(snapshot: Snapshot) -> None:
                live.update(picture(snapshot, live.console.height), refresh=True)

            yield draw


def _plain(snapshot: Snapshot) -> Any:
    import msgspec

    return msgspec.to_builtins(snapshot)


def _print_plainly(snapshot: Snapshot) -> None:
    typer.echo(headline(snapshot))
    print_table(TOOL_COLUMNS, tool_cells(snapshot))
    print_table(POOL_COLUMNS, pool_cells(snapshot))
    typer.echo("")


def picture(snapshot: Snapshot, height: int) -> Any:
    """What a terminal of so many lines shows: of many tools the busiest."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    room = max(LEAST_TOOLS, height - len(snapshot.pools) - LINES_AROUND)
    tables = []
    for columns, rows in (
        (TOOL_COLUMNS, tool_cells(snapshot)[:room]),
        (POOL_COLUMNS, pool_cells(snapshot)),
    ):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            justify: Any = "left" if column in LEFT_COLUMNS else "right"
            table.add_column(column, justify=justify)
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
