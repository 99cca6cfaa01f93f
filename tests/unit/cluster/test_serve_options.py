"""Every option that Serve has is one of ours under the same name, or is left out for a reason."""

import re

import pytest
from pydantic import BaseModel, ValidationError
from ray._private.label_utils import validate_label_selector
from ray.runtime_env import RuntimeEnv
from ray.serve._private.config import ReplicaConfig
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, LoggingConfig, RayActorOptionsSchema

from thornback.cluster.serve_options import (
    ENVIRONMENT_KEYS,
    ActorOptions,
    AutoscalingOptions,
    DeploymentOptions,
    LoggingOptions,
    placement_fault,
)

LEFT_OUT: dict[type[BaseModel], dict[str, str]] = {
    DeploymentSchema: {
        "name": "a pool has one deployment, and its name is the cluster's",
        "backpressure_config": "what a full pool answers is said in MCP, by the gateway",
        "user_config": "hosts learn live settings from the catalog",
        "request_router_config": "refused by Serve on the root deployment of an application",
        "deployment_actors": "a tool host needs none",
        "gang_scheduling_config": "tool hosts do not wait for each other",
    },
    AutoscalingConfig: {
        "policy": "the cluster's own",
        "smoothing_factor": "deprecated by Serve",
        "upscale_smoothing_factor": "deprecated by Serve",
        "downscale_smoothing_factor": "deprecated by Serve",
    },
    RayActorOptionsSchema: {},
    LoggingConfig: {},
}
PAIRS: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (DeploymentOptions, DeploymentSchema),
    (AutoscalingOptions, AutoscalingConfig),
    (ActorOptions, RayActorOptionsSchema),
    (LoggingOptions, LoggingConfig),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda model: model.__name__)
def test_serves_fields_are_ours_or_left_out_with_a_reason(
    ours: type[BaseModel], theirs: type[BaseModel]
) -> None:
    passed_through = set(ours.model_fields)
    assert passed_through | set(LEFT_OUT[theirs]) == set(theirs.model_fields)
    assert not passed_through & set(LEFT_OUT[theirs])


def test_our_defaults_are_options_that_serve_accepts() -> None:
    options = DeploymentOptions().model_dump(exclude_none=True)
    options["autoscaling_config"] = AutoscalingOptions().model_dump(exclude_none=True)
    accepted = DeploymentSchema.model_validate({"name": "ToolHost", **options})
    assert accepted.max_ongoing_requests == DeploymentOptions().max_ongoing_requests


@pytest.mark.parametrize(
    "options",
    [
        {"max_ongoing": 5},
        {"autoscaling_config": {"min_replica": 1}},
        {"ray_actor_options": {"num_cpu": 1}},
        {"num_replicas": 1, "autoscaling_config": {}},
        {"autoscaling_config": {"min_replicas": 5, "max_replicas": 2}},
        {"max_replicas_per_node": 101},
        {"max_queued_requests": 0},
        {"max_surge_percent": 101},
        {"ray_actor_options": {"resources": {"GPU": 1}}},
    ],
    ids=str,
)
def test_what_serve_would_swallow_or_refuse_late_is_refused_here(
    options: dict[str, object],
) -> None:
    with pytest.raises(ValidationError):
        DeploymentOptions.model_validate(options)


def test_an_environment_may_hold_what_ray_knows() -> None:
    rays_own = {"_inject_current_ray", "_ray_commit", "_ray_release"}
    assert RuntimeEnv.known_fields - rays_own == ENVIRONMENT_KEYS


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"env_var": {}}, "env_var is unknown; did you mean env_vars?"),
        ({"env_vars": {"THREADS": 2}}, "env_vars.THREADS is not a string; put it in quotes"),
        ({"env_vars": ["A=1"]}, "env_vars is not a mapping"),
        ({"working_dir": "/srv/tools"}, "working_dir is a path of one machine"),
        ({"py_modules": ["dist/mine.whl"]}, "py_modules is a path of one machine"),
        ({"py_modules": "s3://bucket/mine.zip"}, "py_modules is not a list"),
    ],
    ids=str,
)
def test_an_environment_that_ray_or_serve_would_refuse_is_refused_here(
    environment: dict[str, object], told: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        ActorOptions.model_validate({"runtime_env": environment})


def test_an_environment_of_uris_and_words_is_passed_on() -> None:
    environment = {
        "pip": ["x==1"],
        "env_vars": {"A": "1"},
        "working_dir": "local:///srv/tools",
        "py_modules": ["https://example.org/mine.whl"],
    }
    assert ActorOptions.model_validate({"runtime_env": environment}).runtime_env == environment


LABELS = [
    *(("zone", wish) for wish in ("a100", "!a100", "in(a, b)", "!in(a,b)", "", "(a)")),
    *(("zone", wish) for wish in ("-a", "a b", "in()", "in(a", "!!a")),
    *((name, "a") for name in ("ray.io/zone", "-a", "a b", "x/y/z", "")),
]


@pytest.mark.parametrize(("name", "wish"), LABELS)
def test_labels_are_asked_for_in_rays_words(name: str, wish: str) -> None:
    selector = {name: wish}
    try:
        ActorOptions.model_validate({"label_selector": selector})
    except ValidationError:
        accepted = False
    else:
        accepted = True
    assert accepted is (validate_label_selector(selector) is None)


@pytest.mark.parametrize(
    "options",
    [
        {"placement_group_bundles": [{"CPU": 1}], "max_replicas_per_node": 1},
        {"placement_group_bundle_label_selector": [{"zone": "a"}]},
        {
            "placement_group_bundles": [{"CPU": 1}] * 3,
            "placement_group_bundle_label_selector": [{"zone": "a"}] * 2,
        },
        {"placement_group_strategy": "PACK"},
        {"placement_group_bundles": []},
        {"placement_group_bundles": [{}]},
        {"placement_group_bundles": [{"CPU": 1}, {"CPU": 0}]},
        {"placement_group_bundles": [{"CPU": 0.05}]},
        {"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"num_gpus": 1}},
        {"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"resources": {"tape": 1}}},
        {"placement_group_bundles": [{"CPU": 1}]},
        {
            "placement_group_bundles": [{"CPU": 1}] * 2,
            "placement_group_bundle_label_selector": [{"zone": "a"}],
        },
        {
            "placement_group_bundles": [{"CPU": 1, "tape": 2}],
            "ray_actor_options": {"num_cpus": 1, "resources": {"tape": 2}},
        },
    ],
    ids=str,
)
def test_placement_that_serve_refuses_is_a_fault(options: dict[str, object]) -> None:
    asked = DeploymentOptions.model_validate(options)
    placement = {key: value for key, value in options.items() if key.startswith("placement_")}
    actor = asked.ray_actor_options.model_dump(exclude_none=True)
    try:
        DeploymentSchema.model_validate({"name": "ToolHost", **options})
        ReplicaConfig.create(object, ray_actor_options=actor, **placement)  # type: ignore[arg-type]
    except ValueError:
        refused = True
    else:
        refused = False
    assert (placement_fault(asked) is not None) is refused
