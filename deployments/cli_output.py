"""How the command line looks: JSON for programs, tables and plain text for people.

What was asked for goes to stdout; everything about it (progress, hints, errors) to stderr, so that
a pipe gets the answer alone. Rich is imported where it draws, not before: `--help` is asked for
more often than a table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError, ThornbackError

EXIT_SAID_NO = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_INTERRUPTED = 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def hint(text: str) -> None:
    """A word to the person at the terminal, on stderr."""
    typer.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; into a pipe, columns parted by tabs and nothing cut."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Cells are data: what looks like markup in a description is not ours to obey.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def exit_code_of(error: ThornbackError) -> int:
    """What a command that failed with `error` exits with."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_NOT_RUNNING if isinstance(error, ClusterNotRunning) else EXIT_SAID_NO


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write, inside, what the user named.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


class ProgressLine:
    """What a running call reports: a bar on a terminal, lines in a pipe, both on stderr."""

    def __init__(self, label: str, show_item: Callable[[str], None] | None = None) -> None:
        """`show_item` takes the partial items of a streaming call; None: they are not shown."""
        self._label = label
        self._show_item = show_item
        self._bar: Any = None
        self._last_message: str | None = None
        self.items_shown = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Take one notification of the call."""
        if method != "notifications/progress":
            return
        message = params.get("message")
        if is_partial(params):  # the result will hold it again
            if self._show_item is not None:
                self.items_shown += 1
                self._show_item(str(message or ""))
        elif sys.stderr.isatty():
            self._draw(params.get("progress", 0), params.get("total"), message)
        elif message and message != self._last_message:
            self._last_message = message
            hint(str(message))

    def _draw(self, progress: float, total: float | None, message: str | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        if self._bar is None:
            text = TextColumn("{task.description}", markup=False)
            self._bar = Progress(
                text,
                BarColumn(),
                TaskProgressColumn(),
                Elapsed(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task(self._label, total=None)
            self._bar.start()
        self._bar.update(0, completed=progress, total=total, description=message or self._label)


def is_partial(params: dict[str, Any]) -> bool:
    """Whether a progress notification carries an item that a generator tool yielded."""
    meta = params.get("_meta")
    return isinstance(meta, dict) and "io.thornback/partial" in meta
