"""Python types to published JSON Schema and back: what models accept, and what functions get.

Pydantic reads the types. Its schemas are then made plain, because model providers accept less than
JSON Schema: references are put in place (all but recursive ones), an optional parameter is one that
may be left out and not one that may be null, titles that repeat names go, and every parameter says
what it is. `additionalProperties: false` is not published: google-genai's MCP converter (3.4)
raises on a boolean there, and the strict modes of the others add it themselves. Unknown arguments
are refused all the same, by `Arguments.parse`.

What is published is what is promised: a caller leaves an optional parameter out, and a gateway that
checks arguments against the schema refuses null for it. `parse` itself takes null wherever the
Python type does.

Nothing here runs a tool or knows what a result looks like on the wire.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, create_model
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticSerializationError, to_jsonable_python

from thornback.cluster.errors import shown
from thornback.cluster.schema_rules import schema_fault
from thornback.cluster.validation import MAX_LINE_CHARS, MAX_MISFITS, SchemaCheck, nearest

Schema = dict[str, Any]
X_MCP_HEADER = "x-mcp-header"


@dataclass(frozen=True)
class Header:
    """Mirrors a parameter in the HTTP header `Mcp-Param-<name>`, by `Annotated[str, Header(name)]`.

    For what intermediaries route by; never for secrets. Only strings, integers and booleans
    (2026-07-28, server/tools, "x-mcp-header").
    """

    name: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(core_schema), X_MCP_HEADER: self.name}


class Arguments:
    """The parameters of one tool: their published schema, and the way from JSON to Python."""

    def __init__(self, model: type[BaseModel], parameters: Mapping[str, str]) -> None:
        self._model = model
        self._parameters = parameters
        """Python parameter name by the model's field name."""

    @property
    def names(self) -> list[str]:
        return list(self._parameters.values())

    def schema(self, descriptions: Mapping[str, str]) -> tuple[Schema, list[str]]:
        """The schema to publish, and what an author should improve, one line each.

        Args:
            descriptions: What the docstring says about each parameter.
        """
        schema = self._model.model_json_schema(schema_generator=PlainSchema, mode="validation")
        schema = inlined(schema)
        schema.pop("title", None)
        schema.pop("additionalProperties", None)
        problems: list[str] = []
        for name, parameter in schema.get("properties", {}).items():
            if name in descriptions:
                parameter.setdefault("description", descriptions[name])
            if "description" not in parameter:
                problems.append(f"parameter {name} is not described: say it in the docstring")
            if not parameter.keys() - {"description", "default", X_MCP_HEADER}:
                problems.append(f"parameter {name} may be anything: give it a type")
            if _takes_null(parameter) and parameter.get("default") is not None:
                problems.append(
                    f"parameter {name} allows None but callers cannot send it, since it is "
                    "optional: make None its default"
                )
        schema.setdefault("properties", {})
        return {"type": "object", **_for_callers(schema)}, problems

    def parse(self, arguments: bytes) -> dict[str, Any]:
        """Keyword arguments for the function, from a JSON object; defaults included.

        Raises:
            Misfit: if they do not fit, unknown names included.
        """
        try:
            parsed = self._model.model_validate_json(arguments or b"{}")
        except PydanticError as error:
            found = error.errors(include_url=False)
            lines = [self._line(details) for details in found[:MAX_MISFITS]]
            if len(found) > MAX_MISFITS:
                lines.append(f"and {len(found) - MAX_MISFITS} more")
            raise Misfit(lines) from None
        values = {name: getattr(parsed, field) for field, name in self._parameters.items()}
        return {**values, **(parsed.model_extra or {})}

    def _line(self, details: Mapping[str, Any]) -> str:
        path = ".".join(str(part) for part in details["loc"]) or "(top)"
        if details["type"] != "extra_forbidden":
            return shown(f"{path}: {details['msg']}", MAX_LINE_CHARS)
        known = self.names if len(details["loc"]) == 1 else []
        near = nearest(str(details["loc"][-1]), known)
        hint = f'; did you mean "{near}"?' if near else ""
        if known and not near:
            hint = f"; expected {', '.join(known)}"
        return shown(f"{path}: unknown property{hint}", MAX_LINE_CHARS)


class Misfit(ValueError):
    """Arguments that do not fit; `lines` says where and why, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NoJsonForm(ValueError):
    """A value that JSON cannot say; the text names its type alone, and may be shown."""


class Returns:
    """What one tool returns: the published output schema, and the way from Python to JSON."""

    def __init__(self, adapter: TypeAdapter[Any] | None, schema: bytes | None, wraps: bool) -> None:
        self._adapter = adapter
        self.schema = schema
        """Published output schema; None where results are content or of unknown type."""
        self.wraps = wraps
        """Whether a result is wrapped as `{"result": value}` to be an object."""
        self._check = None if schema is None else SchemaCheck.compile(schema)

    def jsonable(self, value: Any) -> Any:
        """The value in JSON's types (NaN stays NaN).

        Raises:
            ValueError: if it has no JSON form; `NoJsonForm` where it is known why.
        """
        if self._adapter is None:
            return to_jsonable_python(value, fallback=_plain, inf_nan_mode="constants")
        return self._adapter.dump_python(
            value, mode="json", by_alias=True, warnings="none", fallback=_plain
        )

    def misfits(self, structured: Any) -> list[str]:
        """Where a structured result does not fit the schema, one line each."""
        return [] if self._check is None else self._check.misfits(structured)


def arguments_of(
    signature: inspect.Signature, skip: str | None, open_ended: bool = False
) -> Arguments:
    """The arguments that a signature takes.

    Args:
        signature: With evaluated annotations.
        skip: Name of the parameter that is injected (`ToolContext`) and hidden.
        open_ended: Whether `**kwargs` is allowed: where the author wrote the schema by hand.

    Raises:
        TypeError: if a parameter has no type, or cannot be given by name.
    """
    fields: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    extra: Literal["forbid", "allow"] = "forbid"
    for name, parameter in signature.parameters.items():
        if name == skip:
            continue
        if parameter.kind is parameter.VAR_KEYWORD and open_ended:
            extra = "allow"
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"parameter {parameter} cannot be given by name: make it a plain one")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"parameter {name} has no type: annotate it")
        # Fields are numbered, since a parameter may be called `copy`, `schema` or `_x`.
        field = f"argument_{len(fields)}"
        parameters[field] = name
        fields[field] = (parameter.annotation, _field_info(name, parameter))
    config = ConfigDict(extra=extra)
    model = create_model("Arguments", __config__=config, **fields)
    return Arguments(model, parameters)


def _field_info(name: str, parameter: inspect.Parameter) -> FieldInfo:
    if isinstance(parameter.default, FieldInfo):  # `limit: int = Field(10, ge=1)`
        return FieldInfo.merge_field_infos(parameter.default, alias=name)
    if parameter.default is parameter.empty:
        return typing.cast(FieldInfo, Field(alias=name))
    return typing.cast(FieldInfo, Field(default=parameter.default, alias=name))


def returns_of(annotation: Any) -> Returns:
    """What a function with this return annotation returns; no schema for None and Any.

    Raises:
        TypeError: if the type has no JSON Schema.
    """
    if annotation in (inspect.Signature.empty, Any, None, type(None)):
        return Returns(None, None, wraps=True)
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    schema = inlined(adapter.json_schema(schema_generator=PlainSchema, mode="serialization"))
    schema.pop("title", None)
    wraps = schema.get("type") != "object"
    if wraps:
        defs = schema.pop("$defs", None)
        schema = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
        if defs:
            schema["$defs"] = defs
    return Returns(adapter, published(schema), wraps)


def written_schema(schema: str | Mapping[str, Any], what: str) -> bytes:
    """The bytes to publish for a schema written by hand: text as it is, byte for byte.

    Raises:
        TypeError: if it is not a valid JSON Schema with an object on top.
    """
    data = schema.encode() if isinstance(schema, str) else published(schema)
    if fault := schema_fault(data, of_object=True):
        raise TypeError(f"{what}: {fault}")
    return data


def published(schema: Mapping[str, Any]) -> bytes:
    """The bytes of a schema: compact, keys in their order."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def written_problems(schema: Mapping[str, Any]) -> list[str]:
    """Where a schema written by hand has what some model providers refuse, one line each."""
    problems = [
        f"input_schema uses {keyword}, which some model providers refuse"
        for keyword in ("$ref", "$defs", "allOf", "oneOf", "not", "if")
        if f'"{keyword}":' in json.dumps(schema, separators=(",", ":"))
    ]
    if isinstance(schema.get("additionalProperties"), bool):
        problems.append(
            "input_schema has a boolean additionalProperties, on which google-genai's converter "
            "fails"
        )
    for name, parameter in schema.get("properties", {}).items():
        if isinstance(parameter, dict) and "description" not in parameter:
            problems.append(f"parameter {name} is not described: say it in input_schema")
    return problems


class PlainSchema(GenerateJsonSchema):
    """Pydantic's generator without titles made from names, and without warnings."""

    # A default that JSON cannot say is left out; the function has it all the same.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def encode_default(self, dft: Any) -> Any:
        encoded = super().encode_default(dft)
        try:
            json.dumps(encoded, allow_nan=False)
        except ValueError as error:
            raise PydanticSerializationError("not a JSON number") from error
        return encoded


def inlined(schema: Schema) -> Schema:
    """The schema with every `$ref` replaced by what it names, all but recursive ones."""
    definitions: dict[str, Schema] = schema.get("$defs", {})
    for definition in definitions.values():
        definition.pop("title", None)  # the name of a Python class
    recursive = {name for name in definitions if name in _reachable(definitions, name)}

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        name = _referenced(node)
        if name is None or name in recursive:
            node = {key: value for key, value in node.items() if key != "discriminator"}
            if "oneOf" in node:
                node["anyOf"] = node.pop("oneOf")
            return {key: resolve(value) for key, value in node.items()}
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return resolve({**definitions[name], **beside})

    top = {key: value for key, value in schema.items() if key != "$defs"}
    if (name := _referenced(top)) and name in recursive:  # an object has to stand on top
        top = {**definitions[name], **top}
        del top["$ref"]
    plain: Schema = resolve(top)
    if recursive:
        plain["$defs"] = {name: resolve(definitions[name]) for name in sorted(recursive)}
    return plain


def _referenced(node: Mapping[str, Any]) -> str | None:
    reference = node.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else None


def _reachable(definitions: Mapping[str, Schema], start: str) -> set[str]:
    """Names of the definitions that `start` refers to, directly or through others."""
    found: set[str] = set()
    todo: list[Any] = [definitions[start]]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            name = _referenced(node)
            if name is not None and name not in found:
                found.add(name)
                todo.append(definitions[name])
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return found


def _for_callers(node: Any) -> Any:
    """An input schema, in the words that all model providers know."""
    if isinstance(node, list):
        return [_for_callers(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if node.get("type") == "integer":
        if "exclusiveMinimum" in node:
            node["minimum"] = node.pop("exclusiveMinimum") + 1
        if "exclusiveMaximum" in node:
            node["maximum"] = node.pop("exclusiveMaximum") - 1
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]
    properties = node.get("properties")
    if isinstance(properties, dict):
        required = node.get("required", [])
        node["properties"] = {
            name: _for_callers(
                _described(name, parameter if name in required else _given(parameter))
            )
            for name, parameter in properties.items()
        }
    return {
        key: value if key in ("properties", "enum", "default", "examples") else _nested(value)
        for key, value in node.items()
    }


def _nested(value: Any) -> Any:
    return _for_callers(value) if isinstance(value, (dict, list)) else value


def _described(name: str, parameter: Any) -> Any:
    """A property with a description: where there is none, its name in words."""
    if not isinstance(parameter, dict) or "description" in parameter:
        return parameter
    words = name.replace("_", " ").replace("-", " ").strip() or name
    return {"description": words[:1].upper() + words[1:], **parameter}


def _takes_null(parameter: Mapping[str, Any]) -> bool:
    return {"type": "null"} in parameter.get("anyOf", [])


def _given(parameter: Any) -> Any:
    """An optional property as a caller who does give it sees it: never null."""
    if not isinstance(parameter, dict):
        return parameter
    parameter = dict(parameter)
    if _takes_null(parameter):
        choices = [choice for choice in parameter.pop("anyOf") if choice != {"type": "null"}]
        one = choices[0] if len(choices) == 1 else {"anyOf": choices}
        parameter = {**one, **parameter}
    if "default" in parameter and parameter["default"] is None:
        del parameter["default"]
    return parameter


def _plain(value: Any) -> Any:
    """What pydantic does not know: NumPy's scalars and arrays, by their own `tolist`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NoJsonForm(f"{type(value).__name__} has no JSON form")


def members(annotation: Any) -> list[Any]:
    """The types that an annotation allows: those of a union, without `Annotated`."""
    if typing.get_origin(annotation) is Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [m for argument in typing.get_args(annotation) for m in members(argument)]
    return [annotation]
