"""The context of a request at every revision: its own, its session's, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thornback.cluster.errors import HeaderMismatch, UnsupportedVersion
from thornback.cluster.protocol import Request
from thornback.cluster.revisions import (
    ASSUMED,
    LATEST_LEGACY,
    MODERN,
    SUPPORTED_MODERN,
    VERSION_META,
    Revision,
    revision_asked,
)
from thornback.deployments.exchange import Exchange, Incoming
from thornback.deployments.replies import Reply
from thornback.deployments.sdk import check_param_headers, read_envelope
from thornback.deployments.sessions import Session, Sessions
from thornback.deployments.tool_calls import requested_version

VERSION_HEADER = "mcp-protocol-version"
SESSION_HEADER = "mcp-session-id"


def session_of(incoming: Incoming, sessions: Sessions) -> Session | None:
    """The session of a request of an older revision, None where it names none.

    Raises:
        HttpRefusal: 404 for a session that is not this caller's.
        HeaderMismatch: if the header names another revision than the session agreed on.
    """
    request, headers = incoming.request, incoming.headers
    asked = revision_asked(headers.get(VERSION_HEADER), request.meta)
    if request.method == "initialize" or (asked is not None and asked.modern):
        return None
    if SESSION_HEADER not in headers:
        return None
    session = sessions.read(headers[SESSION_HEADER], incoming.caller.principal)
    if asked is not None and asked != session.revision:
        raise HeaderMismatch(
            f"MCP-Protocol-Version header says {asked.name}, the session agreed on "
            f"{session.revision_name}"
        )
    return session


def exchange_of(incoming: Incoming, session: Session | None, reply: Reply) -> Exchange:
    """The request with its context.

    Raises:
        ThornbackError: if headers and body of a request of 2026-07-28 do not agree.
    """
    request, headers = incoming.request, incoming.headers
    version = headers.get(VERSION_HEADER)
    revision = revision_asked(version, request.meta)
    capabilities: Mapping[str, Any] = {}
    info: Mapping[str, Any] | None = None
    if revision is not None and revision.modern:
        if version != MODERN.name and VERSION_META not in (request.meta or {}):
            raise UnsupportedVersion(version or "", SUPPORTED_MODERN)
        capabilities, info = read_envelope(request, headers)
        _check_param_headers(incoming)
    elif session is not None:
        revision, capabilities = session.revision, session.capabilities
        info = {"name": session.client_name, "version": session.client_version}
    return Exchange(
        request=request,
        body=incoming.body,
        revision=revision or _assumed(request),
        caller=incoming.caller,
        catalog=incoming.catalog,
        capabilities=capabilities,
        client_info=info,
        notify=reply.notify,
        room=reply.room,
        request_id=incoming.request_id,
    )


def _assumed(request: Request) -> Revision:
    return LATEST_LEGACY if request.method == "initialize" else ASSUMED


def _check_param_headers(incoming: Incoming) -> None:
    request = incoming.request
    name, arguments = request.params.get("name"), request.params.get("arguments")
    if request.method == "tools/call" and isinstance(name, str):
        version = requested_version(request.meta or {})
        spec = incoming.catalog.tool(name, incoming.caller, version)
        if spec is not None:
            given = arguments if isinstance(arguments, dict) else {}
            check_param_headers(spec, given, incoming.headers)
