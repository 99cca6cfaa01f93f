"""`thornback logs`: what gateways and tool hosts of a cluster wrote, on whichever machine.

Why the modules of broken pools could not be imported belongs to it; that `up` keeps beside the
state.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError
from thornback.deployments.cli_output import EXIT_SAID_NO, JsonOption, hint
from thornback.deployments.cli_target import NameOption, cluster_here

if TYPE_CHECKING:
    from thornback.deployments.cluster_file import ClusterFile
    from thornback.deployments.log_files import Ask, Found
    from thornback.deployments.log_lines import LogLine
    from thornback.deployments.node_logs import Logs

DEFAULT_LINES = 20
_SERVE_NEWS = re.compile(r"INFO \d{4}-\d\d-\d\d \S+ thornback\.\S+ \S+ -- ")


class Line(NamedTuple):
    """One line, and where it stands."""

    pool: str
    node: str
    """Empty: this machine."""
    file: str
    text: str


class Wanted(NamedTuple):
    """What was asked for."""

    pool: str | None = None
    tool: str | None = None
    ids: tuple[str, ...] = ()
    """Of requests and errors."""

    def has(self, line: str) -> bool:
        """Whether a line is wanted, of a file of the right pool."""
        from thornback.deployments.log_lines import log_line

        if self.tool is None and not self.ids:
            return True
        said = log_line(line)
        if said is None:  # of nobody's call, but it may tell of an error
            return any(each.startswith("err_") and each in line for each in self.ids)
        if self.tool is not None and not said.is_of_tool(self.tool):
            return False
        return not self.ids or any(said.names(each) for each in self.ids)

    def ask(self, cluster: ClusterFile, tail: int | None) -> Ask:
        from thornback.deployments.log_files import Ask

        # As they stand in the files: `tool` of what it said, `name` of its calls.
        of_tool = tuple(f'"{key}":"{self.tool}"' for key in ("tool", "name") if self.tool)
        return Ask(cluster.namespace, self.pool, tail, self.ids or of_tool)


def logs(
    about: Annotated[
        str | None,
        typer.Argument(
            help="Only this tool or pool; gateway for the access log.",
            metavar="TOOL|POOL",
        ),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            "--request", "-r", metavar="ID", help="Only this request (X-Request-ID) or err_ id."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--lines",
            min=0,
            help=f"Lines of each file; default: {DEFAULT_LINES}, and all of a request.",
        ),
    ] = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what tools printed and logged, one line for each call, and why modules broke a pool.

    --request finds a call on every machine: its line in the access log, what its tool said, and the
    traceback behind the err_ id that its caller was told. Exits with 1 where there is no such line.

    Example: thornback logs --request err_4HJyq0VbNnTqSrs9Wm2cXw
    """
    from thornback.deployments.node_logs import logs_folder, logs_of

    cluster = cluster_here(name)
    folder = logs_folder(cluster)
    if folder is not None and not folder.is_dir():
        raise ClusterNotRunning(f"{cluster.name} has no logs here; is it up?")
    reports = _reports_of(cluster)
    lines = tail if tail is not None or request is not None else DEFAULT_LINES
    if request is None and lines != 0:
        # Before Ray is asked, which may be what is wrong.
        _show(_reported(reports, Wanted(pool=about)), as_json)
    with logs_of(cluster, hint) as found:
        search = Search(found, cluster, lines)
        wanted = search.wanted(about, request, reports, follow=follow)
        told = [] if request is None else _reported(reports, wanted)
        shown = _show([*told, *search.first(wanted)], as_json, wanted.ids)
        if request is not None and not shown and not follow:
            hint(f"thornback: no line about {request}: {search.searched(reports)}")
            raise typer.Exit(EXIT_SAID_NO)
        while follow:
            time.sleep(found.period_s)
            _show(search.later(wanted), as_json, wanted.ids)


class Search:
    """Looks into the logs of a cluster, once or again and again."""

    def __init__(self, logs: Logs, cluster: ClusterFile, tail: int | None) -> None:
        self._logs = logs
        self._cluster = cluster
        self._tail = tail
        self._found: dict[str, Found] = {}
        """The last answer of each node."""

    def wanted(
        self,
        about: str | None,
        request: str | None,
        reports: Mapping[str, Path],
        *,
        follow: bool = False,
    ) -> Wanted:
        """What the words of the command line mean.

        Args:
            follow: Whether a tool that nobody has called yet will do.

        Raises:
            ConfigError: if `about` is no pool, and no tool of that name was ever called.
        """
        wanted = Wanted(ids=() if request is None else (request,))
        if about is not None:
            try:
                wanted = self._of(about, wanted, reports)
            except ConfigError as error:
                if not follow:
                    raise
                hint(f"thornback: {error} so far")
                wanted = wanted._replace(tool=about)
        if request is not None and request.startswith("err_"):
            # The request behind an error has more to say than the error.
            lines = (line for line in self._look(wanted) if wanted.has(line.text))
            wanted = wanted._replace(ids=_with_requests(request, lines))
        return wanted

    def first(self, wanted: Wanted) -> list[Line]:
        """What there is. Of requests, from all machines in the order in which it was said."""
        lines = [line for line in self._look(wanted, self._tail) if wanted.has(line.text)]
        return _in_order(lines) if wanted.ids else lines

    def later(self, wanted: Wanted) -> list[Line]:
        """What has come since."""
        return [line for line in self._look(wanted, again=True) if wanted.has(line.text)]

    def searched(self, reports: Mapping[str, Path]) -> str:
        """What was looked into, in words."""
        files = [file for found in self._found.values() for file in found.files]
        pools = ", ".join(sorted({file.pool for file in files})) or "no pool"
        kept = f", and why {', '.join(reports)} broke" if reports else ""
        return (
            f"searched {len(files)} files of {pools} on {len(self._found)} "
            f"machine{'s' * (len(self._found) != 1)}{kept}"
        )

    def _of(self, about: str, wanted: Wanted, reports: Mapping[str, Path]) -> Wanted:
        pools = set(reports) | _pools_of(self._cluster)
        if about in pools:
            return wanted._replace(pool=about)
        lines = list(self._look(Wanted(tool=about)))
        pools |= {file.pool for found in self._found.values() for file in found.files}
        if about in pools:  # not any more
            return wanted._replace(pool=about)
        if not any(Wanted(tool=about).has(line.text) for line in lines):
            names = ", ".join(sorted(pools)) or "none yet"
            raise ConfigError(
                f"{self._cluster.name} has no pool {about}; there are {names}; and no call of a "
                "tool of that name is in its logs"
            )
        return wanted._replace(tool=about)

    def _look(
        self, wanted: Wanted, tail: int | None = None, *, again: bool = False
    ) -> Iterator[Line]:
        positions = None
        if again:
            positions = {node: found.positions for node, found in self._found.items()}
        found = self._logs.look(wanted.ask(self._cluster, tail), positions)
        # A node that is silent for a while goes on where it was.
        self._found = {**self._found, **found} if again else found
        for node, answer in found.items():
            for file in answer.files:
                for text in file.lines:
                    yield Line(file.pool, node, file.path, text)


def is_of_serve(line: str) -> bool:
    """Whether a line is Serve's own news of a replica that comes and goes."""
    return _SERVE_NEWS.match(line) is not None


def _reports_of(cluster: ClusterFile) -> dict[str, Path]:
    from thornback.deployments.import_reports import report_files

    return report_files(Path(cluster.state_dir))


def _pools_of(cluster: ClusterFile) -> set[str]:
    return {name.removeprefix(f"{cluster.namespace}.") for name in cluster.applications}


def _reported(reports: Mapping[str, Path], wanted: Wanted) -> list[Line]:
    """Why modules could not be imported; whole, because the end of a traceback says too little."""
    lines = []
    for pool, path in reports.items():
        text = path.read_text("utf-8")
        if wanted.pool not in (None, pool) or wanted.tool is not None:
            continue
        if not wanted.ids or any(each.startswith("err_") and each in text for each in wanted.ids):
            lines += [Line(pool, "", str(path), line) for line in text.splitlines()]
    return lines


def _with_requests(error_id: str, lines: Iterable[Line]) -> tuple[str, ...]:
    """The error, and the requests whose lines tell of it."""
    from thornback.deployments.log_lines import log_line

    said = filter(None, (log_line(line.text) for line in lines))
    return (error_id, *dict.fromkeys(each for line in said for each in line.all_request_ids))


def _in_order(lines: list[Line]) -> list[Line]:
    """By time; what has none stays behind the line that it follows."""
    from thornback.deployments.log_lines import log_line

    said: Iterable[LogLine | None] = (log_line(line.text) for line in lines)
    times, last = [], 0.0
    for line in said:
        last = line.time if line is not None else last
        times.append(last)
    order = sorted(range(len(lines)), key=times.__getitem__)
    return [lines[place] for place in order]


def _show(lines: Iterable[Line], as_json: bool, wanted_ids: tuple[str, ...] = ()) -> int:
    """Print lines; how many there were."""
    import json

    from thornback.deployments.log_lines import shown_lines

    count = 0
    for line in lines:
        count += 1
        if as_json:
            said = {"pool": line.pool, "node": line.node, "file": line.file, "line": line.text}
            typer.echo(json.dumps(said))
            continue
        for shown in shown_lines(line.text, wanted_ids=wanted_ids):
            typer.echo(f"{line.pool}  {shown}")
    return count
