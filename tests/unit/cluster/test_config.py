from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thornback.cluster.config import (
    ClusterConfig,
    is_loopback,
    load_config,
    parse_config,
    read_yaml,
)
from thornback.cluster.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"
POOL = "pools: {p: {tools: [a.module]}}\n"


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "pools: {p: {tools: [x], max_ongoing: 3}}",
            "c.yaml: pools.p.max_ongoing: unknown key; did you mean max_ongoing_requests?",
        ),
        (
            POOL + "gateway: {prt: 1}",
            "c.yaml: gateway.prt: unknown key; did you mean port?",
        ),
        (
            POOL + "tools: {t: {timeouts: 1}}",
            "c.yaml: tools.t.timeouts: unknown key; did you mean timeout_s?",
        ),
        (
            "pools: {p: {tools: [x], num_cpu: 1}}",
            "c.yaml: pools.p.num_cpu: unknown key; did you mean ray_actor_options.num_cpus?",
        ),
        (
            "pools: {p: {tools: [x], timeout_s: 1}}",
            "c.yaml: pools.p.timeout_s: unknown key; it belongs under defaults or under tools.NAME",
        ),
        (
            POOL + "port: 1",
            "c.yaml: port: unknown key; did you mean gateway.port?",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_valid_one(
    tmp_path: Path, text: str, told: str
) -> None:
    assert refusal(tmp_path, text) == told


def test_every_misfit_is_told_at_once_and_no_value_is_repeated(tmp_path: Path) -> None:
    text = POOL + "gateway: {port: hunter2, num_replicas: hunter2}"
    told = refusal(tmp_path, text)
    assert [line.split(": ")[1] for line in told.splitlines()] == [
        "gateway.port",
        "gateway.num_replicas",
    ]
    assert "hunter2" not in told


SCHEMA = ClusterConfig.model_json_schema()


def documents_with_true(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every place of a config that takes a number, and a document that has True there."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for kind in schema.get("anyOf", []):
        yield from documents_with_true(kind, path)
    if schema.get("type") in ("integer", "number"):
        yield path, True
    chosen = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    inner = [*schema.get("properties", {}).items(), *(("a", one) for one in chosen)]
    for key, one in inner:
        if not isinstance(one, dict):
            continue
        for where, value in documents_with_true(one, f"{path}.{key}".strip(".")):
            yield where, {key: value}
    if "items" in schema:
        for where, value in documents_with_true(schema["items"], f"{path}.0"):
            yield where, [value]


TRUE_FOR_A_NUMBER = dict(documents_with_true(SCHEMA))


def test_the_places_that_take_a_number_are_found_at_every_depth() -> None:
    assert {
        "version",
        "gateway.port",
        "defaults.max_queued_requests",
        "pools.a.autoscaling_config.max_replicas",
        "pools.a.ray_actor_options.resources.a",
        "pools.a.placement_group_bundles.0.a",
        "tools.a.timeout_s",
    } <= TRUE_FOR_A_NUMBER.keys()


@pytest.mark.parametrize("path", TRUE_FOR_A_NUMBER)
def test_a_truth_value_is_no_number_anywhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TRUE_FOR_A_NUMBER[path], "c.yaml", tmp_path)
    told = "a number is needed, not true or false (which yes, no, on and off are in YAML)"
    assert f"c.yaml: {path}: {told}" in str(caught.value).splitlines()


def test_a_number_may_come_as_text_and_must_be_finite(tmp_path: Path) -> None:
    assert parse_config({"modules": ["m"], "gateway": {"port": "81"}}, "", tmp_path).gateway.port
    told = refusal(tmp_path, POOL + "defaults: {timeout_s: .inf}")
    assert told == "c.yaml: defaults.timeout_s: Input should be a finite number"


def test_a_config_without_tools_is_refused(tmp_path: Path) -> None:
    assert "nothing to run" in refusal(tmp_path, "version: 1")


def test_merge_keys_fill_in_what_a_mapping_does_not_say_itself(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "a: &a {x: 1, y: 1}\nb: &b\n  <<: *a\n  y: 2\nc: {<<: [*b], z: 3}\n<<: *b\n", "utf-8"
    )
    b = {"x": 1, "y": 2}
    assert read_yaml(path) == {"a": {"x": 1, "y": 1}, "b": b, "c": {**b, "z": 3}, **b}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: 1\n", r"c\.yaml: line 1: a key is a list or a mapping"),
        ("[" * 3000, r"c\.yaml: is nested too deeply"),
        ("a: &a [*a]\n", r"c\.yaml: line 1: found unconstructable recursive"),
        ("a: 2026-13-45\n", r"c\.yaml: a value cannot be read: month must be"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}\n", r"c\.yaml: line 2: key 'b' is given twice"),
    ],
)
def test_yaml_that_python_cannot_hold_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_key_given_twice_is_an_error_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, POOL + "name: a\nname: b").endswith(
        "line 3: key 'name' is given twice"
    )


def test_the_same_module_in_pools_and_modules_is_refused(tmp_path: Path) -> None:
    told = refusal(tmp_path, POOL + "modules: [a.module]")
    assert "modules and pools.p both name a.module" in told


def test_a_pool_cannot_have_the_name_of_thornbacks_own_application(tmp_path: Path) -> None:
    told = refusal(tmp_path, "pools: {gateway: {tools: [a.module]}}")
    assert told.endswith("no pool can be called gateway: Thornback's own gateway is")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_an_open_address_without_callers_is_refused(tmp_path: Path, host: str) -> None:
    assert "allow_anonymous" in refusal(tmp_path, POOL + f"gateway: {{host: '{host}'}}")


def test_an_open_address_is_allowed_by_callers_or_in_writing(tmp_path: Path) -> None:
    document = {"pools": {"p": {"tools": ["m"]}}, "gateway": {"host": "0.0.0.0"}}
    key = {"principals": {"a": {"key_sha256": "0" * 64}}}
    assert not parse_config({**document, **key}, "c", tmp_path).loopback_only
    document["gateway"]["allow_anonymous"] = True  # type: ignore[assignment]
    assert parse_config(document, "c", tmp_path).anonymous


def test_no_caller_can_own_what_everybody_put_while_there_were_no_callers(tmp_path: Path) -> None:
    callers = f"principals: {{anonymous: {{key_sha256: '{'0' * 64}'}}}}\n"
    assert "principals.anonymous: is what everybody is called" in refusal(tmp_path, POOL + callers)


def test_a_key_names_one_caller(tmp_path: Path) -> None:
    same = f"{{key_sha256: '{'0' * 64}'}}"
    told = refusal(tmp_path, POOL + f"principals: {{ann: {same}, bob: {same}}}\n")
    assert "principals.ann and principals.bob have the same key_sha256" in told


def test_references_bring_secrets_and_a_missing_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGION", "north")
    (tmp_path / "token").write_text("s3cret\n", "utf-8")
    variables = {"A": "${REGION}-1", "B": "${file:token}"}
    pool = {"tools": ["m"], "runtime_env": {"env_vars": variables}}
    config = parse_config({"pools": {"p": pool}}, "c", tmp_path)
    assert config.pools["p"].runtime_env["env_vars"] == {"A": "north-1", "B": "s3cret"}
    with pytest.raises(ConfigError, match=r"^pools\.p\.x: the environment has no NOWHERE$"):
        parse_config({"pools": {"p": {"x": "${NOWHERE}"}}}, "c", tmp_path)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_is_told_by_address(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{metric: false}", "telemetry.metric: unknown key; did you mean metrics?"),
        ("{traces: {}}", "telemetry.traces.endpoint: Field required"),
        ("{traces: {endpoint: hunter2}}", "telemetry.traces.endpoint: is not an http(s) URL"),
        ("{traces: {endpoint: 'grpc://hunter2:4317'}}", "is not an http(s) URL"),
        ("{traces: {endpoint: 'http://a:hunter2@b/v1/traces'}}", "put them into headers"),
        ("{traces: {endpoint: 'http://hunter2:4318'}}", "a collector takes traces at /v1/traces"),
        ("{traces: {endpoint: 'http://a/v1/traces', headers: {'a b': x}}}", "headers.a b: String"),
        ('{traces: {endpoint: "http://a/v1/traces", headers: {a: "hunter2\\n"}}}', "headers.a"),
        ("{traces: {endpoint: 'http://a/v1/traces', sample_ratio: 2}}", "less than or equal to 1"),
    ],
)
def test_a_word_on_telemetry_that_cannot_be_kept_is_refused(
    tmp_path: Path, section: str, told: str
) -> None:
    said = refusal(tmp_path, f"{POOL}telemetry: {section}")
    assert told in said
    assert "hunter2" not in said


def test_the_environment_is_not_a_key(tmp_path: Path) -> None:
    assert "not a key" in refusal(tmp_path, POOL + "environment: {A: b}")
