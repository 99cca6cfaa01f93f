"""Prompt templates: from a name and arguments to messages, or to what must be asked first.

What can be known of a prompt in itself (a variable that is no argument, a default that does not fit
its type) is found by `misfits_of_prompt` and never waits for a caller. Rendering decides everything
but the contents of resources: a message that embeds one comes back with its URI, and who may read
that is asked elsewhere. Where prompts come from is `prompt_files.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import semver

from thornback.cluster.catalog import (
    Catalog,
    PromptArgument,
    PromptAsk,
    PromptMessage,
    PromptSpec,
    ResourceSpec,
)
from thornback.cluster.errors import (
    InvalidParams,
    MissingCapability,
    UnknownPrompt,
    shown,
)
from thornback.cluster.messages import WIRE_VERSION, InputNeeded
from thornback.cluster.principals import Caller
from thornback.cluster.templates import misfits_of_text, render_text
from thornback.cluster.validation import SchemaCheck, nearest

MAX_ARGUMENT_CHARS = 65_536
MAX_COMPLETIONS = 100
"""2026-07-28, server/utilities/completion: at most this many values in one answer."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_FLAT_TYPES = {"string", "number", "integer", "boolean", "array"}
"""Types of properties that a form may have (2026-07-28, client/elicitation)."""

Value = str | int | float | bool


def misfits_of_prompt(spec: PromptSpec) -> list[str]:
    """What is wrong with a prompt in itself, one line each; empty where nothing is."""
    return list(_misfits(spec))


def _misfits(spec: PromptSpec) -> Iterator[str]:
    if not semver.Version.is_valid(spec.version):
        yield f"version: {shown(spec.version)} is not a semantic version, as 1.0.0 is"
    names = [argument.name for argument in spec.arguments] + [ask.name for ask in spec.asks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: is the name of two arguments or asks"
    for argument in spec.arguments:
        default = [] if argument.default is None else [argument.default]
        for text in (*argument.values, *default):
            try:
                _typed(argument, text)
            except InvalidParams as error:
                yield f"arguments.{argument.name}: {error.why}"
        if argument.required and default:
            yield f"arguments.{argument.name}: is required, and has a default"
    for ask in spec.asks:
        yield from (f"asks.{ask.name}.schema: {line}" for line in _misfits_of_form(ask))
    for number, message in enumerate(spec.messages):
        part, source = _content_of(message)
        for line in misfits_of_text(source, names):
            yield f"messages.{number}.{part}: {line}"


def _misfits_of_form(ask: PromptAsk) -> Iterator[str]:
    try:
        SchemaCheck.compile(bytes(ask.schema))
    except ValueError as error:
        yield str(error)
        return
    form = msgspec.json.decode(ask.schema)
    properties = form.get("properties")
    if form.get("type") != "object" or not isinstance(properties, dict):
        yield "a form is an object with properties"
        return
    for name, schema in properties.items():
        kind = schema.get("type") if isinstance(schema, dict) else None
        if kind not in _FLAT_TYPES:
            yield f"properties.{name}: a field of a form is one of {', '.join(sorted(_FLAT_TYPES))}"


class PromptLibrary:
    """The prompts of a catalog, as one caller sees them."""

    def __init__(self, catalog: Catalog, caller: Caller) -> None:
        self._catalog = catalog
        self._caller = caller

    def find(self, name: str) -> PromptSpec:
        """
        Raises:
            UnknownPrompt: if there is none, or none for this caller, which is the same answer.
        """
        spec = self._catalog.get("prompts", name, self._caller)
        if isinstance(spec, PromptSpec):
            return spec
        visible = [entry.name for entry in self.visible()]
        near = nearest(name, visible)
        raise UnknownPrompt(name, f"did you mean {near}?" if near else "")

    def visible(self) -> list[PromptSpec]:
        entries = self._catalog.visible("prompts", self._caller)
        return [entry for entry in entries if isinstance(entry, PromptSpec)]

    def render(
        self,
        name: str,
        arguments: Mapping[str, Any],
        responses: Mapping[str, Any],
        capabilities: Mapping[str, Any],
    ) -> list[PromptMessage] | InputNeeded:
        """As `render_prompt`, by name; raises `UnknownPrompt` too."""
        return render_prompt(self.find(name), arguments, responses, capabilities)

    def complete(self, name: str, argument: str, prefix: str) -> Completion:
        """As `complete_prompt`, by name; raises `UnknownPrompt` too."""
        spec = self.find(name)
        entries = self._catalog.visible("resources", self._caller)
        resources = [entry for entry in entries if isinstance(entry, ResourceSpec)]
        return complete_prompt(spec, argument, prefix, resources)


def render_prompt(
    spec: PromptSpec,
    arguments: Mapping[str, Any],
    responses: Mapping[str, Any],
    capabilities: Mapping[str, Any],
) -> list[PromptMessage] | InputNeeded:
    """The messages of a prompt, or what must be asked of the user first.

    Args:
        spec: A prompt without misfits.
        arguments: What the client sent: text by name.
        responses: The client's answers to an earlier `InputNeeded`, by name of the ask; answers
            that do not fit what was asked are asked for again.
        capabilities: The client's, in wire names.

    Returns:
        Messages with their templates filled in; `image` and `resource` hold URIs.

    Raises:
        InvalidParams: if an argument is unknown, missing or of another type, if the user declined,
            or if the text would be too long.
        MissingCapability: if the user must be asked and the client offers no form.
    """
    variables: dict[str, Any] = _variables_of(spec, arguments)
    open_asks: dict[str, Any] = {}
    for ask in spec.asks:
        content = _answer_to(ask, responses.get(ask.name))
        if content is None:
            form = {
                "mode": "form",
                "message": ask.message,
                "requestedSchema": msgspec.Raw(bytes(ask.schema)),
            }
            open_asks[ask.name] = {"method": "elicitation/create", "params": form}
        variables[ask.name] = content
    if open_asks:
        if not _offers_forms(capabilities):
            raise MissingCapability({"elicitation": {}})
        return InputNeeded(WIRE_VERSION, msgspec.json.encode(open_asks))
    return [_rendered(message, variables) for message in spec.messages]


def _rendered(message: PromptMessage, variables: Mapping[str, Any]) -> PromptMessage:
    part, source = _content_of(message)
    text = render_text(source, variables)
    return PromptMessage(role=message.role, **{part: text if part == "text" else text.strip()})


def _content_of(message: PromptMessage) -> tuple[str, str]:
    """Which content the message has, and its template."""
    if message.text is not None:
        return "text", message.text
    if message.image is not None:
        return "image", message.image
    return "resource", message.resource or ""


def _variables_of(spec: PromptSpec, given: Mapping[str, Any]) -> dict[str, Value | None]:
    """The typed arguments; an optional one that was not given and has no default is None."""
    known = {argument.name: argument for argument in spec.arguments}
    for name in given:
        if name not in known:
            raise InvalidParams(f"{spec.name} has no argument {shown(name)}{_hint(name, known)}")
    values: dict[str, Value | None] = {}
    for name, argument in known.items():
        text = given.get(name, argument.default)
        if text is None and argument.required:
            raise InvalidParams(f"{spec.name} needs the argument {name}")
        if text is not None and not isinstance(text, str):
            raise InvalidParams(f"{name} must be a string, as all arguments of prompts are")
        values[name] = None if text is None else _typed(argument, text)
    return values


def _typed(argument: PromptArgument, text: str) -> Value:
    """The argument's text as its type has it; `InvalidParams` where it does not read as that."""
    if len(text) > MAX_ARGUMENT_CHARS:
        raise InvalidParams(f"{argument.name} is longer than {MAX_ARGUMENT_CHARS} characters")
    if argument.values and text not in argument.values:
        near = _hint(text, argument.values)
        offered = ", ".join(shown(value, 40) for value in argument.values[:10])
        raise InvalidParams(f"{argument.name} is one of {offered}; got {shown(text)}{near}")
    match argument.type:
        case "string":
            return text
        case "boolean" if text in ("true", "false"):
            return text == "true"
        case "integer" if _INTEGER.fullmatch(text):
            return int(text)
        case "number" if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    article = "an" if argument.type == "integer" else "a"
    raise InvalidParams(f"{argument.name} must be {article} {argument.type}; got {shown(text)}")


def _answer_to(ask: PromptAsk, response: Any) -> dict[str, Any] | None:
    """What the user filled in; None where that is still open."""
    if not isinstance(response, Mapping):
        return None
    if response.get("action") in ("decline", "cancel"):
        raise InvalidParams(f"the user gave no {ask.name}, which this prompt needs")
    content = response.get("content")
    fits = response.get("action") == "accept" and not _form(bytes(ask.schema)).misfits(content)
    return dict(content) if fits and isinstance(content, Mapping) else None


@lru_cache(maxsize=256)
def _form(schema: bytes) -> SchemaCheck:
    return SchemaCheck.compile(schema)


def _offers_forms(capabilities: Mapping[str, Any]) -> bool:
    """Whether the client can show a form: an empty `elicitation` says so, as `form` does."""
    declared = capabilities.get("elicitation")
    return isinstance(declared, Mapping) and (not declared or "form" in declared)


class Completion(msgspec.Struct, frozen=True):
    """What a client may offer while its user types."""

    values: tuple[str, ...]
    """Sorted; at most `MAX_COMPLETIONS`."""
    total: int
    has_more: bool


def complete_prompt(
    spec: PromptSpec, argument: str, prefix: str, resources: Sequence[ResourceSpec]
) -> Completion:
    """Values of a prompt's argument that begin with `prefix`.

    An argument that stands for a whole URI of an embedded resource is completed with the URIs of
    `resources`, which must be those that the caller may see.

    Raises:
        InvalidParams: if the prompt has no such argument.
    """
    known = {known.name: known for known in spec.arguments}
    if argument not in known:
        near = _hint(argument, known)
        raise InvalidParams(f"{spec.name} has no argument {shown(argument)}{near}")
    if known[argument].values:
        return completion_of(known[argument].values, prefix)
    if known[argument].type == "boolean":
        return completion_of(["false", "true"], prefix)
    alone = re.compile(rf"\s*\{{\{{\s*{re.escape(argument)}\s*\}}\}}\s*")
    if any(message.resource and alone.fullmatch(message.resource) for message in spec.messages):
        return completion_of((resource.uri for resource in resources), prefix)
    if any(message.image and alone.fullmatch(message.image) for message in spec.messages):
        images = (r.uri for r in resources if r.mime_type.startswith("image/"))
        return completion_of(images, prefix)
    return completion_of((), prefix)


def completion_of(candidates: Iterable[str], prefix: str) -> Completion:
    """Those that begin with `prefix`, whatever their case; sorted, and no more than are allowed."""
    begin = prefix.casefold()
    matching = sorted({value for value in candidates if value.casefold().startswith(begin)})
    values = tuple(matching[:MAX_COMPLETIONS])
    return Completion(values, len(matching), len(matching) > len(values))


def _hint(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""
