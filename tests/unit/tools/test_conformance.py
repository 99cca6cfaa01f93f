"""The conformance tools do what the official suite expects, and their config offers it."""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from thornback.cluster import actors
from thornback.cluster.catalog import Catalog, PromptMessage, PromptSpec, ToolSpec, key_of
from thornback.cluster.config import ClusterConfig, load_config
from thornback.cluster.messages import Complete, Event, InputNeeded, Log, Progress, Raised
from thornback.cluster.prompt_files import load_prompts
from thornback.cluster.registry import Edit
from thornback.tools import ToolContext, conformance, tools_of
from thornback.tools.runner import Outcome, run

TOOLS = {declared.name: declared for declared in tools_of(conformance)}
EVERYTHING = b'{"elicitation": {}, "sampling": {}, "roots": {}}'
NAMED = {"action": "accept", "content": {"name": "Ada"}}
SAID = {"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"}


def outcome_of(name: str, arguments: dict[str, Any] | None = None, **facts: Any) -> Outcome:
    ctx = ToolContext(facts.pop("emit", lambda event: None), **facts)
    return asyncio.run(run(TOOLS[name], json.dumps(arguments or {}).encode(), ctx))


def content_of(outcome: Outcome) -> list[dict[str, Any]]:
    assert isinstance(outcome, Complete)
    content: list[dict[str, Any]] = json.loads(outcome.result)["content"]
    return content


def asked_by(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, InputNeeded)
    requests: dict[str, Any] = json.loads(outcome.requests)
    return requests


def answered(name: str, first: Outcome, answers: dict[str, Any]) -> Outcome:
    """The next round, as a client plays it."""
    assert isinstance(first, InputNeeded)
    return outcome_of(
        name,
        capabilities=EVERYTHING,
        input_responses=json.dumps(answers).encode(),
        request_state=first.request_state,
    )


def test_the_contents_are_the_ones_the_suite_compares() -> None:
    (text,) = content_of(outcome_of("test_simple_text"))
    assert text == {"type": "text", "text": "This is a simple text response for testing."}
    (image,) = content_of(outcome_of("test_image_content"))
    assert (image["type"], image["mimeType"]) == ("image", "image/png")
    (audio,) = content_of(outcome_of("test_audio_content"))
    assert (audio["type"], audio["mimeType"]) == ("audio", "audio/wav")
    (embedded,) = content_of(outcome_of("test_embedded_resource"))
    assert embedded["resource"] == {
        "uri": "test://embedded-resource",
        "mimeType": "text/plain",
        "text": "This is an embedded resource content.",
    }
    mixed = content_of(outcome_of("test_multiple_content_types"))
    assert [block["type"] for block in mixed] == ["text", "image", "resource"]
    assert json.loads(mixed[2]["resource"]["text"]) == {"test": "data", "value": 123}


def test_the_failing_tool_fails_in_words() -> None:
    outcome = outcome_of("test_error_handling")
    assert isinstance(outcome, Complete)
    assert outcome.is_error
    assert content_of(outcome)[0]["text"]


def test_log_messages_and_progress_are_sent_during_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conformance, "STEP_S", 0)
    events: list[Event] = []
    outcome_of("test_tool_with_logging", emit=events.append, log_level="info")
    outcome_of("test_tool_with_progress", emit=events.append, progress_wanted=True)
    assert [json.loads(e.data) for e in events if isinstance(e, Log)] == [
        "Tool execution started",
        "Tool processing data",
        "Tool execution completed",
    ]
    assert [e.progress for e in events if isinstance(e, Progress)] == [0, 50, 100]


def test_no_log_message_is_sent_to_a_client_that_did_not_ask() -> None:
    events: list[Event] = []
    content_of(outcome_of("test_logging_tool", emit=events.append))
    assert events == []


def test_a_missing_capability_is_a_json_rpc_error_that_names_it() -> None:
    outcome = outcome_of("test_missing_capability")
    assert isinstance(outcome, Raised)
    assert outcome.rpc_code == -32021
    assert json.loads(outcome.data or b"")["requiredCapabilities"] == {"sampling": {}}


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("test_input_required_result_elicitation", {"user_name": NAMED}),
        ("test_input_required_result_sampling", {"capital_question": SAID}),
        ("test_input_required_result_list_roots", {"client_roots": {"roots": []}}),
        (
            "test_input_required_result_request_state",
            {"confirm": {"action": "accept", "content": {"ok": True}}},
        ),
        (
            "test_input_required_result_tampered_state",
            {"confirm": {"action": "accept", "content": {"ok": True}}},
        ),
        (
            "test_input_required_result_multiple_inputs",
            {"user_name": NAMED, "greeting": SAID, "client_roots": {"roots": []}},
        ),
        ("test_streaming_elicitation", {"q": NAMED}),
    ],
)
def test_a_tool_that_asks_completes_with_the_answers_and_asks_again_without(
    name: str, answers: dict[str, Any]
) -> None:
    first = outcome_of(name, capabilities=EVERYTHING)
    assert asked_by(first).keys() == answers.keys()
    assert isinstance(answered(name, first, {"wrong_key": NAMED}), InputNeeded)
    assert isinstance(answered(name, first, dict.fromkeys(answers)), InputNeeded)
    assert content_of(answered(name, first, {**answers, "extra": NAMED}))[0]["text"]


def test_greetings_and_states_come_out_as_expected() -> None:
    name = "test_input_required_result_elicitation"
    first = outcome_of(name, capabilities=EVERYTHING)
    assert content_of(answered(name, first, {"user_name": NAMED}))[0]["text"] == "Hello, Ada!"


def test_two_rounds_have_two_states() -> None:
    name = "test_input_required_result_multi_round"
    first = outcome_of(name, capabilities=EVERYTHING)
    second = answered(name, first, {"step1": NAMED})
    assert asked_by(second).keys() == {"step2"}
    assert isinstance(first, InputNeeded)
    assert isinstance(second, InputNeeded)
    assert first.request_state != second.request_state
    color = {"action": "accept", "content": {"color": "blue"}}
    assert content_of(answered(name, second, {"step2": color}))


def test_only_declared_capabilities_are_asked_for() -> None:
    outcome = outcome_of(
        "test_input_required_result_capabilities", capabilities=b'{"sampling": {}}'
    )
    assert [request["method"] for request in asked_by(outcome).values()] == [
        "sampling/createMessage"
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "method"),
    [
        ("test_sampling", {"prompt": "hi"}, "sampling/createMessage"),
        ("test_elicitation", {"message": "hi"}, "elicitation/create"),
        ("test_elicitation_sep1034_defaults", {}, "elicitation/create"),
        ("test_elicitation_sep1330_enums", {}, "elicitation/create"),
    ],
)
def test_the_older_scenarios_ask_the_same_way(
    name: str, arguments: dict[str, Any], method: str
) -> None:
    (request,) = asked_by(outcome_of(name, arguments, capabilities=EVERYTHING)).values()
    assert request["method"] == method


def test_a_schema_written_by_hand_is_listed_byte_for_byte() -> None:
    declared = TOOLS["json_schema_2020_12_tool"]
    assert declared.input_schema == conformance.JSON_SCHEMA_2020_12.encode()
    assert {"$schema", "$defs", "allOf", "if", "then", "else"} <= json.loads(
        declared.input_schema
    ).keys()


def test_a_parameter_is_mirrored_in_a_header() -> None:
    schema = json.loads(TOOLS["test_x_mcp_header"].input_schema)
    assert schema["properties"]["region"]["x-mcp-header"] == "Region"


@pytest.mark.parametrize(
    ("trigger", "space", "key"),
    [
        ("test_trigger_tool_change", "tools", f"{conformance.CHANGING_TOOL}@1.0.0"),
        ("test_trigger_prompt_change", "prompts", conformance.CHANGING_PROMPT),
    ],
)
def test_a_trigger_changes_one_title_in_the_catalog_and_changes_it_back(
    trigger: str, space: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptSpec(
        name=conformance.CHANGING_PROMPT, description="d", messages=(PromptMessage(text="t"),)
    )
    tools = [declared.spec("conformance") for declared in TOOLS.values()]
    entries: dict[Any, dict[str, Any]] = {
        "tools": {key_of(spec): spec for spec in tools},
        "prompts": {prompt.key: prompt},
    }

    async def catalog() -> Catalog:
        return Catalog("sto_x", 1, 1, entries)

    async def write(edit: Edit) -> None:
        assert edit.pool is None  # else the pool's other tools would be withdrawn
        ((where, value),) = edit.put
        kind: Any = ToolSpec if where == "tools" else PromptSpec
        entry = msgspec.json.decode(value, type=kind)
        entries[where][key_of(entry)] = entry

    asked: list[str] = []

    def connect(namespace: str) -> SimpleNamespace:
        asked.append(namespace)
        return SimpleNamespace(catalog=catalog, write=write)

    monkeypatch.setattr(actors, "connect", connect)
    monkeypatch.setenv("THORNBACK_CLUSTER", "thornback.conformance")
    content_of(outcome_of(trigger))
    assert entries[space][key].title == "After the change"
    content_of(outcome_of(trigger))
    assert entries[space][key].title == "Before the change"
    assert asked == ["thornback.conformance"] * 2


@pytest.fixture(scope="module")
def config() -> ClusterConfig:
    return load_config(Path(str(files("thornback.configs"))) / "conformance.yaml")


def test_the_config_has_two_gateways_and_what_the_suite_reads(config: ClusterConfig) -> None:
    assert config.gateway.num_replicas == 2
    assert {
        "test://static-text",
        "test://static-binary",
        "test://watched-resource",
    } <= config.resources.keys()
    assert "test://template/{id}/data" in config.resource_templates


def test_the_prompts_are_all_described(config: ClusterConfig) -> None:
    prompts = load_prompts([Path(config.base_dir, path) for path in config.prompts])
    assert {prompt.name for prompt in prompts} == {
        "test_simple_prompt",
        "test_prompt_with_arguments",
        "test_prompt_with_embedded_resource",
        "test_prompt_with_image",
        "test_input_required_result_prompt",
        conformance.CHANGING_PROMPT,
    }
    assert all(prompt.description for prompt in prompts)
