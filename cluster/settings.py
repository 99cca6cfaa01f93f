"""What each setting of a pool or a tool comes to, and where that comes from.

Layers, lowest first: built-in, `defaults`, the tool's decorator, the pool, the tool. Mappings that
are themselves config (autoscaling, actor options, environments) merge key by key; everything else
is replaced whole. Nothing here reads a file or knows a running cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import ValidationError

from thornback.cluster.catalog import AccessPolicy, Annotations, CallPolicy, ToolSpec
from thornback.cluster.config import ClusterConfig, PoolConfig, misfits
from thornback.cluster.errors import ConfigError
from thornback.cluster.serve_options import AutoscalingOptions, ConfigModel

Origin = Literal["built-in", "defaults", "decorator", "pool", "tool", "file"]

_MERGED = ("autoscaling_config", "ray_actor_options", "logging_config", "backpressure_config",
           "runtime_env", "env_vars")  # fmt: skip
"""Keys whose mappings merge key by key, wherever they stand."""
_TOOL_DEFAULTS = ("timeout_s", "max_attempts", "max_result_bytes")
"""Keys of `defaults` that are about calls, not about pools."""
_SECRET = "(set)"
"""What is shown of an environment variable: operators put keys there."""
_ANNOTATIONS = Annotations.__struct_fields__


class Setting(NamedTuple):
    """One effective value."""

    value: Any
    origin: Origin


class EffectiveSetting(NamedTuple):
    """One effective value under its whole key, as `config show` prints it."""

    key: str
    value: Any
    origin: Origin


def effective_settings(
    config: ClusterConfig, tool: str | None = None, declared: ToolSpec | None = None
) -> list[EffectiveSetting]:
    """Every effective setting; secrets are left out.

    Args:
        config: A valid config.
        tool: Only what concerns this tool.
        declared: That tool as its decorator declares it, where somebody has looked; without it the
            decorator's layer is empty.
    """
    if tool is not None:
        spec = declared or msgspec.structs.replace(_PLAIN_TOOL, name=tool)
        return _rows(f"tools.{tool}", tool_settings(config, spec))
    rows: list[EffectiveSetting] = []
    for section in ("name", "state_dir", "ray", "gateway"):
        rows += _section(config, section)
    for name, principal in config.principals.items():
        shown = principal.model_dump(exclude={"key_sha256"})
        rows += [EffectiveSetting(f"principals.{name}.{k}", v, "file") for k, v in shown.items()]
    for name, pool in config.pools.items():
        rows += _rows(f"pools.{name}", pool_settings(config, pool))
    for name in config.tools:
        spec = msgspec.structs.replace(_PLAIN_TOOL, name=name)
        rows += _rows(f"tools.{name}", tool_settings(config, spec))
    return rows


def _section(config: ClusterConfig, name: str) -> list[EffectiveSetting]:
    """A part of the config that has no layers but the file and the built-in values."""
    value = getattr(config, name)
    if name == "state_dir":
        value = str(config.state_path)
    if not isinstance(value, ConfigModel):
        return [EffectiveSetting(name, value, _file_or_built_in(config, name))]
    return [
        EffectiveSetting(f"{name}.{key}", each, _file_or_built_in(value, key))
        for key, each in value.model_dump().items()
    ]


def _file_or_built_in(model: ConfigModel, key: str) -> Origin:
    return "file" if key in model.model_fields_set else "built-in"


def _rows(prefix: str, settings: Mapping[str, Setting]) -> list[EffectiveSetting]:
    return [
        EffectiveSetting(f"{prefix}.{key}", _SECRET if ".env_vars." in key else value, origin)
        for key, (value, origin) in settings.items()
    ]


def pool_settings(config: ClusterConfig, pool: PoolConfig) -> dict[str, Setting]:
    """Every setting of a pool by its dotted path, in the order of the config's reference."""
    defaults = config.defaults.model_dump(exclude_unset=True, exclude=set(_TOOL_DEFAULTS))
    chosen = pool.model_dump(exclude_unset=True)
    settings: dict[str, Setting] = {}
    other = "autoscaling_config" if _is_fixed(defaults, chosen) else "num_replicas"
    layers: list[tuple[Origin, dict[str, Any]]] = [
        ("built-in", _built_in_options()),
        ("defaults", {key: value for key, value in defaults.items() if value is not None}),
        ("pool", chosen),
    ]
    for origin, layer in layers:
        _overlay(settings, {key: layer[key] for key in layer if key != other}, origin)
    return settings


def _is_fixed(defaults: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether the pool has a fixed number of replicas.

    A number and autoscaling are two answers to one question: the higher layer that gives either
    decides, and what the lower one says of the other is void.
    """
    for layer in (chosen, defaults):
        if layer.get("num_replicas") is not None:
            return True
        if layer.get("autoscaling_config") is not None:
            return False
    return False


def effective_pool(config: ClusterConfig, name: str, pool: PoolConfig) -> PoolConfig:
    """A pool with the built-in values and `defaults` filled in.

    Raises:
        ConfigError: if two layers, each valid, do not fit together.
    """
    nested = _nested(pool_settings(config, pool))
    try:
        return PoolConfig.model_validate(nested)
    except ValidationError as error:
        lines = (f"pools.{name}.{line}" for line in misfits(error, PoolConfig))
        raise ConfigError("\n".join(lines)) from error


def tool_settings(config: ClusterConfig, declared: ToolSpec) -> dict[str, Setting]:
    """Every setting of a tool by name.

    Args:
        config: What the operator says.
        declared: The tool as its decorator declares it. What it leaves at the built-in value counts
            as built-in: a decorator that repeats it changes nothing.
    """
    settings: dict[str, Setting] = {}
    _overlay(settings, _declared(_PLAIN_TOOL), "built-in")
    defaults = config.defaults.model_dump(exclude_unset=True, include=set(_TOOL_DEFAULTS))
    _overlay(settings, {k: v for k, v in defaults.items() if v is not None}, "defaults")
    plain = _declared(_PLAIN_TOOL)
    own = {key: value for key, value in _declared(declared).items() if value != plain[key]}
    _overlay(settings, own, "decorator")
    chosen = config.tools.get(declared.name)
    if chosen is not None:
        overrides = chosen.model_dump(exclude_unset=True)
        _overlay(settings, {k: v for k, v in overrides.items() if v is not None}, "tool")
    return settings


def effective_tool(config: ClusterConfig, declared: ToolSpec) -> ToolSpec:
    """The tool as the catalog offers it: as declared, with the operator's decisions over it."""
    values = {key: setting.value for key, setting in tool_settings(config, declared).items()}
    return ToolSpec(
        name=declared.name,
        version=declared.version,
        description=declared.description,
        title=values["title"],
        signature=declared.signature,
        module=declared.module,
        input_schema=declared.input_schema,
        output_schema=declared.output_schema,
        annotations=Annotations(**{key: values[key] for key in _ANNOTATIONS}),
        access=AccessPolicy(tuple(values["principals"])),
        call=CallPolicy(
            timeout_s=values["timeout_s"],
            max_attempts=values["max_attempts"],
            max_result_bytes=values["max_result_bytes"],
        ),
        pool=declared.pool,
        owner=values["owner"],
        tags=tuple(values["tags"]),
        visibility=values["visibility"],
        lifecycle=declared.lifecycle,
        content_hash=declared.content_hash,
    )


_PLAIN_TOOL = ToolSpec(name="", version="", description="", input_schema=b"{}", pool="")  # type: ignore[arg-type]


def _declared(spec: ToolSpec) -> dict[str, Any]:
    """What of a tool an operator may decide otherwise, flat."""
    return {
        "title": spec.title,
        **{key: getattr(spec.annotations, key) for key in _ANNOTATIONS},
        "principals": list(spec.access.principals),
        "timeout_s": spec.call.timeout_s,
        "max_attempts": spec.call.max_attempts,
        "max_result_bytes": spec.call.max_result_bytes,
        "owner": spec.owner,
        "tags": list(spec.tags),
        "visibility": spec.visibility,
    }


def _built_in_options() -> dict[str, Any]:
    """Every option of a pool that names nothing but its tools: it autoscales."""
    options = PoolConfig(tools=["x"]).model_dump(exclude={"tools"})
    return {**options, "autoscaling_config": AutoscalingOptions().model_dump()}


def _overlay(settings: dict[str, Setting], layer: Mapping[str, Any], origin: Origin) -> None:
    """Lay a layer over `settings`: a merged mapping key by key, anything else whole."""
    for path, value in _flat(layer):
        within = path + "."
        for key in [key for key in settings if key.startswith(within)]:
            del settings[key]
        parent = path.rpartition(".")[0]
        settings.pop(parent, None)
        settings[path] = Setting(value, origin)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if key in _MERGED and isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif not (key in _MERGED and value == {}):
            yield prefix + key, value


def _nested(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The inverse of `_flat`. Only keys in `_MERGED` hold a dot's left side."""
    nested: dict[str, Any] = {}
    for path, setting in settings.items():
        level = nested
        parts = path.split(".")
        depth = 0
        while depth < len(parts) - 1 and parts[depth] in _MERGED:
            level = level.setdefault(parts[depth], {})
            depth += 1
        level[".".join(parts[depth:])] = setting.value
    return nested
