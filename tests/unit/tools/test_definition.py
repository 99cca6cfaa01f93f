"""What `@tool` makes of functions and classes, and what it refuses."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import content_hash_of
from thornback.tools import ToolContext, ToolResult, problems, tool, tools_of
from thornback.tools.definition import DefinitionError, Kind, tool_of


@tool
def shout(text: str, times: int = 1) -> str:
    """Say it louder.

    In capitals.

    Args:
        text: What to say.
        times: How often
            to say it.

    Returns:
        The text in capitals.

    Raises:
        ToolFailure: if nobody listens.

    Example:
        shout("a", 2)
    """
    return text.upper() * times


@tool(
    name="count-up",
    version="2.0.0-rc.1",
    title="Count",
    read_only=True,
    idempotent=True,
    timeout_s=3,
    tags=["a"],
    owner="me",
    visibility="unlisted",
    principals=["tag:x"],
)
class CountUp:
    """Count the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, by: int = 1) -> int:
        """
        Args:
            by: The step.
        """
        self.calls += by
        return self.calls


def test_a_tool_stays_the_plain_function_or_class_it_was() -> None:
    assert shout("a", 2) == "AA"
    assert CountUp()(3) == 3


def test_the_docstring_is_the_description_and_describes_the_parameters() -> None:
    declared = tool_of(shout)
    assert declared.description == (
        'Say it louder.\n\nIn capitals.\n\nReturns: The text in capitals.\n\nExample: shout("a", 2)'
    )
    properties = msgspec.json.decode(declared.input_schema)["properties"]
    assert properties["text"]["description"] == "What to say."
    assert properties["times"]["description"] == "How often to say it."
    assert problems(declared) == []


def test_the_catalog_entry_says_what_the_decorator_said() -> None:
    spec = tool_of(CountUp).spec("fast")
    assert (spec.key, spec.title, spec.pool) == ("count-up@2.0.0-rc.1", "Count", "fast")
    assert (spec.owner, spec.tags, spec.visibility) == ("me", ("a",), "unlisted")
    assert spec.access.principals == ("tag:x",)
    assert spec.annotations.read_only
    assert spec.annotations.destructive is None
    assert spec.repeatable
    assert spec.call.timeout_s == 3
    assert spec.signature == "count-up(by: int = 1) -> int"
    assert spec.content_hash == content_hash_of(spec)
    assert b'"The step."' in bytes(spec.input_schema)


def test_the_name_of_a_class_becomes_snake_case() -> None:
    @tool
    class HTTPPageReader:
        """Read."""

        def __call__(self) -> str:
            return ""

    assert tool_of(HTTPPageReader).name == "http_page_reader"


def test_the_context_is_injected_and_hidden() -> None:
    @tool
    def patient(seconds: int, ctx: ToolContext | None = None) -> None:
        """Wait."""

    declared = tool_of(patient)
    assert declared.context_parameter == "ctx"
    assert b"ctx" not in declared.input_schema
    assert declared.signature == "patient(seconds: int) -> None"


def plain() -> int:
    """Do."""
    return 1


async def on_loop() -> int:
    """Do."""
    return 1


def generator() -> Iterator[int]:
    """Do."""
    yield 1


def final_generator() -> Generator[int, None, str]:
    """Do."""
    yield 1
    return "one"


async def async_generator() -> AsyncIterator[int]:
    """Do."""
    yield 1


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("function", "kind", "result"),
    [
        (plain, "plain", INTEGER),
        (on_loop, "async", INTEGER),
        (generator, "generator", {"type": "array", "items": INTEGER}),
        (final_generator, "generator", {"type": "string"}),
        (async_generator, "async generator", {"type": "array", "items": INTEGER}),
    ],
)
def test_the_kind_of_function_decides_how_it_runs_and_what_it_returns(
    function: Callable[..., Any], kind: Kind, result: dict[str, Any]
) -> None:
    declared = tool_of(tool(function))
    assert declared.kind == kind
    assert declared.output_schema is not None
    assert msgspec.json.decode(declared.output_schema)["properties"]["result"] == result


def test_content_has_no_output_schema() -> None:
    @tool
    def picture() -> ToolResult:
        """Paint."""
        raise NotImplementedError

    assert tool_of(picture).output_schema is None


WRITTEN = '{"type": "object",\n "properties": {"b": {}, "a": {}}, "additionalProperties": false}'


def test_a_schema_written_by_hand_is_published_byte_for_byte_and_only_warned_about() -> None:
    @tool(input_schema=WRITTEN, output_schema={"type": "object"})
    def written(**arguments: Any) -> dict[str, Any]:
        """Do."""
        return arguments

    declared = tool_of(written)
    assert declared.input_schema == WRITTEN.encode()
    assert declared.output_schema == b'{"type":"object"}'
    assert any("additionalProperties" in problem for problem in problems(declared))
    assert declared.arguments.parse(b'{"a": 1}') == {"a": 1}


def test_an_undescribed_parameter_is_a_problem_and_gets_its_name_as_description() -> None:
    @tool
    def terse(row_limit: int) -> None:
        """Do."""

    declared = tool_of(terse)
    assert b'"description":"Row limit"' in declared.input_schema
    assert problems(declared) == [
        "terse: parameter row_limit is not described: say it in the docstring"
    ]


class Holder:
    def method(self) -> None:
        """Do."""


def undocumented() -> None:
    return None


def untyped(value) -> None:  # type: ignore[no-untyped-def]
    """Do."""


def positional(value: int, /) -> None:
    """Do."""


def open_ended(**values: int) -> None:
    """Do."""


class NeedsArguments:
    """Do."""

    def __init__(self, path: str) -> None:
        raise NotImplementedError

    def __call__(self) -> None:
        raise NotImplementedError


class NotCallable:
    """Do."""


def two_contexts(a: ToolContext, b: ToolContext) -> None:
    """Do."""


def unknown_type(value: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do."""


def strange_type(value: threading.Lock) -> None:  # type: ignore[valid-type]
    """Do."""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (undocumented, "undocumented: it has no docstring: write one"),
        (untyped, "parameter value has no type: annotate it"),
        (positional, "cannot be given by name"),
        (open_ended, "cannot be given by name"),
        (NeedsArguments, "__init__ needs path"),
        (Holder.method, "parameter self has no type"),
        (NotCallable, "no method __call__"),
        (two_contexts, "a and b are both the ToolContext"),
        (unknown_type, "names Missing, which the module does not have"),
        (strange_type, "Unable to generate pydantic-core schema"),
        (functools.partial(plain), "a partial cannot be a tool"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_what_to_change(target: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        tool(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "the name 'a b' is not 1 to 64"),
        ({"name": "x" * 65}, "is not 1 to 64"),
        ({"version": "1.0"}, "not a semantic version"),
        ({"timeout_s": 0}, "must be positive"),
        ({"input_schema": "{"}, "input_schema: not JSON"),
        ({"input_schema": {"type": "array"}}, "on top"),
        ({"output_schema": {"type": "object", "required": 1}}, "output_schema: not a valid schema"),
    ],
)
def test_a_wrong_option_is_refused_by_its_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        tool(**options)(plain)


def module_of(**attributes: Any) -> ModuleType:
    module = ModuleType(__name__)
    vars(module).update(attributes)
    return module


def test_the_tools_of_a_module_are_sorted_and_counted_once() -> None:
    found = tools_of(module_of(shout=shout, alias=shout, CountUp=CountUp, other=1))
    assert [t.name for t in found] == ["count-up", "shout"]


def test_what_a_module_imports_is_not_its_own_unless_it_says_so() -> None:
    user = ModuleType("user_tools")
    vars(user)["shout"] = shout
    assert tools_of(user) == []
    vars(user)["__all__"] = ["shout"]
    assert tools_of(user) == [tool_of(shout)]


def test_a_subclass_of_a_tool_is_no_tool() -> None:
    class Sub(CountUp):
        pass

    assert tools_of(module_of(Sub=Sub)) == []
    with pytest.raises(TypeError, match="decorate it with @tool"):
        tool_of(Sub)


def test_two_tools_of_one_name_and_version_are_refused_naming_both() -> None:
    @tool(name="shout")
    def other() -> None:
        """Do."""

    with pytest.raises(DefinitionError, match=r"two tools shout 1\.0\.0: shout and .*other"):
        tools_of(module_of(shout=shout, other=other))


def test_a_class_is_made_once_and_keeps_its_state() -> None:
    declared = tool_of(CountUp)
    assert declared.warm()(by=1) == 1
    assert declared.warm()(by=1) == 2
    assert declared.is_warm
