"""The `thornback` command: what there is, and how a failure looks.

Commands live in the `cli_*` modules, which import what is heavy inside their functions: `--help`
and completion are asked for often and must not wait for Ray. Exit codes: 0 done, 1 the tool or the
cluster said no, 2 the command line or the config is wrong, 3 no cluster runs, 130 interrupted.
"""

from __future__ import annotations

from typing import Any

import typer
import typer.core

from thornback.cluster.errors import ThornbackError
from thornback.deployments.cli_bench import bench
from thornback.deployments.cli_call import call, tools
from thornback.deployments.cli_cluster import down, status, up
from thornback.deployments.cli_config import config, keys, validate
from thornback.deployments.cli_init import init
from thornback.deployments.cli_logs import logs
from thornback.deployments.cli_output import EXIT_INTERRUPTED, exit_code_of, hint
from thornback.deployments.cli_resources import prompts, resources
from thornback.deployments.cli_top import top


class Commands(typer.core.TyperGroup):
    """The commands; what one of them raises on purpose is a message and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ThornbackError as error:
            hint(f"thornback: {error}")
            raise typer.Exit(exit_code_of(error)) from error
        except KeyboardInterrupt:
            hint("thornback: interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: drawing it with Rich takes longer than everything else that `--help` does.
    rich_markup_mode=None,
    help="Thornback runs tools for AI agents on a Ray cluster and speaks MCP.",
    epilog="Exit codes: 0 done, 1 the tool or the cluster said no, 2 usage or config, "
    "3 no cluster runs.",
)
for command in (up, down, status, top, tools, call, validate, logs, init, bench):
    app.command()(command)
app.add_typer(resources, name="resources")
app.add_typer(prompts, name="prompts")
app.add_typer(keys, name="keys")
app.add_typer(config, name="config")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="thornback")
