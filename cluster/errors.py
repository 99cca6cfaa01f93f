"""Everything this product raises on purpose.

Four planes, by who is to blame. A `ProtocolError` is the request's fault and becomes a JSON-RPC
error. A `ToolFailure` is what the tool or its arguments ran into; the model can read it and react,
so it becomes a result with `isError: true`. An `Unavailable` is nobody's fault: the same call may
work in a moment. A `ConfigError` is the operator's, and is raised before anything is deployed. A
`StoreError` says that durable state could not be read or written.

Each class has a stable dotted `code`: metrics, retries and tests use the code, never the text. How
a class looks on the wire is one table, in `protocol.py`.

These errors cross process boundaries. Ray rebuilds an exception as `type(e)(*e.args)`, so every
class passes all its facts to `super().__init__`, positionally, and makes its sentence in
`__str__`; one that cannot be rebuilt arrives as `UnserializableException` and is caught by nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ThornbackError(Exception):
    """Base of the taxonomy. Never raised itself."""

    code: ClassVar[str]


# --- the request is wrong -------------------------------------------------------------------------


class ProtocolError(ThornbackError):
    """The request is wrong; answered with a JSON-RPC error."""


class ParseError(ProtocolError):
    """The body is not JSON as RFC 8259 has it (NaN and doubled keys included)."""

    code = "request.parse"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"Parse error: {self.why}"


class InvalidRequest(ProtocolError):
    """JSON, but not one JSON-RPC request or notification."""

    code = "request.invalid"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"Invalid request: {self.why}"


class UnknownMethod(ProtocolError):
    """No such method at this protocol revision."""

    code = "request.unknown_method"

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method

    def __str__(self) -> str:
        return f"Method not found: {shown(self.method)}"


class InvalidParams(ProtocolError):
    """The parameters of a method do not fit it."""

    code = "request.invalid_params"

    def __init__(self, why: str, reason: str = "") -> None:
        super().__init__(why, reason)
        self.why = why
        self.reason = reason
        """A word for programs, `data.reason` on the wire; or empty."""

    def __str__(self) -> str:
        return f"Invalid params: {self.why}"


class UnknownTool(ProtocolError):
    """No tool of this name that this caller may use.

    The specification files this under protocol errors, with the code of invalid params rather than
    of method-not-found (2026-07-28, server/tools, "Error Handling").
    """

    code = "tool.unknown"

    def __init__(self, tool: str, hint: str = "") -> None:
        super().__init__(tool, hint)
        self.tool = tool
        self.hint = hint
        """What the caller might have meant, from what this caller may see; or empty."""

    def __str__(self) -> str:
        return f"Unknown tool: {shown(self.tool)}" + (f" ({self.hint})" if self.hint else "")


class UnknownPrompt(ProtocolError):
    """No prompt of this name that this caller may use."""

    code = "prompt.unknown"

    def __init__(self, prompt: str, hint: str = "") -> None:
        super().__init__(prompt, hint)
        self.prompt = prompt
        self.hint = hint

    def __str__(self) -> str:
        return f"Unknown prompt: {shown(self.prompt)}" + (f" ({self.hint})" if self.hint else "")


class UnknownResource(ProtocolError):
    """No resource at this URI that this caller may read (2026-07-28: -32602 with `data.uri`)."""

    code = "resource.unknown"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"Resource not found: {shown(self.uri)}"


class HeaderMismatch(ProtocolError):
    """A routing header and the body disagree (2026-07-28, transports, "Server Validation")."""

    code = "request.header_mismatch"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"Header mismatch: {self.why}"


class MissingCapability(ProtocolError):
    """The call needs a client capability that this request did not declare."""

    code = "request.missing_capability"

    def __init__(self, required: Mapping[str, Any]) -> None:
        super().__init__(dict(required))
        self.required = dict(required)
        """A `ClientCapabilities` object, in wire names."""

    def __str__(self) -> str:
        return f"Missing required client capability: {', '.join(self.required)}"


class UnsupportedVersion(ProtocolError):
    """The protocol revision asked for is not one we speak."""

    code = "request.unsupported_version"

    def __init__(self, requested: str, supported: Sequence[str]) -> None:
        super().__init__(requested, list(supported))
        self.requested = requested
        self.supported = list(supported)

    def __str__(self) -> str:
        return f"Unsupported protocol version: {shown(self.requested)}"


class HttpRefusal(ProtocolError):
    """Refused by HTTP, before the message is understood."""

    code = "http.refused"

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, why, dict(headers or {}))
        self.status = status
        """HTTP status, 401 to 503."""
        self.why = why
        self.headers = dict(headers or {})
        """Response headers that belong to the refusal: `Allow`, `WWW-Authenticate`, ..."""

    def __str__(self) -> str:
        return self.why


# --- the tool, or its arguments -------------------------------------------------------------------


class ToolFailure(ThornbackError):
    """The tool was called and could not do it. Authors raise this one; the model reads the text."""

    code = "tool.failed"


class InvalidArguments(ToolFailure):
    """The arguments do not fit the tool's input schema."""

    code = "tool.invalid_arguments"

    def __init__(self, tool: str, misfits: Sequence[str]) -> None:
        super().__init__(tool, list(misfits))
        self.tool = tool
        self.misfits = list(misfits)
        """One line each: path, what was expected, what was given, the nearest valid name."""

    def __str__(self) -> str:
        return f"Invalid arguments for {self.tool}:\n" + "\n".join(f"- {m}" for m in self.misfits)


class InvalidResult(ToolFailure):
    """The tool returned what its own output schema forbids: a bug of the tool."""

    code = "tool.invalid_result"

    def __init__(self, tool: str, misfits: Sequence[str]) -> None:
        super().__init__(tool, list(misfits))
        self.tool = tool
        self.misfits = list(misfits)

    def __str__(self) -> str:
        return f"{self.tool} returned a result that does not fit its output schema:\n" + "\n".join(
            f"- {m}" for m in self.misfits
        )


class ResultTooLarge(ToolFailure):
    """The result is larger than one call may return."""

    code = "tool.result_too_large"

    def __init__(self, tool: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(tool, size_bytes, limit_bytes)
        self.tool = tool
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"{self.tool} returned {self.size_bytes} bytes and a call may return "
            f"{self.limit_bytes}; ask for less"
        )


class ToolBug(ToolFailure):
    """The tool raised what it did not mean to. The traceback stays on its host."""

    code = "tool.bug"

    def __init__(self, tool: str, error_id: str) -> None:
        super().__init__(tool, error_id)
        self.tool = tool
        self.error_id = error_id
        """`err_...`, under which the host logged the traceback."""

    def __str__(self) -> str:
        return f"{self.tool} failed because of a bug in it (error {self.error_id})"


class BatchFailed(ToolFailure):
    """The tool failed while it ran this call together with others, and it is not safe to repeat.

    What it raised may speak of the other calls, so that nobody but the host's log is told.
    """

    code = "tool.batch_failed"

    def __init__(self, tool: str, error_id: str) -> None:
        super().__init__(tool, error_id)
        self.tool = tool
        self.error_id = error_id
        """`err_...`, under which the host logged what it raised."""

    def __str__(self) -> str:
        return (
            f"{self.tool} failed while it ran this call together with others; the call may have "
            f"taken effect and was not repeated (error {self.error_id})"
        )


class ToolTimeout(ToolFailure):
    """The call did not finish before its deadline."""

    code = "tool.timeout"

    def __init__(self, tool: str, timeout_s: float) -> None:
        super().__init__(tool, timeout_s)
        self.tool = tool
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"{self.tool} did not finish within {self.timeout_s:g} s"


class CallCancelled(ToolFailure):
    """The client cancelled the call; nobody reads the answer."""

    code = "call.cancelled"

    def __init__(self, tool: str) -> None:
        super().__init__(tool)
        self.tool = tool

    def __str__(self) -> str:
        return f"{self.tool} was cancelled"


# --- nobody is to blame ---------------------------------------------------------------------------


class Unavailable(ThornbackError):
    """Nobody can take the call now; the same call may work after `retry_after_s` seconds.

    None: waiting does not help, the operator must act.
    """

    retry_after_s: float | None = 1.0


class Overloaded(Unavailable):
    """The pool's queue was full when the call came, and it was not admitted."""

    code = "pool.overloaded"

    def __init__(self, pool: str, retry_after_s: float) -> None:
        super().__init__(pool, retry_after_s)
        self.pool = pool
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"Pool {self.pool} is full; retry after {self.retry_after_s:g} s"


class PoolBusy(Unavailable):
    """The call was admitted, and no replica of the pool had room for it; it was not started."""

    code = "pool.busy"

    def __init__(self, pool: str, retry_after_s: float) -> None:
        super().__init__(pool, retry_after_s)
        self.pool = pool
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"Every replica of pool {self.pool} is busy; retry after {self.retry_after_s:g} s"


class NoReplica(Unavailable):
    """No replica of the pool came up before the deadline; the call was not started."""

    code = "pool.no_replica"

    def __init__(self, pool: str, why: str, retry_after_s: float) -> None:
        super().__init__(pool, why, retry_after_s)
        self.pool = pool
        self.why = why
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"Pool {self.pool} has no replica: {self.why}; retry after {self.retry_after_s:g} s"


class ReplicaLost(Unavailable):
    """The replica that had accepted the call died. The call may or may not have run."""

    code = "pool.replica_lost"

    def __init__(self, pool: str, tool: str) -> None:
        super().__init__(pool, tool)
        self.pool = pool
        self.tool = tool

    def __str__(self) -> str:
        return (
            f"The replica that ran {self.tool} died; the call may have taken effect and was not "
            "repeated"
        )


class PoolInfeasible(Unavailable):
    """The pool asks for what no node of the cluster has; the call was not started."""

    code = "pool.infeasible"
    retry_after_s = None

    def __init__(self, pool: str, asked: str, available: str) -> None:
        super().__init__(pool, asked, available)
        self.pool = pool
        self.asked = asked
        self.available = available

    def __str__(self) -> str:
        return f"Pool {self.pool} asks for {self.asked}; the cluster has {self.available}"


class PoolBroken(Unavailable):
    """The pool's code cannot be loaded; the call was not started."""

    code = "pool.broken"
    retry_after_s = None

    def __init__(self, pool: str, module: str, cause: str) -> None:
        super().__init__(pool, module, cause)
        self.pool = pool
        self.module = module
        """Dotted name of the tool module, or the part of the environment that failed."""
        self.cause = cause
        """Class and message of what stopped it, without a traceback."""

    def __str__(self) -> str:
        return f"Pool {self.pool} cannot load {self.module}: {self.cause}"


class RegistryUnavailable(Unavailable):
    """The registry is away; what gateways already know goes on being served."""

    code = "registry.unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"The registry is not available: {self.why}"


class ContentUnavailable(Unavailable):
    """The contents of resources cannot be reached, or no more can be taken, for a moment."""

    code = "contents.unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"The contents of resources are not available: {self.why}"


# --- the operator ---------------------------------------------------------------------------------


class ConfigError(ThornbackError):
    """The config, or what it asks for, is wrong. Raised before anything is deployed."""

    code = "config.invalid"


class LaunchError(ThornbackError):
    """The cluster could not be started, joined or stopped; says what to do."""

    code = "cluster.launch"


class ClusterNotRunning(LaunchError):
    """No cluster answers where one was expected; says how to start or name one."""

    code = "cluster.not_running"


class RegistrationError(ThornbackError):
    """A registration was refused; nothing of it was kept."""

    code = "registry.refused"


# --- durable state --------------------------------------------------------------------------------


class StoreError(ThornbackError):
    """Durable state could not be read or written; nothing was acknowledged."""

    code = "store.failed"


class StoreOwned(StoreError):
    """Another process owns this state directory."""

    code = "store.owned"

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(path, owner)
        self.path = path
        self.owner = owner

    def __str__(self) -> str:
        return f"{self.path} is owned by {self.owner}"


class StoreFenced(StoreError):
    """This owner was replaced by a later one; its writes are refused."""

    code = "store.fenced"

    def __init__(self, mine: int, current: int) -> None:
        super().__init__(mine, current)
        self.mine = mine
        self.current = current

    def __str__(self) -> str:
        return f"this owner's epoch {self.mine} is over; the store is at epoch {self.current}"


class StoreConflict(StoreError):
    """A compare-and-set found another value than expected."""

    code = "store.conflict"

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"{self.key} is at revision {self.found}, not {self.expected}"


class ContentDamaged(StoreError):
    """The bytes on disk are not the ones their hash names."""

    code = "store.damaged"

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256)
        self.sha256 = sha256

    def __str__(self) -> str:
        return f"content sha256:{self.sha256} is damaged and was set aside"


class ContentMissing(StoreError):
    """The catalog names content that the store does not have."""

    code = "store.missing"

    def __init__(self, sha256: str) -> None:
        super().__init__(sha256)
        self.sha256 = sha256

    def __str__(self) -> str:
        return f"content sha256:{self.sha256} is missing from the store"


def shown(text: str, limit: int = 80) -> str:
    """A caller's own text, made safe to repeat: one line, printable, at most `limit` characters."""
    if len(text) <= limit and text.isprintable():
        return text
    safe = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return safe if len(safe) <= limit else safe[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def sendable(text: str) -> str:
    """A text that has a form in UTF-8: lone surrogates, as in odd file names, become `\\udce9`."""
    return str.encode(text, "utf-8", "backslashreplace").decode()
