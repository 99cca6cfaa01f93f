"""What each setting of a pool or a tool comes to, and where that comes from.

Layers, lowest first: built-in, the profile, `defaults`, the tool's decorator, the pool, the tool.
Mappings that are themselves config (autoscaling, actor options, environments) merge key by key;
everything else is replaced whole. Nothing here reads a file or knows a running cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import ValidationError

from thornback.cluster.catalog import AccessPolicy, Annotations, Batch, CallPolicy, ToolSpec
from thornback.cluster.config import ClusterConfig, PoolConfig
from thornback.cluster.config_model import misfits
from thornback.cluster.errors import ConfigError
from thornback.cluster.profiles import PROFILES
from thornback.cluster.serve_options import AutoscalingOptions, placement_fault

Origin = Literal["built-in", "profile", "defaults", "decorator", "pool", "tool"]

_MERGED = ("autoscaling_config", "ray_actor_options", "logging_config", "runtime_env",
           "env_vars", "batch")  # fmt: skip
"""Keys whose mappings merge key by key, wherever they stand."""
_TOOL_DEFAULTS = ("timeout_s", "queue_timeout_s", "max_attempts", "max_result_bytes")
"""Keys of `defaults` that are about calls, not about pools."""
_ANNOTATIONS = Annotations.__struct_fields__


class Setting(NamedTuple):
    """One effective value."""

    value: Any
    origin: Origin


def pool_settings(config: ClusterConfig, pool: PoolConfig) -> dict[str, Setting]:
    """Every setting of a pool by its dotted path, in the order of the config's reference."""
    defaults = config.defaults.model_dump(exclude_unset=True, exclude=set(_TOOL_DEFAULTS))
    chosen = pool.model_dump(exclude_unset=True)
    settings: dict[str, Setting] = {}
    other = "autoscaling_config" if _is_fixed(defaults, chosen) else "num_replicas"
    layers: list[tuple[Origin, dict[str, Any]]] = [
        ("built-in", _built_in_options()),
        ("profile", dict(PROFILES[config.profile].defaults)),
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
        effective = PoolConfig.model_validate(nested)
    except ValidationError as error:
        lines = (f"pools.{name}.{line}" for line in misfits(error, PoolConfig))
        raise ConfigError("\n".join(lines)) from error
    if fault := placement_fault(effective):
        raise ConfigError(f"pools.{name}: {fault}")
    return effective


def tool_settings(config: ClusterConfig, declared: ToolSpec) -> dict[str, Setting]:
    """Every setting of a tool by its dotted path; those of `batch` for batch tools alone.

    Args:
        config: What the operator says.
        declared: The tool as its decorator declares it.
    """
    settings: dict[str, Setting] = {}
    plain = _declared(_PLAIN_TOOL, None if declared.batch is None else Batch())
    _overlay(settings, plain, "built-in")
    defaults = config.defaults.model_dump(exclude_unset=True, include=set(_TOOL_DEFAULTS))
    _overlay(settings, {k: v for k, v in defaults.items() if v is not None}, "defaults")
    own = {
        key: value
        for key, value in _declared(declared, declared.batch).items()
        # What its author wrote of a batch is a whole: it stands beside no defaults of the config.
        if key in declared.stated or (key.startswith("batch.") and value != plain[key])
    }
    _overlay(settings, own, "decorator")
    chosen = config.tools.get(declared.name)
    if chosen is not None:
        overrides = dict(_flat(chosen.model_dump(exclude_unset=True)))
        # Of two versions one may be a batch tool and the other not.
        known = {k: v for k, v in overrides.items() if v is not None and k in plain}
        _overlay(settings, known, "tool")
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
            queue_timeout_s=values["queue_timeout_s"],
            max_attempts=values["max_attempts"],
            max_result_bytes=values["max_result_bytes"],
        ),
        batch=None if declared.batch is None else Batch(**_under("batch", values)),
        pool=declared.pool,
        owner=values["owner"],
        tags=tuple(values["tags"]),
        visibility=values["visibility"],
        lifecycle=declared.lifecycle,
        content_hash=declared.content_hash,
    )


_PLAIN_TOOL = ToolSpec(name="", version="", description="", input_schema=b"{}", pool="")  # type: ignore[arg-type]


def _declared(spec: ToolSpec, batch: Batch | None) -> dict[str, Any]:
    """What of a tool an operator may decide otherwise, by dotted path."""
    collected = {} if batch is None else msgspec.structs.asdict(batch)
    return {
        "title": spec.title,
        **{key: getattr(spec.annotations, key) for key in _ANNOTATIONS},
        "principals": list(spec.access.principals),
        "timeout_s": spec.call.timeout_s,
        "queue_timeout_s": spec.call.queue_timeout_s,
        "max_attempts": spec.call.max_attempts,
        "max_result_bytes": spec.call.max_result_bytes,
        **{f"batch.{key}": value for key, value in collected.items()},
        "owner": spec.owner,
        "tags": list(spec.tags),
        "visibility": spec.visibility,
    }


def _under(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under `key`, which is one of `_MERGED`."""
    within = key + "."
    return {k.removeprefix(within): v for k, v in values.items() if k.startswith(within)}


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
