import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from thornback.cluster.config import ClusterConfig, GatewayConfig, load_config, parse_config
from thornback.cluster.errors import ConfigError
from thornback.cluster.serve_options import (
    ActorOptions,
    AutoscalingOptions,
    DeploymentOptions,
    LoggingOptions,
)
from thornback.deployments.apply import contains
from thornback.deployments.gateway import Gateway
from thornback.deployments.serve_config import (
    PoolPlan,
    datasets,
    plan_modules,
    plan_pool,
    pool_name_for,
    render_document,
    render_gateway,
    render_pool,
)

CONFIGS = Path(__file__).parents[3] / "configs"


def config_of(directory: Path, **sections: Any) -> ClusterConfig:
    pool = {"tools": ["my_tools"], **sections.pop("pool", {})}
    return parse_config({"pools": {"p": pool}, **sections}, "test", directory)


def plan_of(config: ClusterConfig, version: str = "1") -> PoolPlan:
    return plan_pool(config, "p", config.pools["p"], version=version)


def deployment_of(config: ClusterConfig) -> dict[str, Any]:
    (deployment,) = render_pool(config, plan_of(config))["deployments"]
    return deployment


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_what_is_rendered_of_a_shipped_config_is_valid_to_serve(path: Path) -> None:
    config = load_config(path)
    plans = [plan_pool(config, name, pool, version="1") for name, pool in config.pools.items()]
    plans += plan_modules(config, "1")
    applications = [render_gateway(config), *(render_pool(config, plan) for plan in plans)]
    schema = ServeDeploySchema.model_validate(render_document(config, applications, []))
    assert [app.route_prefix for app in schema.applications] == ["/"] + [None] * len(plans)


def test_arguments_hold_names_and_modules_alone(tmp_path: Path) -> None:
    config = config_of(tmp_path, pool={"num_replicas": 2, "max_ongoing_requests": 7})
    assert render_pool(config, plan_of(config))["args"] == {
        "cluster": "local",
        "pool": "p",
        "modules": ["my_tools"],
    }
    deployment = deployment_of(config)
    assert deployment["num_replicas"] == 2


def test_where_traces_go_is_told_in_no_argument_and_no_variable(tmp_path: Path) -> None:
    traces = {"endpoint": "http://127.0.0.1:4318/v1/traces", "headers": {"x-key": "hunter2"}}
    config = config_of(tmp_path, telemetry={"traces": traces})
    for application in (render_pool(config, plan_of(config)), render_gateway(config)):
        (deployment,) = application["deployments"]
        # Ray writes arguments and runtime environments to its logs.
        told = deployment.pop("user_config")["traces"]
        assert json.loads(told)["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] == "x-key=hunter2"
        assert "hunter2" not in str(application)


def test_other_traces_bring_other_replicas(tmp_path: Path) -> None:
    def rendered(**traces: Any) -> list[dict[str, Any]]:
        config = config_of(tmp_path, telemetry={"traces": traces} if traces else {})
        return [render_gateway(config), render_pool(config, plan_of(config))]

    endpoint = "http://127.0.0.1:4318/v1/traces"
    with_key = {"endpoint": endpoint, "headers": {"x-key": "a"}}
    for before, after in (({}, with_key), (with_key, {"endpoint": endpoint}), (with_key, {})):
        for old, new in zip(rendered(**before), rendered(**after), strict=True):
            assert not contains(old, new)
            parts = [
                (
                    application["args"].get("telemetry"),
                    application["deployments"][0]["ray_actor_options"].get("runtime_env"),
                )
                for application in (old, new)
            ]
            assert parts[0] != parts[1]


def test_a_gateway_is_told_whether_to_count(tmp_path: Path) -> None:
    for metrics in (True, False):
        config = config_of(tmp_path, telemetry={"metrics": metrics})
        assert render_gateway(config)["args"]["telemetry"] == {"metrics": metrics, "traces": ""}


COUNTED_IN_CALLS = {"max_ongoing_requests", "max_queued_requests"}
EVERY_OPTION: dict[str, Any] = {
    "num_replicas": 3,
    "autoscaling_config": {
        "min_replicas": 1,
        "initial_replicas": 2,
        "max_replicas": 5,
        "target_ongoing_requests": 3,
        "metrics_interval_s": 2,
        "look_back_period_s": 6,
        "upscaling_factor": 0.5,
        "downscaling_factor": 0.6,
        "upscale_delay_s": 7,
        "downscale_delay_s": 8,
        "downscale_to_zero_delay_s": 9,
        "aggregation_function": "max",
    },
    "max_ongoing_requests": 11,
    "max_queued_requests": 12,
    "ray_actor_options": {
        "num_cpus": 0.3,
        "num_gpus": 0.5,
        "memory": 1000.0,
        "resources": {"tpu": 1.0},
        "accelerator_type": "T4",
        "label_selector": {"zone": "a"},
        "fallback_strategy": [{"label_selector": {"zone": "b"}}],
    },
    "placement_group_bundles": [{"CPU": 0.3}],
    "placement_group_strategy": "SPREAD",
    "placement_group_bundle_label_selector": [{"zone": "a"}],
    "max_replicas_per_node": 2,
    "graceful_shutdown_wait_loop_s": 0.7,
    "graceful_shutdown_timeout_s": 13,
    "health_check_period_s": 2,
    "health_check_timeout_s": 14,
    "rolling_update_percentage": 0.5,
    "max_surge_percent": 50,
    "logging_config": {
        "encoding": "JSON",
        "log_level": "DEBUG",
        "logs_dir": "/var/log/pool",
        "enable_access_log": True,
        "additional_log_standard_attrs": ["name"],
    },
}
"""Every option of a pool that is Serve's, none at its default."""


def with_company(option: str) -> dict[str, Any]:
    """The example of an option, with what it cannot be without."""
    of_bundles = ("placement_group_strategy", "placement_group_bundle_label_selector")
    needed = {key: ["placement_group_bundles"] for key in of_bundles}
    return {name: EVERY_OPTION[name] for name in (option, *needed.get(option, []))}


def test_there_is_an_example_of_every_option() -> None:
    assert EVERY_OPTION.keys() == DeploymentOptions.model_fields.keys()
    nested = {"autoscaling_config": AutoscalingOptions, "logging_config": LoggingOptions}
    for option, model in nested.items():
        assert EVERY_OPTION[option].keys() == model.model_fields.keys()
    assert {*EVERY_OPTION["ray_actor_options"], "runtime_env"} == ActorOptions.model_fields.keys()


@pytest.mark.parametrize("where", ["pool", "defaults"])
def test_calls_are_counted_by_the_host_and_the_gateway_and_not_by_serve(
    where: str, tmp_path: Path
) -> None:
    counts = {"max_ongoing_requests": 7, "max_queued_requests": 12}
    deployment = deployment_of(config_of(tmp_path, **{where: counts}))
    assert deployment["user_config"] == {"max_ongoing_requests": 7, "traces": ""}
    assert deployment["max_ongoing_requests"] >= 10_000
    assert deployment["max_queued_requests"] == -1


@pytest.mark.parametrize("option", sorted(EVERY_OPTION.keys() - COUNTED_IN_CALLS))
def test_every_option_reaches_serve_under_its_name(option: str, tmp_path: Path) -> None:
    value = EVERY_OPTION[option]
    rendered = deployment_of(config_of(tmp_path, pool=with_company(option)))[option]
    if option == "ray_actor_options":
        del rendered["runtime_env"]
    if option == "autoscaling_config":
        del rendered["policy"]
    assert rendered == value


def test_a_pool_scales_by_our_policy_without_arguments_that_would_restart_it(
    tmp_path: Path,
) -> None:
    policy = deployment_of(config_of(tmp_path))["autoscaling_config"]["policy"]
    assert policy == {"policy_function": "thornback.deployments.autoscaling:calls"}
    assert AutoscalingPolicy(**policy).get_policy().__name__ == "calls"
    assert "autoscaling_config" not in deployment_of(config_of(tmp_path, pool={"num_replicas": 2}))


def test_where_metrics_are_off_a_pool_scales_by_the_policy_that_shows_nothing(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path, telemetry={"metrics": False})
    policy = deployment_of(config)["autoscaling_config"]["policy"]
    assert AutoscalingPolicy(**policy).get_policy().__name__ == "calls_unshown"


@pytest.mark.parametrize("option", sorted(EVERY_OPTION.keys() - COUNTED_IN_CALLS))
def test_every_option_may_stand_in_the_defaults_of_all_pools(option: str, tmp_path: Path) -> None:
    value = EVERY_OPTION[option]
    rendered = deployment_of(config_of(tmp_path, defaults=with_company(option)))[option]
    if option == "ray_actor_options":
        del rendered["runtime_env"]
    if option == "autoscaling_config":
        del rendered["policy"]
    assert rendered == value


@pytest.mark.parametrize(
    ("option", "value"),
    [("threads", 3), ("import_timeout_s", 7.0), ("runtime_env", {"pip": ["a"]})],
)
def test_what_is_ours_of_a_pool_may_stand_there_too(
    option: str, value: object, tmp_path: Path
) -> None:
    effective = plan_of(config_of(tmp_path, defaults={option: value})).config
    assert getattr(effective, option) == value


def test_a_pool_scales_from_zero_unless_told_otherwise(tmp_path: Path) -> None:
    deployment = deployment_of(config_of(tmp_path))
    assert deployment["autoscaling_config"]["min_replicas"] == 0
    assert "num_replicas" not in deployment


def test_the_environment_is_that_of_the_actor_then_the_pools_then_ours(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        pool={
            "threads": 3,
            "ray_actor_options": {"runtime_env": {"pip": ["a"], "env_vars": {"A": "1", "B": "1"}}},
            "runtime_env": {"pip": ["b"], "env_vars": {"B": "2", "OMP_NUM_THREADS": "9"}},
        },
    )
    environment = plan_of(config).runtime_env
    variables = environment["env_vars"]
    assert environment["pip"] == ["b"]
    assert (variables["A"], variables["B"]) == ("1", "2")
    assert variables["POLARS_MAX_THREADS"] == variables["THORNBACK_THREADS"] == "3"
    assert variables["OMP_NUM_THREADS"] == "9", "the operator's word stands"
    assert variables["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "0"


def test_the_gateway_drains_and_keeps_thousands_of_streams(tmp_path: Path) -> None:
    (deployment,) = render_gateway(config_of(tmp_path))["deployments"]
    assert "runtime_env" not in deployment["ray_actor_options"]
    assert deployment["max_ongoing_requests"] >= 10_000
    logging_config = {"enable_access_log": False, "log_level": "WARNING"}
    assert deployment["logging_config"] == logging_config


def test_the_config_says_how_many_gateways_there_are_and_what_each_takes(tmp_path: Path) -> None:
    config = config_of(tmp_path, gateway={"num_replicas": 3, "num_cpus": 0.7})
    (deployment,) = render_gateway(config)["deployments"]
    assert deployment["num_replicas"] == 3
    assert deployment["ray_actor_options"]["num_cpus"] == 0.7


EVERY_OPTION_OF_THE_GATEWAY: dict[str, Any] = {
    "host": "127.0.0.2",
    "port": 8123,
    "num_replicas": 3,
    "num_cpus": 0.7,
    "max_body_bytes": 5000,
    "allow_anonymous": True,
    "allowed_hosts": ["mcp.example"],
    "allowed_origins": ["https://app.example"],
    "page_size": 7,
    "max_timeout_s": 12.5,
    "gather_s": 0.003,
}
FOR_SERVE = ("num_replicas", "num_cpus")


def test_there_is_an_example_of_every_option_of_the_gateway() -> None:
    assert EVERY_OPTION_OF_THE_GATEWAY.keys() == GatewayConfig.model_fields.keys()


def test_every_option_of_the_gateway_reaches_it_or_serve(tmp_path: Path) -> None:
    rendered = render_gateway(config_of(tmp_path, gateway=EVERY_OPTION_OF_THE_GATEWAY))
    told = rendered["args"]["gateway"]
    expected = EVERY_OPTION_OF_THE_GATEWAY
    assert told == {key: expected[key] for key in expected if key not in FOR_SERVE}
    bound = inspect.signature(Gateway).bind(**rendered["args"])
    assert bound.arguments["gateway"] == told


def test_the_front_door_listens_where_the_config_says(tmp_path: Path) -> None:
    config = config_of(tmp_path, gateway={"host": "127.0.0.2", "port": 8123})
    document = render_document(config, [], [])
    assert document["http_options"] == {"host": "127.0.0.2", "port": 8123}
    assert config.url == "http://127.0.0.2:8123/mcp"


def test_the_gateway_is_told_whether_there_are_callers(tmp_path: Path) -> None:
    callers = {"ann": {"key_sha256": "0" * 64}}
    assert render_gateway(config_of(tmp_path))["args"]["anonymous"] is True
    assert render_gateway(config_of(tmp_path, principals=callers))["args"]["anonymous"] is False


def test_changed_code_changes_the_environment_of_its_pool(tmp_path: Path) -> None:
    module = tmp_path / "my_tools.py"
    config = config_of(tmp_path)
    module.write_text("a = 1", "utf-8")
    first = plan_of(config).runtime_env
    assert plan_of(config).runtime_env == first
    module.write_text("a = 2", "utf-8")
    assert plan_of(config).runtime_env != first
    assert plan_of(config, version="2").runtime_env != plan_of(config).runtime_env


def test_a_module_beside_the_config_is_put_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text("", "utf-8")
    path = plan_of(config_of(tmp_path)).runtime_env["env_vars"]["PYTHONPATH"]
    assert path == f"{tmp_path}:${{PYTHONPATH}}"


def test_a_module_from_elsewhere_leaves_the_path_alone(tmp_path: Path) -> None:
    assert "PYTHONPATH" not in plan_of(config_of(tmp_path)).runtime_env["env_vars"]


def test_datasets_are_absolute_or_of_a_package(tmp_path: Path) -> None:
    config = config_of(tmp_path, datasets={"a": "data/*.csv", "b": "package:m/b.csv", "c": "/c"})
    assert datasets(config) == {"a": f"{tmp_path}/data/*.csv", "b": "package:m/b.csv", "c": "/c"}


def test_applications_of_others_travel_along_untouched(tmp_path: Path) -> None:
    other = {"name": "other", "import_path": "x:y", "anything": [1]}
    document = render_document(config_of(tmp_path), [{"name": "ours"}], [other])
    assert document["applications"] == [other, {"name": "ours"}]


def test_layers_that_do_not_fit_are_refused_before_anything_is_deployed(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        defaults={"autoscaling_config": {"min_replicas": 3}},
        pool={"autoscaling_config": {"max_replicas": 2}},
    )
    with pytest.raises(ConfigError):
        plan_of(config)


@pytest.mark.parametrize(
    ("tool", "version", "expected"),
    [
        ("sql_query", "1.0.0", "sql-query-1-0-0-"),
        ("add", "1.2.0", "add-1-2-0"),
        ("A" * 64, "1.0.0", "aaa"),
    ],
)
def test_pools_of_loose_tools_have_valid_names(tool: str, version: str, expected: str) -> None:
    name = pool_name_for(tool, version)
    assert name.startswith(expected)
    parse_config({"pools": {name: {"tools": ["m"]}}}, "test", Path("/nowhere"))


def test_tools_whose_names_differ_in_what_a_pool_may_not_hold_get_different_pools() -> None:
    names = {pool_name_for(tool, "1.0.0") for tool in ("a_b", "a-b", "A_b", "a_B")}
    assert len(names) == 4
