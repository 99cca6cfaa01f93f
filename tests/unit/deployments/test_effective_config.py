from pathlib import Path

import pytest

from thornback.cluster.config import load_config
from thornback.cluster.errors import ConfigError
from thornback.deployments.effective_config import HIDDEN, Row, effective_config

CONFIG = """
name: lab
gateway: {port: 9000}
principals: {ann: {key_sha256: abababababababababababababababababababababababababababababababab}}
defaults: {runtime_env: {env_vars: {TOKEN: "${LAB_TOKEN}", WORD: swordfish}}}
pools:
  text: {tools: [thornback.tools.text], num_replicas: 2}
tools:
  text_stats: {timeout_s: 7}
"""

BATCH_TOOL = """
from thornback.tools import Batch, tool

@tool(batch=Batch(max_batch_size=64, batch_wait_timeout_s=0.25))
def shout(text: list[str]) -> list[str]:
    \"\"\"Write in capitals.\"\"\"
    return [one.upper() for one in text]
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_TOKEN", "hunter2")
    file = tmp_path / "lab.yaml"
    file.write_text(CONFIG, "utf-8")
    return file


def rows(path: Path, tool: str | None = None) -> dict[str, Row]:
    return {row.key: row for row in effective_config(path, load_config(path), tool)}


def test_each_value_says_where_it_comes_from(path: Path) -> None:
    found = rows(path)
    assert found["gateway.port"] == Row("gateway.port", 9000, "config")
    assert found["gateway.host"] == Row("gateway.host", "127.0.0.1", "built-in")
    assert found["pools.text.num_replicas"] == Row("pools.text.num_replicas", 2, "config")
    assert found["pools.text.threads"].origin == "built-in"


def test_what_a_profile_sets_says_so(path: Path) -> None:
    path.write_text(f"profile: throughput\n{CONFIG}", "utf-8")
    found = rows(path)
    assert found["profile"] == Row("profile", "throughput", "config")
    assert found["gateway.num_replicas"].origin == "profile"
    assert found["gateway.port"].origin == "config"
    assert found["gateway.page_size"].origin == "built-in"
    assert found["pools.text.max_ongoing_requests"].origin == "profile"


def test_what_comes_from_outside_the_file_is_not_shown(path: Path) -> None:
    found = rows(path)
    assert "hunter2" not in str(found)
    assert found["pools.text.runtime_env.env_vars.TOKEN"].value == HIDDEN


def test_no_variable_and_no_key_is_shown(path: Path) -> None:
    found = rows(path)
    assert found["pools.text.runtime_env.env_vars.WORD"] == Row(
        "pools.text.runtime_env.env_vars.WORD", "(set)", "defaults"
    )
    assert "swordfish" not in str(found)
    assert "abab" not in str(found)
    assert "ann" in found["principals"].value


def test_what_the_decorator_says_is_a_layer_of_its_own(path: Path) -> None:
    found = rows(path, "text_stats")
    assert found["tools.text_stats.read_only"] == Row(
        "tools.text_stats.read_only", True, "decorator"
    )


def test_how_a_batch_tool_collects_calls_is_shown_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "batch_tool_of_this_test.py").write_text(BATCH_TOOL, "utf-8")
    file = tmp_path / "batch.yaml"
    file.write_text(
        "pools: {p: {tools: [batch_tool_of_this_test]}}\n"
        "tools: {shout: {batch: {max_batch_size: 4}}}\n",
        "utf-8",
    )
    found = rows(file, "shout")
    prefix = "tools.shout.batch."
    assert [row for row in found.values() if row.key.startswith(prefix)] == [
        Row(f"{prefix}max_batch_size", 4, "config"),
        Row(f"{prefix}batch_wait_timeout_s", 0.25, "decorator"),
        Row(f"{prefix}max_concurrent_batches", 1, "built-in"),
    ]


def test_a_tool_is_shown_with_its_pool(path: Path) -> None:
    found = rows(path, "text_stats")
    assert found["tools.text_stats.timeout_s"] == Row("tools.text_stats.timeout_s", 7, "config")
    assert "pools.text.num_replicas" in found
    assert "gateway.port" not in found


def test_a_tool_that_no_module_declares_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match="declares a tool called nope"):
        rows(path, "nope")
    with pytest.raises(ConfigError, match=r"called text_stat; did you mean text_stats\?$"):
        rows(path, "text_stat")


TRACED = """
name: lab
telemetry:
  traces: {endpoint: "http://127.0.0.1:4318/v1/traces", headers: {x-key: swordfish}}
pools: {text: {tools: [thornback.tools.text]}}
"""


def test_where_traces_go_is_shown_and_no_header(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(TRACED, "utf-8")
    found = rows(file)
    assert found["telemetry.metrics"] == Row("telemetry.metrics", True, "built-in")
    assert found["telemetry.traces.endpoint"].value == "http://127.0.0.1:4318/v1/traces"
    assert found["telemetry.traces.headers.x-key"].value == "(set)"
    assert found["telemetry.traces.sample_ratio"].origin == "built-in"
    assert "swordfish" not in str(found)


def test_traces_that_the_environment_asks_for_are_said_to_be_its(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(path)["telemetry.traces"] == Row("telemetry.traces", None, "built-in")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://hunter2:4318")
    assert rows(path)["telemetry.traces"] == Row("telemetry.traces", HIDDEN, "environment")
