"""Ray Serve's options for a deployment, under Serve's names: what a pool passes through.

Serve's own models accept misspelt keys in places and need Ray to be imported; these say no by name
and cost nothing. `tests/unit/cluster/test_serve_options.py` compares every field with Serve's.
Options that Serve has and a pool does not: `user_config` and `request_router_config` are the
cluster's own; `backpressure_config`, `deployment_actors` and `gang_scheduling_config` mean nothing
for a tool host.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from thornback.cluster.config_model import (
    NUMBER,
    ConfigModel,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    did_you_mean,
)

ENVIRONMENT_KEYS = frozenset(
    {"_nsight", "_rocprof_sys", "conda", "config", "container", "env_vars", "excludes",
     "image_uri", "java_jars", "pip", "py_executable", "py_modules", "uv",
     "worker_process_setup_hook", "working_dir"}
)  # fmt: skip
"""What a runtime environment of Ray may hold."""


def _environment(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what Ray would ignore, and what it or Serve would refuse once a cluster runs.

    Variables may be secrets, so that no value is repeated.
    """
    for key in value.keys() - ENVIRONMENT_KEYS:
        raise ValueError(f"{key} is unknown{did_you_mean(key, ENVIRONMENT_KEYS)}")
    variables = value.get("env_vars", {})
    if not isinstance(variables, dict):
        raise ValueError("env_vars is not a mapping")
    for name, text in variables.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"env_vars.{name} is not a string; put it in quotes")
    modules = value.get("py_modules", [])
    if not isinstance(modules, list):
        raise ValueError("py_modules is not a list")
    for key, place in [("working_dir", value.get("working_dir", "://")),
                       *(("py_modules", module) for module in modules)]:  # fmt: skip
        if not isinstance(place, str) or "://" not in place:
            raise ValueError(
                f"{key} is a path of one machine; Serve takes a URI that every node can reach, or "
                "local:// and a directory that is on every node"
            )
    return value


RuntimeEnvironment = Annotated[dict[str, Any], AfterValidator(_environment)]
"""Ray's runtime environment: `pip`, `env_vars`, `working_dir`, `py_modules`, ..."""


class AutoscalingOptions(ConfigModel):
    """Serve's `autoscaling_config`."""

    min_replicas: NonNegativeInt = 0
    """0: the pool scales to zero, and its first call waits for a replica."""
    initial_replicas: NonNegativeInt | None = None
    max_replicas: PositiveInt = 4
    target_ongoing_requests: PositiveFloat = 16
    """Calls running and queued for each replica that the policy aims at."""
    metrics_interval_s: PositiveFloat = 1
    look_back_period_s: PositiveFloat = 4
    upscaling_factor: PositiveFloat | None = None
    downscaling_factor: PositiveFloat | None = None
    upscale_delay_s: NonNegativeFloat = 1
    downscale_delay_s: NonNegativeFloat = 30
    downscale_to_zero_delay_s: NonNegativeFloat | None = None
    """None: as `downscale_delay_s`."""
    aggregation_function: Literal["mean", "max", "min"] = "mean"

    @model_validator(mode="after")
    def _in_order(self) -> AutoscalingOptions:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        initial = self.initial_replicas
        if initial is not None and not self.min_replicas <= initial <= self.max_replicas:
            raise ValueError(
                f"initial_replicas ({initial}) is not between min_replicas ({self.min_replicas}) "
                f"and max_replicas ({self.max_replicas})"
            )
        return self


_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
LabelName = Annotated[str, StringConstraints(pattern=rf"^([a-zA-Z0-9.-]{{1,253}}/)?{_LABEL}$")]
LabelWish = Annotated[
    str, StringConstraints(pattern=rf"^(!?(in)?\({_LABEL}(, ?{_LABEL})*\)|!?{_LABEL}|)$")
]
"""What a node's label must be: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
LabelSelector = dict[LabelName, LabelWish]


def _no_own_key(resources: dict[str, float]) -> dict[str, float]:
    for name, key in {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}.items():
        if name in resources:
            raise ValueError(f"{name} has a key of its own, ray_actor_options.{key}")
    return resources


class ActorOptions(ConfigModel):
    """Serve's `ray_actor_options`: what one replica asks of a node, and its environment."""

    num_cpus: NonNegativeFloat = 0.1
    """A share for placement, not a limit. Serve's default of 1 fills a laptop with two replicas."""
    num_gpus: NonNegativeFloat = 0
    memory: NonNegativeFloat | None = None
    """Bytes, for placement."""
    resources: Annotated[dict[str, NonNegativeFloat], AfterValidator(_no_own_key)] = {}
    accelerator_type: str | None = None
    label_selector: LabelSelector | None = None
    fallback_strategy: list[dict[Literal["label_selector"], LabelSelector]] | None = None
    runtime_env: RuntimeEnvironment = {}


class LoggingOptions(ConfigModel):
    """Serve's `logging_config`."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = False
    additional_log_standard_attrs: list[str] = []


def _not_none(value: int) -> int:
    if value == 0:
        raise ValueError("0 lets no call wait; -1 lets any number wait")
    return value


QueueLength = Annotated[int, Field(ge=-1), AfterValidator(_not_none), NUMBER]


class DeploymentOptions(ConfigModel):
    """Options of one Serve deployment; None leaves Serve's default."""

    num_replicas: PositiveInt | None = None
    """A fixed number; without it the pool autoscales."""
    autoscaling_config: AutoscalingOptions | None = None
    max_ongoing_requests: PositiveInt = 32
    """Calls that one replica runs at a time."""
    max_queued_requests: QueueLength = 1000
    """Calls that one gateway lets wait for the pool; one more is refused. -1: no limit."""
    ray_actor_options: ActorOptions = ActorOptions()
    placement_group_bundles: list[dict[str, NonNegativeFloat]] | None = None
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] | None = (
        None
    )
    placement_group_bundle_label_selector: list[LabelSelector] | None = None
    max_replicas_per_node: Annotated[int, Field(gt=0, le=100), NUMBER] | None = None
    graceful_shutdown_wait_loop_s: NonNegativeFloat = 0.2
    graceful_shutdown_timeout_s: NonNegativeFloat = 20
    health_check_period_s: PositiveFloat = 1
    """Seconds between health checks: how soon a dead replica is replaced."""
    health_check_timeout_s: PositiveFloat = 30
    """Seconds that a check may take; long, because a held GIL must not be taken for death."""
    rolling_update_percentage: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    max_surge_percent: Annotated[int, Field(ge=0, le=100), NUMBER] = 100
    """New replicas come up before old ones go: a change without a gap."""
    logging_config: LoggingOptions = LoggingOptions()

    @model_validator(mode="after")
    def _one_way_to_size(self) -> DeploymentOptions:
        if {"num_replicas", "autoscaling_config"} <= self.model_fields_set:
            raise ValueError("give num_replicas or autoscaling_config, not both")
        return self


def placement_fault(options: DeploymentOptions) -> str | None:
    """What Serve refuses of options that are each fine; asked when all layers are laid together.

    Some of it Serve refuses only when it builds the application, long after it took the document.
    """
    bundles, labels = options.placement_group_bundles, options.placement_group_bundle_label_selector
    if bundles is None:
        for key in ("placement_group_strategy", "placement_group_bundle_label_selector"):
            if getattr(options, key) is not None:
                return f"{key} needs placement_group_bundles"
        return None
    if options.max_replicas_per_node is not None:
        return "max_replicas_per_node and placement_group_bundles exclude each other"
    if labels is not None and len(labels) not in (1, len(bundles)):
        return "placement_group_bundle_label_selector has neither one selector nor one a bundle"
    if not bundles or not all(any(bundle.values()) for bundle in bundles):
        return "placement_group_bundles has none, or one that asks for nothing"
    actor = options.ray_actor_options
    for name, amount in {"CPU": actor.num_cpus, "GPU": actor.num_gpus, **actor.resources}.items():
        if bundles[0].get(name, 0) < amount:
            return (
                f"the first of placement_group_bundles, where a replica goes, has less {name} than "
                f"the {amount:g} that it asks for in ray_actor_options"
            )
    return None
