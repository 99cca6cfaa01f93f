"""`prompts/get`, `resources/read` and `completion/complete`: what one caller may read.

Which prompts and resources there are is the catalog's, how a template is filled in is
`cluster/prompts.py`; the bytes come from a `Contents`.
"""

from __future__ import annotations

import base64
from typing import Any, Protocol

from thornback.cluster.catalog import PromptMessage, ResourceSpec, TemplateSpec
from thornback.cluster.errors import InvalidParams, UnknownResource, shown
from thornback.cluster.messages import InputNeeded
from thornback.cluster.prompts import Completion, PromptLibrary, completion_of
from thornback.cluster.uri_templates import variables_in, variables_of
from thornback.deployments.exchange import Exchange
from thornback.deployments.lists import LIST_TTL_MS
from thornback.deployments.request_states import RequestStates
from thornback.deployments.tool_calls import InputNotPossible, input_required

TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml")


class Contents(Protocol):
    """Where bytes come from: `deployments.contents.ContentReader`."""

    async def read(self, spec: ResourceSpec) -> bytes: ...

    def render(self, spec: TemplateSpec, uri: str) -> str | None:
        """The text of a URI of this family, None for a URI of none."""
        ...


class Reading:
    """Answers the methods that read."""

    def __init__(self, contents: Contents, states: RequestStates, cache_scope: str) -> None:
        self._contents = contents
        self._states = states
        self._cache_scope = cache_scope

    async def read_resource(self, exchange: Exchange) -> dict[str, Any]:
        content = await self._content(exchange, exchange.request.params["uri"])
        return {
            "resultType": "complete",
            "contents": [content],
            "ttlMs": LIST_TTL_MS,
            "cacheScope": self._cache_scope,
        }

    async def get_prompt(self, exchange: Exchange) -> dict[str, Any]:
        params = exchange.request.params
        name: str = params["name"]
        library = PromptLibrary(exchange.catalog, exchange.caller)
        modern = exchange.revision.modern
        self._states.open(exchange)
        found = library.render(
            name,
            params.get("arguments") or {},
            params.get("inputResponses") or {},
            # A prompt asks nothing of a client that has no way to be asked.
            exchange.capabilities if modern else {"elicitation": {}},
        )
        if isinstance(found, InputNeeded):
            if not modern:
                why = InputNotPossible(name, exchange.revision.name)
                raise InvalidParams(str(why), why.code)
            return input_required(exchange, found, self._states)
        messages = [await self._message(exchange, message) for message in found]
        description = library.find(name).description
        return {"resultType": "complete", "description": description, "messages": messages}

    async def complete(self, exchange: Exchange) -> dict[str, Any]:
        params = exchange.request.params
        reference, argument = params["ref"], params["argument"]
        if reference["type"] == "ref/prompt":
            library = PromptLibrary(exchange.catalog, exchange.caller)
            found = library.complete(reference["name"], argument["name"], argument["value"])
        else:
            found = self._variable(exchange, reference["uri"], argument["name"], argument["value"])
        completion = {
            "values": list(found.values),
            "total": found.total,
            "hasMore": found.has_more,
        }
        return {"resultType": "complete", "completion": completion}

    def _variable(self, exchange: Exchange, template: str, name: str, prefix: str) -> Completion:
        spec = exchange.catalog.get("templates", template, exchange.caller)
        if not isinstance(spec, TemplateSpec):
            raise UnknownResource(template)
        if name not in variables_of(template):
            raise InvalidParams(f"{shown(template)} has no variable {shown(name)}")
        # What a variable may be is not written down anywhere; what there is can be offered.
        visible = exchange.catalog.visible("resources", exchange.caller)
        found = [
            variables_in(template, entry.uri)
            for entry in visible
            if isinstance(entry, ResourceSpec)
        ]
        values = [variables[name] for variables in found if variables is not None]
        return completion_of([value for value in values if isinstance(value, str)], prefix)

    async def _message(self, exchange: Exchange, message: PromptMessage) -> dict[str, Any]:
        if message.text is not None:
            content: dict[str, Any] = {"type": "text", "text": message.text}
        elif message.image is not None:
            spec = self._resource(exchange, message.image)
            if spec is None:
                raise UnknownResource(message.image)
            data = base64.b64encode(await self._contents.read(spec)).decode()
            content = {"type": "image", "data": data, "mimeType": spec.mime_type}
        else:
            embedded = await self._content(exchange, message.resource or "")
            content = {"type": "resource", "resource": embedded}
        return {"role": message.role, "content": content}

    async def _content(self, exchange: Exchange, uri: str) -> dict[str, Any]:
        """The contents of a resource, or of a URI of a template.

        Raises:
            UnknownResource: if there is none, or none for this caller, which is the same answer.
        """
        spec = self._resource(exchange, uri)
        if spec is not None:
            return _shaped(uri, spec.mime_type, await self._contents.read(spec))
        for entry in exchange.catalog.visible("templates", exchange.caller):
            if isinstance(entry, TemplateSpec):
                text = self._contents.render(entry, uri)
                if text is not None:
                    return {"uri": uri, "mimeType": entry.mime_type, "text": text}
        raise UnknownResource(uri)

    def _resource(self, exchange: Exchange, uri: str) -> ResourceSpec | None:
        spec = exchange.catalog.get("resources", uri, exchange.caller)
        return spec if isinstance(spec, ResourceSpec) else None


def _shaped(uri: str, mime_type: str, data: bytes) -> dict[str, Any]:
    """Text where the type says so and the bytes are, else base64."""
    content: dict[str, Any] = {"uri": uri, "mimeType": mime_type}
    if mime_type.startswith(TEXT_TYPES):
        try:
            return content | {"text": data.decode("utf-8")}
        except UnicodeDecodeError:
            pass
    return content | {"blob": base64.b64encode(data).decode()}
