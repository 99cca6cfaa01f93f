"""What a tool can ask of the client in the middle of a call: requests, and the answers to them.

Multi round-trip requests (2026-07-28, SEP-2322): the call is answered with the requests, and the
client calls again with its answers under the same keys. This module knows what the requests look
like on the wire and what a sound answer is; `context.py` decides when to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Request = dict[str, Any]
Answer = dict[str, Any]

_CAPABILITY = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


def elicitation(message: str, schema: Mapping[str, Any]) -> Request:
    """Asks the user to fill in a form; the answer is `{action, content}`.

    Args:
        message: What the user reads.
        schema: An object of flat properties: strings, numbers, booleans, enums, lists of enums.
    """
    params = {"mode": "form", "message": message, "requestedSchema": dict(schema)}
    return {"method": "elicitation/create", "params": params}


def sampling(
    prompt: str,
    max_tokens: int = 1000,
    *,
    system_prompt: str | None = None,
    role: Literal["user", "assistant"] = "user",
) -> Request:
    """Asks the client's model; the answer is `{role, content, model}`."""
    content = {"type": "text", "text": prompt}
    params: dict[str, Any] = {
        "messages": [{"role": role, "content": content}],
        "maxTokens": max_tokens,
    }
    if system_prompt is not None:
        params["systemPrompt"] = system_prompt
    return {"method": "sampling/createMessage", "params": params}


def roots() -> Request:
    """Asks for the client's roots; the answer is `{roots: [{uri, name}]}`."""
    return {"method": "roots/list"}


def missing_capability(request: Request, capabilities: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `ClientCapabilities` that a request needs and the client did not declare, if any."""
    capability = _CAPABILITY[request["method"]]
    declared = capabilities.get(capability)
    if not isinstance(declared, dict):
        return {capability: {}}
    # An empty object stands for forms; a client that names modes has only those.
    if capability == "elicitation" and declared and "form" not in declared:
        return {"elicitation": {"form": {}}}
    return None


def is_answer(request: Request, answer: object) -> bool:
    """Whether the client's answer has the shape that the request asks for."""
    if not isinstance(answer, dict):
        return False
    match request["method"]:
        case "elicitation/create":
            accepted = answer.get("action") == "accept" and isinstance(answer.get("content"), dict)
            return accepted or answer.get("action") in ("decline", "cancel")
        case "sampling/createMessage":
            return isinstance(answer.get("content"), (dict, list)) and "role" in answer
        case _:
            return isinstance(answer.get("roots"), list)
