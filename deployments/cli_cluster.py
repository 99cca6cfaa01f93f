"""`thornback up`, `down` and `status`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thornback.cluster.errors import ClusterNotRunning, ConfigError
from thornback.deployments.cli_config import (
    DEFAULT_CONFIG,
    ConfigArgument,
    config_path,
    read_config,
)
from thornback.deployments.cli_output import (
    EXIT_NOT_RUNNING,
    EXIT_SAID_NO,
    JsonOption,
    hint,
    print_json,
    print_table,
)
from thornback.deployments.cli_target import KEY_VARIABLE

if TYPE_CHECKING:
    from thornback.cluster.config import ClusterConfig
    from thornback.deployments.cluster_file import ClusterFile
    from thornback.deployments.launcher import Tell, Up
    from thornback.deployments.pool_news import PoolNews
    from thornback.deployments.status import PoolStatus, Status

TargetArgument = Annotated[
    str | None,
    typer.Argument(
        help="Name of a cluster, or the config it was started with; default: the one that runs.",
        metavar="NAME|CONFIG",
    ),
]


def up(
    config_name: ConfigArgument = DEFAULT_CONFIG,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the cluster is ready.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Join this Ray (HOST:PORT) instead of starting one.")
    ] = None,
) -> None:
    """Start a cluster with everything in CONFIG, or bring a running one to what CONFIG says.

    Stays in the foreground, with a line for each call and what tools print, until Ctrl-C ends the
    cluster; with --detach it goes on by itself until `thornback down`.

    Example: thornback up --detach
    """
    config = read_config(config_name)
    signal.signal(signal.SIGTERM, _interrupt)
    from thornback.deployments.launcher import bring_up

    with _telling() as tell:
        done = bring_up(config, address=address, config_path=config_path(config_name), tell=tell)
    _greet(config, done)
    if detach or not done.started:
        return
    signal.signal(signal.SIGTERM, _interrupt)  # Ray, as a driver, has put its own in place
    try:
        _follow(done.cluster)
    except KeyboardInterrupt:
        hint("\nending the cluster; its state stays")
    finally:
        if _is_still(done.cluster):
            _end(config, done.cluster)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _telling() -> Iterator[Tell]:
    """A way to tell each step, as a line with the seconds since the start; on a terminal with a
    spinner below that says what is waited for."""
    began = time.monotonic()
    if not sys.stderr.isatty():
        yield lambda news: hint(_news_line(news, time.monotonic() - began))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("") as spinner:

        def tell(news: str | PoolNews) -> None:
            console.print(Text(_news_line(news, time.monotonic() - began)))
            if isinstance(news, str):
                spinner.update(Text(news))

        yield tell


def _news_line(news: str | PoolNews, seconds: float) -> str:
    if isinstance(news, str):
        return f"{seconds:5.1f} s  {news}"
    mark = {"ready": "+", "idle": "+", "starting": "."}.get(news.state, "!")
    detail = f": {news.detail}" if news.detail else ""
    return f"{seconds:5.1f} s  {mark} pool {news.pool} is {news.state}{detail}"


def _greet(config: ClusterConfig, done: Up) -> None:
    """The URL, a client's configuration, and something to try."""
    server: dict[str, Any] = {"type": "http", "url": done.cluster.url}
    if not config.anonymous:
        server["headers"] = {"Authorization": "Bearer <key>"}
    client = {"mcpServers": {f"thornback-{config.name}": server}}
    typer.echo(f"{config.name} is ready: {done.cluster.url}\n")
    typer.echo("For an MCP client:")
    typer.echo(json.dumps(client, indent=2))
    typer.echo("\nTry:")
    key = "" if config.anonymous else f"{KEY_VARIABLE}=<key> "
    typer.echo(f"  {key}{done.cluster.example}")


def _follow(cluster: ClusterFile) -> None:
    """Show a line for each call and what tools print, until somebody ends the cluster.

    From its start: a client may have called, and a module may have printed, before this looks.
    """
    from thornback.deployments.cli_logs import is_of_serve
    from thornback.deployments.log_files import lines_of
    from thornback.deployments.log_lines import shown_lines

    folder = Path(cluster.temp_dir or "", "session_latest", "logs")
    hint("Ctrl-C ends the cluster.")
    for file, line in lines_of(
        folder, cluster.namespace, None, tail=None, follow=lambda: _is_still(cluster)
    ):
        if not is_of_serve(line):
            for shown in shown_lines(line):
                typer.echo(f"{file.pool}  {shown}")
    hint(f"{cluster.name} was ended from elsewhere")


def _is_still(cluster: ClusterFile) -> bool:
    """Whether nobody has ended this cluster; another may have been started in its place."""
    from thornback.deployments.cluster_file import read_cluster_file

    found = read_cluster_file(Path(cluster.state_dir))
    return found is not None and found.pids == cluster.pids


def _end(config: ClusterConfig, cluster: ClusterFile) -> None:
    """End what this `up` started."""
    from thornback.deployments.launcher import bring_down, uninterrupted

    # Somebody may have run `thornback down` meanwhile.
    with uninterrupted(), suppress(ClusterNotRunning):
        bring_down(config, cluster)


def down(target: TargetArgument = None) -> None:
    """Stop a cluster: its applications, its actors, and Ray if `up` started it. State stays.

    Example: thornback down
    """
    from thornback.deployments.launcher import bring_down

    cluster, config = _target(target)
    done = bring_down(config, cluster)
    if done.left:
        hint(f"Ray goes on, because it also runs {', '.join(done.left)}")
    hint(f"{config.name} is down; its state stays in {config.state_path}")


def status(
    target: Annotated[
        str | None,
        typer.Argument(
            help="Name or config of a cluster, or a pool of the one that runs; default: that one.",
            metavar="NAME|CONFIG|POOL",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a cluster does, or one pool of it and why it has the size it has.

    Exits with 0 healthy, 1 degraded, 3 not running.

    Example: thornback status --json
    """
    import msgspec

    from thornback.deployments.ray_process import answers, half_dead

    try:
        cluster, pool = _cluster_or_pool(target)
        if wrong := half_dead(cluster):
            raise ClusterNotRunning(
                f"{wrong}; `thornback down {cluster.name}` ends what is left, `thornback up` "
                "starts it anew"
            )
        if not answers(cluster.address):
            raise ClusterNotRunning(f"{cluster.name} does not run")
        # Not before: it brings Ray, which takes longer than all that could be told without it.
        from thornback.deployments.status import assess, gather

        found = assess(cluster, gather(cluster))
        if pool is not None and pool not in found.pools:
            raise ClusterNotRunning(
                f"neither a cluster nor a pool of {found.name} is called {pool}"
            )
    except ClusterNotRunning as error:
        if not as_json:
            raise
        print_json({"state": "not running", "problems": [str(error)]})
        raise typer.Exit(EXIT_NOT_RUNNING) from error
    if pool is not None:
        found = msgspec.structs.replace(found, pools={pool: found.pools[pool]})
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _show(found)
        if pool is not None:
            _show_decisions(found.pools[pool])
    if found.state == "degraded":
        raise typer.Exit(EXIT_SAID_NO)


def _show(found: Status) -> None:
    typer.echo(f"{found.name} is {found.state}: {found.url}")
    for problem in found.problems:
        typer.echo(f"  ! {problem}")
    rows = [
        ("gateway", replica.state, "", f"pid {replica.pid}", replica.id)
        for replica in found.gateways
    ]
    for name, pool in found.pools.items():
        replicas = ", ".join(f"{count} {state}" for state, count in pool.replicas.items())
        pids = ", ".join(f"pid {r.pid}" for r in pool.replica_list if r.pid)
        tools = ", ".join(pool.tools or [f"({lost})" for lost in pool.lost_tools])
        rows.append((name, pool.state, replicas, pids, tools))
    print_table(("pool", "state", "replicas", "processes", "tools"), rows)
    if found.catalog is not None:
        catalog = found.catalog
        typer.echo(
            f"catalog {catalog.epoch}.{catalog.number} with {catalog.tools} tools, "
            f"store {catalog.store_id}, registry pid {found.registry_pid}"
        )
    if found.settings is not None and found.settings.missing:
        typer.echo("Faster with these in the environment of every node before Ray starts:")
        for line in found.settings.missing:
            typer.echo(f"  {line}")


def _show_decisions(pool: PoolStatus) -> None:
    if not pool.decisions:
        typer.echo("Its size has not been changed by its load.")
    for decision in pool.decisions:
        typer.echo(f"{decision.at}  {decision.text}")


def _cluster_or_pool(target: str | None) -> tuple[ClusterFile, str | None]:
    """The cluster that is meant, and the pool of it where the name is not a cluster's.

    Raises:
        ClusterNotRunning: if it can be neither.
    """
    from thornback.deployments.cli_target import cluster_here

    try:
        return _target(target)[0], None
    except ClusterNotRunning as error:
        if target is None or Path(target).suffix:
            raise
        with suppress(ClusterNotRunning):
            return cluster_here(None), target
        raise error from None


def _target(target: str | None) -> tuple[ClusterFile, ClusterConfig]:
    """The cluster that a command is about, and its config.

    Raises:
        ClusterNotRunning: if there is none.
    """
    from thornback.deployments.cli_target import cluster_here
    from thornback.deployments.cluster_file import cluster_of, find_cluster

    named = cluster_here(None, "name one of") if target is None else find_cluster(target)
    if named is None and target is not None:
        try:
            config = read_config(target)
        except ConfigError as error:
            if Path(target).suffix:  # meant as a file
                raise
            raise ClusterNotRunning(f"no cluster called {target} runs here") from error
        named = cluster_of(config)
        if named is None:
            raise ClusterNotRunning(f"{config.name} does not run")
    assert named is not None
    return named, _config_of(named)


def _config_of(cluster: ClusterFile) -> ClusterConfig:
    """What must be known of a cluster to take it down, also when its file is gone or broken."""
    from thornback.cluster.config import parse_config

    if cluster.config_path is not None:
        try:
            found = read_config(cluster.config_path)
            if str(found.state_path) == cluster.state_dir and found.name == cluster.name:
                return found
        except ConfigError:
            pass
    document = {"name": cluster.name, "state_dir": cluster.state_dir, "modules": ["x"]}
    return parse_config(document, origin="cluster.json", base_dir=Path(cluster.state_dir))
