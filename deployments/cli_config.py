"""`thornback validate`, `config` and `keys`: what concerns files and no running cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thornback.cluster.errors import ConfigError
from thornback.deployments.cli_output import EXIT_USAGE, JsonOption, hint, print_json, print_table

if TYPE_CHECKING:
    from thornback.cluster.config import ClusterConfig

ConfigArgument = Annotated[
    str, typer.Argument(help="A config file, or the name of a shipped one.", metavar="CONFIG")
]
DEFAULT_CONFIG = "local"

config = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show effective settings, or the file's schema.",
)
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make keys for callers.")


def config_path(name: str) -> Path:
    """The file that CONFIG names: a path, or a config that ships.

    Raises:
        ConfigError: there is neither, with the shipped names.
    """
    from importlib.resources import files

    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = Path(str(files("thornback.configs")))
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise ConfigError(f"{name}: no such file; shipped configs are {names}")


def read_config(name: str) -> ClusterConfig:
    """The validated config that CONFIG names.

    Raises:
        ConfigError: it cannot be found or read, or is not valid.
    """
    # Not at the top: it brings pydantic, which `thornback --help` can do without.
    from thornback.cluster.config import load_config

    return load_config(config_path(name))


def _check_whole(config: ClusterConfig) -> None:
    """Check what no key shows by itself: layers that do not fit together, files that are not there.

    Raises:
        ConfigError: with a line for everything that is wrong.
    """
    from thornback.cluster.settings import effective_pool
    from thornback.deployments.contents import config_entries

    checks: list[Callable[[], object]] = [
        partial(effective_pool, config, name, pool) for name, pool in config.pools.items()
    ]
    checks.append(partial(config_entries, config))
    wrong: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))


def _absent_datasets(config: ClusterConfig) -> list[str]:
    """A line for each dataset that has no file on this machine; the hosts' may have some."""
    from thornback.deployments.serve_config import datasets
    from thornback.tools.datasets import resolve

    lines = []
    for name, reference in datasets(config).items():
        try:
            here = any(path.is_file() for path in resolve(reference))
            why = "" if here else "no file on this machine has this path"
        except ValueError as error:
            why = str(error).removeprefix(f"{reference}: ")
        if why:
            lines.append(f"datasets.{name}: {config.datasets[name]}: {why}")
    return lines


def validate(
    config_name: ConfigArgument = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Check a config file: every problem with its path and the nearest valid key.

    Imports the tool modules, too: what `up` would call broken or refuse is a problem, except where
    a pool has packages of its own. Warns of what models will not read well. Exits with 2 where
    there is a problem; a warning is none.

    Example: thornback validate cluster.yaml
    """
    try:
        found = read_config(config_name)
        _check_whole(found)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"valid": False, "problems": str(error).splitlines(), "warnings": []})
        raise typer.Exit(EXIT_USAGE) from error
    from thornback.deployments.modules_here import tools_here, warnings_of

    here = tools_here(found)
    warnings = [*_absent_datasets(found), *warnings_of(found, here)]
    if as_json:
        print_json({"valid": not here.broken, "problems": here.broken, "warnings": warnings})
    else:
        for line in warnings:
            hint(f"warning: {line}")
    if here.broken and not as_json:
        raise ConfigError("\n".join(here.broken))
    if here.broken:
        raise typer.Exit(EXIT_USAGE)
    if not as_json:
        pools = len(found.pools) + len(found.modules)
        hint(f"{config_path(config_name)} is valid: cluster {found.name}, {pools} pools or modules")


@config.command("show")
def show(
    config_name: ConfigArgument = DEFAULT_CONFIG,
    tool: Annotated[str | None, typer.Argument(help="Only what concerns this tool.")] = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every effective setting of a config, defaults included; secrets are left out.

    Example: thornback config show local sql_query --origin
    """
    from thornback.deployments.effective_config import effective_config

    rows = effective_config(config_path(config_name), read_config(config_name), tool)
    if as_json and origin:
        print_json([row._asdict() for row in rows])
    elif as_json:
        print_json({row.key: row.value for row in rows})
    elif origin:
        print_table(
            ("setting", "value", "comes from"), [(r.key, _shown(r.value), r.origin) for r in rows]
        )
    else:
        print_table(("setting", "value"), [(row.key, _shown(row.value)) for row in rows])


@config.command("schema")
def schema() -> None:
    """Print the JSON Schema of config files, for editors.

    Example: thornback config schema > thornback.schema.json
    """
    from thornback.cluster.config import ClusterConfig

    document = ClusterConfig.model_json_schema()
    # The directory of the file: set by the loader, refused in a file.
    del document["properties"]["base_dir"], document["properties"]["environment"]
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **document})


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the caller, as it will stand in logs.")],
    tools: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of tool names this caller may use; again for more."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a caller: prints the key once, and the lines for the config.

    Example: thornback keys new research-agents --tools 'sql_*'
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from thornback.cluster.config import Name
    from thornback.cluster.principals import ANONYMOUS, key_hash, new_key

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        message = "1 to 40 of a-z, 0-9 and -, with a letter or digit at both ends"
        raise typer.BadParameter(message, param_hint="NAME") from error
    if name == ANONYMOUS:
        message = f"{name} is what everybody is called where there are no principals"
        raise typer.BadParameter(message, param_hint="NAME")
    key = new_key()
    entry = {"key_sha256": key_hash(key), "tools": tools or ["*"]}
    if as_json:
        print_json({"name": name, "key": key, "config": {"principals": {name: entry}}})
        return
    hint("The key, shown this once; give it to the caller:")
    typer.echo(key)
    hint("\nFor the config, which holds its SHA-256 alone:")
    typer.echo(yaml.safe_dump({"principals": {name: entry}}, sort_keys=False).rstrip())


def _shown(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
