"""From what a tool returned to a `CallToolResult`: structured content, and a text that is cheap.

A model pays for every token of a text, so the text is the value in its shortest readable form: a
string as itself, a table as CSV, anything else as JSON without blanks. Content types stand for
themselves. Nothing here knows where the value came from or where the bytes go.
"""

from __future__ import annotations

import base64
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from thornback.cluster.errors import InvalidResult, ResultTooLarge
from thornback.tools.schemas import NoJsonForm, Returns

Json = dict[str, Any]
ANYTHING = Returns(None, None, wraps=True)
"""What a value of unknown type is returned as."""
NOTHING = "done"
"""The text of a result of None: some clients stumble over a result without content."""


@dataclass(frozen=True)
class Image:
    """A picture that the model sees."""

    data: bytes
    mime_type: str = "image/png"

    def block(self) -> Json:
        return {"type": "image", "data": _base64(self.data), "mimeType": self.mime_type}


@dataclass(frozen=True)
class Audio:
    """A sound that the model hears."""

    data: bytes
    mime_type: str = "audio/wav"

    def block(self) -> Json:
        return {"type": "audio", "data": _base64(self.data), "mimeType": self.mime_type}


@dataclass(frozen=True)
class EmbeddedResource:
    """A resource inside the result: a text, or bytes."""

    uri: str
    content: str | bytes
    mime_type: str | None = None

    def block(self) -> Json:
        is_text = isinstance(self.content, str)
        resource: Json = {"uri": self.uri}
        resource["mimeType"] = self.mime_type or (
            "text/plain" if is_text else "application/octet-stream"
        )
        if isinstance(self.content, str):
            resource["text"] = self.content
        else:
            resource["blob"] = _base64(self.content)
        return {"type": "resource", "resource": resource}


@dataclass(frozen=True)
class ResourceLink:
    """A resource that the client may read later."""

    uri: str
    name: str
    description: str | None = None
    mime_type: str | None = None
    size_bytes: int | None = None

    def block(self) -> Json:
        link = {
            "type": "resource_link",
            "uri": self.uri,
            "name": self.name,
            "description": self.description,
            "mimeType": self.mime_type,
            "size": self.size_bytes,
        }
        return {key: value for key, value in link.items() if value is not None}


Content = Image | Audio | EmbeddedResource | ResourceLink


@dataclass(frozen=True)
class ToolResult:
    """A result whose parts the tool chooses itself."""

    content: str | Content | Sequence[str | Content]
    """What the model reads and sees; a string is a text."""
    structured: Mapping[str, Any] | None = None
    """What programs read; valid against the tool's `output_schema`, where it has one."""
    meta: Mapping[str, Any] | None = None
    """`_meta` of the result."""


def is_content(annotation: Any) -> bool:
    """Whether a type stands for content, so that there is no schema of it."""
    if annotation in (*typing.get_args(Content), ToolResult, bytes):
        return True
    return any(is_content(argument) for argument in typing.get_args(annotation))


def call_tool_result(tool: str, value: Any, returns: Returns, max_result_bytes: int) -> bytes:
    """The JSON object of a `CallToolResult` for what `tool` returned.

    Raises:
        InvalidResult: if the value has no JSON form or does not fit the tool's output schema.
        ResultTooLarge: if the JSON has more than `max_result_bytes`.
    """
    result = _content_result(tool, value) or _value_result(tool, value, returns)
    structured = result.get("structuredContent")
    if not isinstance(value, ToolResult) and structured is None and returns.schema is None:
        pass
    elif misfits := returns.misfits(structured):
        raise InvalidResult(tool, misfits)
    data = msgspec.json.encode(result)
    if len(data) > max_result_bytes:
        raise ResultTooLarge(tool, len(data), max_result_bytes)
    return data


def jsonable(tool: str, value: Any, returns: Returns) -> Any:
    """A value in JSON's types.

    Raises:
        InvalidResult: if it has no JSON form: NaN, infinity and integers beyond 64 bits have none,
            wherever they are.
    """
    try:
        plain = returns.jsonable(value)
    except NoJsonForm as error:
        raise InvalidResult(tool, [f"result: {error}"]) from error
    except (ValueError, RecursionError) as error:  # a circle, binary data in a text, ...
        raise InvalidResult(tool, ["result: it has no JSON form"]) from error
    if misfits := list(_unsayable(plain, "result")):
        raise InvalidResult(tool, misfits[:8])
    return plain


def readable(value: Any) -> str:
    """A JSON value as a model reads it cheaply."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    if isinstance(value, list) and (header := _table_header(value)):
        rows = (",".join(_cell(row[name]) for name in header) for row in value)
        return "\n".join([",".join(map(_cell, header)), *rows])
    return msgspec.json.encode(value).decode()


def _content_result(tool: str, value: Any) -> Json | None:
    """The result of a value that is content; None where it is not."""
    if isinstance(value, ToolResult):
        content = value.content
        parts = [content] if isinstance(content, str | Content) else content
        result: Json = {"content": [content_block(part) for part in parts]}
        if value.structured is not None:
            result["structuredContent"] = jsonable(tool, value.structured, ANYTHING)
        if value.meta is not None:
            result["_meta"] = jsonable(tool, value.meta, ANYTHING)
        return result
    if isinstance(value, bytes):
        return {"content": [EmbeddedResource(f"tool:{tool}/result", value).block()]}
    if isinstance(value, Content):
        return {"content": [content_block(value)]}
    if isinstance(value, (list, tuple)) and any(isinstance(item, Content) for item in value):
        return {"content": [content_block(item) for item in value]}
    return None


def _value_result(tool: str, value: Any, returns: Returns) -> Json:
    plain = jsonable(tool, value, returns)
    result: Json = {"content": [_text(readable(plain))]}
    if returns.wraps and not (isinstance(plain, dict) and returns.schema is None):
        if plain is not None or returns.schema is not None:
            result["structuredContent"] = {"result": plain}
    else:
        result["structuredContent"] = plain
    return result


def content_block(part: Any) -> Json:
    """A part of a result as a content block; what is no content becomes a text."""
    if isinstance(part, Content):
        return part.block()
    return _text(part if isinstance(part, str) else readable(ANYTHING.jsonable(part)))


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unsayable(value: Any, path: str) -> Iterable[str]:
    """A line for each number that JSON, or nearly every reader of it, cannot say."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path}: {value} is not a JSON number"
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            yield f"{path}: an integer of more than 64 bits; return it as a string"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _unsayable(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unsayable(item, f"{path}[{index}]")


def _table_header(rows: list[Any]) -> list[str] | None:
    """The columns of a list of flat objects that all have the same; None for anything else."""
    first = rows[0] if rows else None
    if not isinstance(first, dict) or not first:
        return None
    for row in rows:
        if not isinstance(row, dict) or row.keys() != first.keys():
            return None
        if any(isinstance(item, (dict, list)) for item in row.values()):
            return None
    return list(first)


def _cell(value: Any) -> str:
    """A CSV cell (RFC 4180); null is an empty cell, an empty string is a quoted one."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if not text or any(c in text for c in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text
