from pathlib import Path
from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import Annotations, Batch, CallPolicy, ToolSpec
from thornback.cluster.config import ClusterConfig, ToolConfig, parse_config
from thornback.cluster.errors import ConfigError
from thornback.cluster.settings import (
    effective_pool,
    effective_tool,
    pool_settings,
    tool_settings,
)
from thornback.tools import tool
from thornback.tools.definition import tool_of


def config_of(**sections: Any) -> ClusterConfig:
    document = {"pools": {"p": {"tools": ["m"], **sections.pop("pool", {})}}, **sections}
    return parse_config(document, "test", Path("/nowhere"))


def settings_of(config: ClusterConfig) -> dict[str, tuple[Any, str]]:
    return {key: tuple(s) for key, s in pool_settings(config, config.pools["p"]).items()}


SPEC = ToolSpec(
    name="t", version="1.0.0", description="d", input_schema=msgspec.Raw(b"{}"), pool="p",
    call=CallPolicy(timeout_s=7), annotations=Annotations(read_only=True),
    stated=("timeout_s", "read_only"),
)  # fmt: skip


def test_a_value_comes_from_the_highest_layer_that_gives_it() -> None:
    config = config_of(
        defaults={"health_check_period_s": 2, "graceful_shutdown_timeout_s": 5},
        pool={"health_check_period_s": 3},
    )
    found = settings_of(config)
    assert found["health_check_period_s"] == (3, "pool")
    assert found["graceful_shutdown_timeout_s"] == (5, "defaults")
    assert found["max_ongoing_requests"] == (32, "built-in")


def test_nested_config_merges_key_by_key() -> None:
    config = config_of(
        defaults={"autoscaling_config": {"max_replicas": 8, "upscale_delay_s": 2},
                  "runtime_env": {"env_vars": {"A": "1", "B": "1"}}},
        pool={"autoscaling_config": {"max_replicas": 2}, "runtime_env": {"env_vars": {"B": "2"}}},
    )  # fmt: skip
    found = settings_of(config)
    assert found["autoscaling_config.max_replicas"] == (2, "pool")
    assert found["autoscaling_config.upscale_delay_s"] == (2, "defaults")
    assert found["autoscaling_config.min_replicas"] == (0, "built-in")
    assert effective_pool(config, "p", config.pools["p"]).runtime_env == {
        "env_vars": {"A": "1", "B": "2"}
    }


def test_resources_are_replaced_whole() -> None:
    config = config_of(
        defaults={"ray_actor_options": {"resources": {"fpga": 1}}},
        pool={"ray_actor_options": {"resources": {"tape": 1}, "num_cpus": 2}},
    )
    options = effective_pool(config, "p", config.pools["p"]).ray_actor_options
    assert (options.resources, options.num_cpus, options.num_gpus) == ({"tape": 1}, 2, 0)


@pytest.mark.parametrize(
    ("defaults", "pool", "fixed", "maximum"),
    [
        ({}, {}, None, 4),
        ({}, {"num_replicas": 3}, 3, None),
        ({"autoscaling_config": {"max_replicas": 9}}, {"num_replicas": 3}, 3, None),
        ({"num_replicas": 3}, {}, 3, None),
        ({"num_replicas": 3}, {"autoscaling_config": {"max_replicas": 9}}, None, 9),
    ],
)
def test_a_number_of_replicas_and_autoscaling_void_each_other(
    defaults: dict[str, Any], pool: dict[str, Any], fixed: int | None, maximum: int | None
) -> None:
    config = config_of(defaults=defaults, pool=pool)
    found = effective_pool(config, "p", config.pools["p"])
    assert found.num_replicas == fixed
    autoscaling = found.autoscaling_config
    assert (autoscaling.max_replicas if autoscaling else None) == maximum


def test_layers_that_do_not_fit_together_are_refused_by_path() -> None:
    config = config_of(
        defaults={"autoscaling_config": {"min_replicas": 3}},
        pool={"autoscaling_config": {"max_replicas": 2}},
    )
    with pytest.raises(ConfigError, match=r"pools\.p\.autoscaling_config.*min_replicas \(3\)"):
        effective_pool(config, "p", config.pools["p"])


def test_placement_is_judged_when_all_layers_are_laid_together() -> None:
    labels = {"placement_group_bundle_label_selector": [{"zone": "a"}]}
    bundles = {"placement_group_bundles": [{"CPU": 1}]}
    config = config_of(defaults=labels, pool=bundles)
    assert effective_pool(config, "p", config.pools["p"]).placement_group_bundles
    alone = config_of(defaults=labels)
    with pytest.raises(ConfigError, match=r"^pools\.p: .* needs placement_group_bundles$"):
        effective_pool(alone, "p", alone.pools["p"])


def test_the_operator_overrides_the_author_who_overrides_the_defaults() -> None:
    config = config_of(
        defaults={"timeout_s": 60, "max_attempts": 1}, tools={"t": {"read_only": False}}
    )
    found = tool_settings(config, SPEC)
    assert found["timeout_s"] == (7, "decorator")
    assert found["max_attempts"] == (1, "defaults")
    assert found["read_only"] == (False, "tool")
    assert found["visibility"] == ("listed", "built-in")


def read() -> str:
    """Read."""
    return ""


def read_too() -> str:
    """Read."""
    return ""


def test_a_decorator_that_gives_the_built_in_value_has_said_so() -> None:
    said = tool(timeout_s=30, visibility="listed")(read)
    silent = tool()(read_too)
    config = config_of(defaults={"timeout_s": 5}, tools={"asked": {"timeout_s": 4}})
    found = tool_settings(config, tool_of(said).spec("p"))
    assert found["timeout_s"] == (30, "decorator")
    assert found["visibility"] == ("listed", "decorator")
    assert effective_tool(config, tool_of(said).spec("p")).call.timeout_s == 30
    assert effective_tool(config, tool_of(silent).spec("p")).call.timeout_s == 5
    asked = tool(name="asked", timeout_s=30)(read)
    assert effective_tool(config, tool_of(asked).spec("p")).call.timeout_s == 4


def test_an_effective_tool_keeps_what_only_its_author_knows() -> None:
    config = config_of(tools={"t": {"timeout_s": 2, "tags": ["x"], "principals": ["a*"]}})
    found = effective_tool(config, SPEC)
    assert (found.call.timeout_s, found.tags, found.access.principals) == (2, ("x",), ("a*",))
    kept = ("name", "version", "description", "input_schema", "pool", "content_hash")
    assert [getattr(found, key) for key in kept] == [getattr(SPEC, key) for key in kept]


def test_a_tool_without_overrides_is_as_declared() -> None:
    assert effective_tool(config_of(), SPEC) == msgspec.structs.replace(SPEC, stated=())


EVERY_SETTING: dict[str, Any] = {
    "timeout_s": 2.5,
    "queue_timeout_s": 3.5,
    "max_attempts": 4,
    "max_result_bytes": 5000,
    "batch": {"max_batch_size": 8, "batch_wait_timeout_s": 0.25, "max_concurrent_batches": 2},
    "title": "T",
    "read_only": False,
    "destructive": True,
    "idempotent": True,
    "open_world": True,
    "owner": "data team",
    "tags": ["x"],
    "visibility": "unlisted",
    "principals": ["a*"],
}


def test_there_is_an_example_of_every_setting_of_a_tool() -> None:
    assert EVERY_SETTING.keys() == ToolConfig.model_fields.keys()


BATCH_TOOL = msgspec.structs.replace(SPEC, batch=Batch(batch_wait_timeout_s=0.5))


def test_batch_settings_merge_key_by_key_over_the_decorators() -> None:
    config = config_of(tools={"t": {"batch": {"max_batch_size": 8}}})
    found = tool_settings(config, BATCH_TOOL)
    assert found["batch.max_batch_size"] == (8, "tool")
    assert found["batch.batch_wait_timeout_s"] == (0.5, "decorator")
    assert found["batch.max_concurrent_batches"] == (1, "built-in")
    made = effective_tool(config, BATCH_TOOL)
    assert made.batch == Batch(max_batch_size=8, batch_wait_timeout_s=0.5)


def test_a_version_that_is_no_batch_tool_has_no_batch_settings() -> None:
    config = config_of(tools={"t": {"batch": {"max_batch_size": 8}}})
    assert not [key for key in tool_settings(config, SPEC) if key.startswith("batch")]
    assert effective_tool(config, SPEC).batch is None


@pytest.mark.parametrize(
    "batch",
    [{"max_batch_size": 0}, {"max_batch_size": 1025}, {"batch_wait_timeout_s": -1},
     {"batch_wait_timeout_s": 11}, {"max_concurrent_batches": 0}, {"max_batch_siz": 8}],
)  # fmt: skip
def test_a_batch_setting_out_of_its_range_is_refused_by_path(batch: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"tools\.t\.batch\.{next(iter(batch))}: "):
        config_of(tools={"t": {"batch": batch}})
    if "max_batch_siz" not in batch:
        with pytest.raises(ValueError, match="must be between"):
            Batch(**batch)


@pytest.mark.parametrize("key", EVERY_SETTING)
def test_every_setting_of_a_tool_reaches_the_catalog(key: str) -> None:
    made = effective_tool(config_of(tools={"t": {key: EVERY_SETTING[key]}}), BATCH_TOOL)
    said = msgspec.json.decode(msgspec.json.encode(made))
    parts = [said, *(said.get(part, {}) for part in ("annotations", "call", "access"))]
    assert [part[key] for part in parts if key in part] == [EVERY_SETTING[key]]


@pytest.mark.parametrize(
    "key", ["timeout_s", "queue_timeout_s", "max_attempts", "max_result_bytes"]
)
def test_what_the_defaults_say_of_calls_holds_for_every_tool(key: str) -> None:
    plain = msgspec.structs.replace(SPEC, call=CallPolicy(), stated=())
    made = effective_tool(config_of(defaults={key: EVERY_SETTING[key]}), plain)
    assert getattr(made.call, key) == EVERY_SETTING[key]
