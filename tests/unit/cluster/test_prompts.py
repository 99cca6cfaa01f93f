"""Prompts: what a file may hold, what a caller may send, and what comes of both."""

import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import (
    AccessPolicy,
    Catalog,
    PromptMessage,
    PromptSpec,
    ResourceSpec,
)
from thornback.cluster.errors import (
    ConfigError,
    InvalidParams,
    MissingCapability,
    UnknownPrompt,
)
from thornback.cluster.messages import InputNeeded
from thornback.cluster.principals import Caller, Principal
from thornback.cluster.prompt_files import load_prompts
from thornback.cluster.prompts import (
    Completion,
    PromptLibrary,
    complete_prompt,
    render_prompt,
)

REPORT = """
name: report
description: Write a report.
arguments:
  - {name: topic, description: What about, required: true}
  - {name: length, type: integer, default: 3}
  - {name: style, values: [plain, formal]}
  - {name: draft, type: boolean}
messages:
  - text: "{{ length + 1 }} lines on {{ topic }}{% if draft %} (draft){% endif %}{{ style }}"
"""
WHO = """
name: greet
description: Greet the user.
asks:
  - name: who
    message: Who are you?
    schema: {type: object, properties: {name: {type: string}}, required: [name]}
messages:
  - {role: assistant, text: "Hello, {{ who.name }}!"}
"""
ATTACHED = """
name: attached
description: Look at what is attached.
arguments: [{name: uri, required: true}, {name: picture}]
messages:
  - {resource: " {{ uri }} "}
  - {image: "{{ picture }}"}
"""


def loaded(directory: Path, text: str) -> list[PromptSpec]:
    path = directory / "prompts.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return load_prompts([path])


@pytest.fixture
def report(tmp_path: Path) -> PromptSpec:
    return loaded(tmp_path, REPORT)[0]


@pytest.fixture
def who(tmp_path: Path) -> PromptSpec:
    return loaded(tmp_path, WHO)[0]


def rendered(spec: PromptSpec, **arguments: Any) -> str | None:
    messages = render_prompt(spec, arguments, {}, {})
    assert isinstance(messages, list)
    return messages[0].text


def test_arguments_are_text_on_the_wire_and_typed_in_the_template(report: PromptSpec) -> None:
    assert rendered(report, topic="rays") == "4 lines on rays"
    assert rendered(report, topic="rays", length="9", draft="true", style="plain") == (
        "10 lines on rays (draft)plain"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "report needs the argument topic"),
        ({"topic": "x", "lenght": "3"}, "report has no argument lenght; did you mean length?"),
        ({"topic": "x", "length": "3.0"}, "length must be an integer; got 3.0"),
        ({"topic": "x", "length": "9" * 5000}, "length must be an integer; got 999"),
        ({"topic": "x", "draft": "yes"}, "draft must be a boolean; got yes"),
        ({"topic": "x", "style": "formel"}, "one of plain, formal; got formel; did you mean fo"),
        ({"topic": 3}, "topic must be a string"),
        ({"topic": "x" * 70_000}, "topic is longer than 65536 characters"),
    ],
)
def test_a_wrong_argument_is_named_with_what_would_be_right(
    report: PromptSpec, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        render_prompt(report, arguments, {}, {})
    assert why in str(refused.value)


def test_an_argument_that_looks_like_a_template_is_only_text(report: PromptSpec) -> None:
    assert rendered(report, topic="{{ length }}") == "4 lines on {{ length }}"


def test_what_the_user_must_say_is_asked_for_and_then_used(who: PromptSpec) -> None:
    asked = render_prompt(who, {}, {}, {"elicitation": {}})
    assert isinstance(asked, InputNeeded)
    form = msgspec.json.decode(asked.requests)["who"]
    assert form["method"] == "elicitation/create"
    assert form["params"] == {
        "mode": "form",
        "message": "Who are you?",
        "requestedSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    }
    answers = {"who": {"action": "accept", "content": {"name": "Ann"}}, "more": 1}
    assert render_prompt(who, {}, answers, {}) == [
        PromptMessage(role="assistant", text="Hello, Ann!")
    ]


@pytest.mark.parametrize(
    "answer",
    [None, 3, "Ann", {}, {"action": "accept"}, {"action": "accept", "content": {"name": 3}}],
)
def test_an_answer_that_does_not_fit_is_asked_for_again(who: PromptSpec, answer: Any) -> None:
    asked = render_prompt(who, {}, {"who": answer}, {"elicitation": {"form": {}}})
    assert isinstance(asked, InputNeeded)


def test_a_user_who_declines_ends_it(who: PromptSpec) -> None:
    with pytest.raises(InvalidParams, match="the user gave no who"):
        render_prompt(who, {}, {"who": {"action": "decline"}}, {"elicitation": {}})


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}, {"sampling": {}}])
def test_a_client_without_forms_is_told_what_it_lacks(
    who: PromptSpec, capabilities: dict[str, Any]
) -> None:
    with pytest.raises(MissingCapability) as refused:
        render_prompt(who, {}, {}, capabilities)
    assert refused.value.required == {"elicitation": {}}


def test_embedded_resources_come_back_as_uris(tmp_path: Path) -> None:
    spec = loaded(tmp_path, ATTACHED)[0]
    messages = render_prompt(spec, {"uri": "a:b", "picture": "a:c"}, {}, {})
    assert messages == [PromptMessage(resource="a:b"), PromptMessage(image="a:c")]


def test_a_file_holds_one_prompt_or_several_and_they_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "- {name: b, description: B., messages: [{text: b}]}\n"
        "- {name: a, description: A., messages: [{text: a}], principals: [ann]}\n"
    )
    (tmp_path / "one.yaml").write_text(REPORT)
    found = load_prompts([tmp_path / "two.yaml", tmp_path / "one.yaml"])
    assert [spec.name for spec in found] == ["a", "b", "report"]
    assert found[0].access == AccessPolicy(("ann",))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("description: Write a report.", ""), "report: description: Field required"),
        (("arguments:", "argumens:"), "argumens: unknown key; did you mean arguments?"),
        (("type: integer", "type: int"), "arguments.1.type: Input should be 'string', 'integer'"),
        (("default: 3", "default: three"), "arguments.length: length must be an integer"),
        (("{{ topic }}", "{{ topics }}"), "messages.0.text: uses topics, which is no variable"),
        (("name: draft", "name: topic"), "topic: is the name of two arguments or asks"),
        (("name: report", "name: re port"), "re port: name: String should match"),
        (("name: report", "name: report\nversion: one"), "version: one is not a semantic version"),
        (("required: true", "required: true, default: x"), "topic: is required, and has a default"),
        (("- text:", "- image: x\n    text:"), "messages.0: give exactly one of text, image and"),
    ],
)
def test_what_is_wrong_in_a_file_names_file_prompt_and_key(
    tmp_path: Path, change: tuple[str, str], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, REPORT.replace(*change))
    assert line in str(refused.value)
    assert str(refused.value).startswith("prompts.yaml: re")


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("{type: string}", "asks.who.schema: a form is an object with properties"),
        ("{type: object, properties: {a: {type: object}}}", "properties.a: a field of a form is"),
        ("{type: nothing}", "asks.who.schema: not a JSON Schema"),
    ],
)
def test_a_form_is_flat(tmp_path: Path, schema: str, line: str) -> None:
    broken = WHO.replace(
        "{type: object, properties: {name: {type: string}}, required: [name]}", schema
    )
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, broken)
    assert line in str(refused.value)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: [")
    (tmp_path / "b.yaml").write_text(REPORT)
    (tmp_path / "c.yaml").write_text(REPORT)
    with pytest.raises(ConfigError) as refused:
        load_prompts([tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml", "d.yaml")])
    lines = str(refused.value).splitlines()
    assert "a.yaml: line " in lines[0]
    assert lines[1] == "c.yaml: report: is in b.yaml already"
    assert "d.yaml: No such file" in lines[2]


def caller(name: str) -> Caller:
    return Caller(Principal("default", name))


def catalog(*entries: PromptSpec | ResourceSpec) -> Catalog:
    return Catalog(
        "store",
        1,
        1,
        {
            "prompts": {e.key: e for e in entries if isinstance(e, PromptSpec)},
            "resources": {e.key: e for e in entries if isinstance(e, ResourceSpec)},
        },
    )


def resource(uri: str, mime_type: str, *principals: str) -> ResourceSpec:
    return ResourceSpec(
        uri=uri,
        name=uri,
        mime_type=mime_type,
        sha256="0" * 64,
        size_bytes=0,
        access=AccessPolicy(principals or ("*",)),
    )


def test_a_prompt_that_one_may_not_use_is_one_that_does_not_exist(report: PromptSpec) -> None:
    private = msgspec.structs.replace(report, access=AccessPolicy(("ann",)))
    assert PromptLibrary(catalog(private), caller("ann")).find("report") == private
    strangers = PromptLibrary(catalog(private), caller("bob"))
    with pytest.raises(UnknownPrompt, match=r"^Unknown prompt: report$"):
        strangers.render("report", {}, {}, {})
    with pytest.raises(UnknownPrompt, match=r"^Unknown prompt: reprot$"):
        strangers.find("reprot")
    with pytest.raises(UnknownPrompt, match=r"did you mean report\?"):
        PromptLibrary(catalog(private), caller("ann")).find("reprot")


def test_values_are_completed(report: PromptSpec) -> None:
    assert complete_prompt(report, "style", "", []) == Completion(("formal", "plain"), 2, False)
    assert complete_prompt(report, "style", "P", []).values == ("plain",)
    assert complete_prompt(report, "draft", "t", []).values == ("true",)
    assert complete_prompt(report, "topic", "", []) == Completion((), 0, False)
    with pytest.raises(InvalidParams, match="no argument styl; did you mean style"):
        complete_prompt(report, "styl", "", [])


def test_uris_are_completed_with_what_the_caller_may_see(tmp_path: Path) -> None:
    spec = loaded(tmp_path, ATTACHED)[0]
    entries = [
        spec,
        resource("a:text", "text/plain"),
        resource("a:picture", "image/png"),
        resource("a:private", "text/plain", "ann"),
    ]
    library = PromptLibrary(catalog(*entries), caller("bob"))
    assert library.complete("attached", "uri", "a:").values == ("a:picture", "a:text")
    assert library.complete("attached", "picture", "").values == ("a:picture",)


def test_at_most_a_hundred_values_are_offered(tmp_path: Path) -> None:
    spec = loaded(tmp_path, ATTACHED)[0]
    many = [resource(f"a:{number:03}", "text/plain") for number in range(250)]
    completion = complete_prompt(spec, "uri", "a:", many)
    assert completion.values == tuple(f"a:{number:03}" for number in range(100))
    assert (completion.total, completion.has_more) == (250, True)
