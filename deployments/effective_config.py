"""What a config comes to, as rows to show: every setting, its value, and where that comes from.

The rules of precedence are `cluster/settings.py`'s. A value that the file takes from the
environment or from another file (`${NAME}`, `${file:PATH}`) may be a secret and is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from thornback.cluster.catalog import ToolSpec
from thornback.cluster.config import ClusterConfig, PoolConfig, PrincipalConfig
from thornback.cluster.errors import ConfigError
from thornback.cluster.profiles import PROFILES
from thornback.cluster.settings import pool_settings, tool_settings
from thornback.cluster.telemetry_config import trace_variables
from thornback.cluster.validation import nearest
from thornback.deployments.modules_here import tools_here

HIDDEN = "(from outside the file)"
SET = "(set)"
"""What is shown of an environment variable that stands in the file: operators put keys there."""


class Row(NamedTuple):
    """One effective setting."""

    key: str
    """Dotted path in the file."""
    value: Any
    origin: str
    """`config` for what the file says itself, else the layer: `built-in`, `defaults`,
    `environment`, ..."""


def effective_config(path: Path, config: ClusterConfig, tool: str | None = None) -> list[Row]:
    """The settings of a config that was read from `path`, in the order of its reference.

    Args:
        tool: Only the settings of this tool and of its pool. Imports the config's tool modules.

    Raises:
        ConfigError: no module of the config declares `tool`.
    """
    rows = _rows_of_tool(config, tool) if tool is not None else _rows_of_all(config)
    hidden = _paths_from_outside(yaml.safe_load(path.read_text("utf-8")) or {})
    return [row._replace(value=HIDDEN) if _is_under(row.key, hidden) else row for row in rows]


def _rows_of_all(config: ClusterConfig) -> Iterator[Row]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name in ("base_dir", "environment"):
            continue
        if name == "pools":
            for pool, pool_config in value.items():
                yield from _rows_of_pool(config, pool, pool_config)
        elif name == "telemetry":
            yield from _rows_of_telemetry(config)
        elif hasattr(value, "model_fields_set"):
            if name != "defaults":
                preset = PROFILES[config.profile].gateway if name == "gateway" else {}
                for key in type(value).model_fields:
                    origin = _origin(key in value.model_fields_set, key in preset)
                    yield Row(f"{name}.{key}", _plain(getattr(value, key)), origin)
        elif value != field.default:
            plain = _without_hashes(value) if name == "principals" else _plain(value)
            yield Row(name, plain, _origin(name in config.model_fields_set))


def _rows_of_telemetry(config: ClusterConfig) -> Iterator[Row]:
    telemetry = config.telemetry
    said = "metrics" in telemetry.model_fields_set
    yield Row("telemetry.metrics", telemetry.metrics, _origin(said))
    traces = telemetry.traces
    if traces is None:
        is_traced = bool(trace_variables(None, config.environment))
        shown = Row("telemetry.traces", HIDDEN, "environment")
        yield shown if is_traced else Row("telemetry.traces", None, _origin(False))
        return
    yield Row("telemetry.traces.endpoint", traces.endpoint, _origin(True))
    for header in traces.headers:
        yield Row(f"telemetry.traces.headers.{header}", SET, _origin(True))
    said = "sample_ratio" in traces.model_fields_set
    yield Row("telemetry.traces.sample_ratio", traces.sample_ratio, _origin(said))


def _rows_of_pool(config: ClusterConfig, pool: str, pool_config: PoolConfig) -> Iterator[Row]:
    for key, setting in pool_settings(config, pool_config).items():
        origin = "config" if setting.origin == "pool" else setting.origin
        value = SET if ".env_vars." in f".{key}" else setting.value
        yield Row(f"pools.{pool}.{key}", value, origin)


def _rows_of_tool(config: ClusterConfig, tool: str) -> Iterator[Row]:
    declared = _declaration_of(config, tool)
    for key, setting in tool_settings(config, declared).items():
        origin = "config" if setting.origin == "tool" else setting.origin
        yield Row(f"tools.{tool}.{key}", setting.value, origin)
    if declared.pool:
        yield from _rows_of_pool(config, declared.pool, config.pools[declared.pool])


def _declaration_of(config: ClusterConfig, tool: str) -> ToolSpec:
    found = tools_here(config)
    for pool, one in found.tools:
        if one.name == tool:
            return msgspec.structs.replace(one, pool=pool)
    causes = "".join(
        f"\n{module} cannot be imported: {why}" for module, why in found.unseen.items()
    )
    causes += "".join(f"\n{line}" for line in found.broken)
    near = nearest(tool, (one.name for _, one in found.tools))
    hint = f"; did you mean {near}?" if near else ""
    raise ConfigError(f"no module of this config declares a tool called {tool}{hint}{causes}")


def _paths_from_outside(value: Any, path: str = "") -> set[str]:
    """Dotted paths of the strings under `value` that hold a reference."""
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {path} if isinstance(value, str) and "${" in value else set()
    return {p for key, item in pairs for p in _paths_from_outside(item, f"{path}.{key}".strip("."))}


def _is_under(key: str, hidden: set[str]) -> bool:
    """Whether a row shows something that came from outside, as a whole or in a part of it.

    A reference under `defaults` shows in the rows of pools, so the end of its path counts too.
    """
    return any(
        path == key
        or path.startswith(key + ".")
        or (path.startswith("defaults.") and f".{path.removeprefix('defaults.')}." in f".{key}.")
        for path in hidden
    )


def _without_hashes(principals: Mapping[str, PrincipalConfig]) -> dict[str, Any]:
    return {
        name: one.model_dump(exclude={"key_sha256"}, exclude_unset=True)
        for name, one in principals.items()
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _origin(said: bool, preset: bool = False) -> str:
    if said:
        return "config"
    return "profile" if preset else "built-in"
