"""`ToolSpec` and its kin, and `Catalog`: an immutable, numbered snapshot of what is offered.

A catalog is what gateways answer from. Same entries, same order, same bytes, on every replica: all
lists are sorted by name, and what a client reads is made from the entry alone. Nothing here knows
HTTP, Ray or who is listening; `registry.py` makes catalogs, gateways hold them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import semver

from thornback.cluster.errors import shown
from thornback.cluster.principals import Caller, PrincipalBook, PrincipalEntry

_log = logging.getLogger(__name__)

Space = Literal["tools", "prompts", "resources", "templates", "pools", "principals"]
"""The kinds of entry a catalog holds; also the first half of an entry's key in the journal."""


if TYPE_CHECKING:
    _OptionalRaw = msgspec.Raw | None
else:
    # msgspec decodes a union with `Raw` as if `Raw` were not in it. None is never written (it is
    # the default, and defaults are left out), so that what is read is always a document.
    _OptionalRaw = msgspec.Raw


class Annotations(msgspec.Struct, frozen=True, omit_defaults=True):
    """Hints to clients (2026-07-28, server/tools, "ToolAnnotations"); None says nothing."""

    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


class AccessPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may use an entry, beside what each principal's own patterns say."""

    principals: tuple[str, ...] = ("*",)
    """Shell patterns of principal names; `tag:PATTERN` matches a principal's tags."""

    def admits(self, caller: Caller) -> bool:
        who = caller.principal
        return "*" in self.principals or any(
            any(fnmatchcase(tag, pattern.removeprefix("tag:")) for tag in who.tags)
            if pattern.startswith("tag:")
            else fnmatchcase(who.name, pattern)
            for pattern in self.principals
        )


class CallPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the engine treats calls of a tool."""

    timeout_s: float = 30.0
    """Seconds the tool may take, from the moment a host admits the call."""
    queue_timeout_s: float = 30.0
    """Seconds a call may wait before that: for a replica to start, or for one to have room."""
    max_attempts: int = 2
    """How often a call may be sent, where it is safe to repeat: idempotent or read-only tools."""
    max_result_bytes: int = 4 * 1024 * 1024
    """Largest result, in bytes of JSON; a larger one is an error that says so."""


MAX_BATCH_SIZE = 1024
MAX_BATCH_WAIT_S = 10.0
MAX_CONCURRENT_BATCHES = 64


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a host collects calls of a batch tool for one invocation; the names are Ray Serve's.

    A batch starts as soon as it may. While `max_concurrent_batches` run, calls collect, so that
    batches grow with the load and a lone call does not wait.
    """

    max_batch_size: int = 32
    """Calls in one invocation at most, 1 to 1024; 1 runs each call by itself."""
    batch_wait_timeout_s: float = 0.0
    """Seconds, 0 to 10, that a batch which is not full and may start waits for more calls."""
    max_concurrent_batches: int = 1
    """Invocations that run at a time in one replica, 1 to 64."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("max_batch_size", self.max_batch_size, 1, MAX_BATCH_SIZE),
            ("batch_wait_timeout_s", self.batch_wait_timeout_s, 0, MAX_BATCH_WAIT_S),
            ("max_concurrent_batches", self.max_concurrent_batches, 1, MAX_CONCURRENT_BATCHES),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value} and must be between {least} and {most:g}")


class Lifecycle(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a version stands between its first day and its last."""

    state: Literal["active", "deprecated", "retired"] = "active"
    sunset: str | None = None
    """ISO 8601 date after which the version may be retired."""
    successor: str | None = None
    """Tool (and version) to use instead."""


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of one tool: everything a gateway must know to offer and route it."""

    name: str
    """1 to 64 of `[a-zA-Z0-9_-]`: what every model provider accepts."""
    version: str
    """Semantic version."""
    description: str
    title: str | None = None
    signature: str = ""
    """The Python signature, for people."""
    module: str = ""
    """Dotted name of the module that declares the tool."""
    input_schema: msgspec.Raw
    """JSON Schema 2020-12 with `type: object` on top, byte for byte as it is published."""
    output_schema: _OptionalRaw = None
    annotations: Annotations = Annotations()
    access: AccessPolicy = AccessPolicy()
    call: CallPolicy = CallPolicy()
    batch: Batch | None = None
    """For a batch tool: how its calls are collected; None: it takes one call at a time."""
    pool: str
    """Name of the pool that runs this version."""
    owner: str | None = None
    tags: tuple[str, ...] = ()
    visibility: Literal["listed", "unlisted"] = "listed"
    """An unlisted tool can be called by those who may and is in no list."""
    lifecycle: Lifecycle = Lifecycle()
    content_hash: str = ""
    """`content_hash_of` this spec: what hosts compare with what they imported."""
    stated: tuple[str, ...] = ()
    """Of a tool as its decorator declares it: the settings that the decorator gives, also where it
    gives the built-in value. Empty in a catalog, where the config has been heard too."""

    @property
    def key(self) -> str:
        """The entry's key in the journal."""
        return f"{self.name}@{self.version}"

    @property
    def is_prerelease(self) -> bool:
        """Whether the version has a hyphen before its build metadata (semver.org, 9 and 10)."""
        return "-" in self.version.partition("+")[0]

    @property
    def repeatable(self) -> bool:
        """Whether running a call twice is as good as once."""
        return bool(self.annotations.idempotent or self.annotations.read_only)


def content_hash_of(spec: ToolSpec) -> str:
    """SHA-256 over what a client relies on: name, description and both schemas, as published."""
    digest = hashlib.sha256()
    output = b"" if spec.output_schema is None else bytes(spec.output_schema)
    for part in (spec.name.encode(), spec.description.encode(), bytes(spec.input_schema), output):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class PromptArgument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One typed argument of a prompt template."""

    name: str
    description: str = ""
    required: bool = False
    type: Literal["string", "integer", "number", "boolean"] = "string"
    """MCP sends strings; this is what they must read as."""
    values: tuple[str, ...] = ()
    """The values that completion offers, and the only ones accepted where there are any."""
    default: str | None = None


class PromptAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that the template needs from the user, asked for by form elicitation."""

    name: str
    message: str
    schema: msgspec.Raw
    """The `requestedSchema`: an object of flat properties."""


class PromptMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a prompt; exactly one of the contents is set, each a template."""

    role: Literal["user", "assistant"] = "user"
    text: str | None = None
    image: str | None = None
    """URI of a resource of the catalog with an image MIME type."""
    resource: str | None = None
    """URI of a resource of the catalog, embedded whole."""


class PromptSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A versioned prompt template."""

    name: str
    version: str = "1.0.0"
    title: str | None = None
    description: str
    arguments: tuple[PromptArgument, ...] = ()
    asks: tuple[PromptAsk, ...] = ()
    messages: tuple[PromptMessage, ...]
    access: AccessPolicy = AccessPolicy()

    @property
    def key(self) -> str:
        return self.name


class ResourceSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name for content: a URI, what it is, and the hash of its bytes."""

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str = "application/octet-stream"
    sha256: str
    """Lower-case hex; the key of the bytes in the content store."""
    size_bytes: int
    owner: str | None = None
    """Principal that put it; None for the operator."""
    access: AccessPolicy = AccessPolicy()

    @property
    def key(self) -> str:
        return self.uri


class TemplateSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A family of resources: an RFC 6570 URI template, and the text it makes."""

    uri_template: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str = "text/plain"
    text: str
    """A sandboxed Jinja2 template over the variables of `uri_template`."""
    access: AccessPolicy = AccessPolicy()

    @property
    def key(self) -> str:
        return self.uri_template


class Bundle(msgspec.Struct, frozen=True, omit_defaults=True):
    """What shall be on one node."""

    resources: dict[str, float]
    labels: tuple[dict[str, str], ...] = ()
    """Ray's label selectors, of which the node must match one; empty: any node."""


class PoolEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool as the catalog knows it, with or without replicas."""

    name: str
    application: str
    """Name of its Serve application, `thornback.<cluster>.<pool>`."""
    modules: tuple[str, ...]
    state: Literal["ready", "broken"] = "ready"
    failed_module: str | None = None
    """For a broken pool: the module (or part of the environment) that failed."""
    cause: str | None = None
    """For a broken pool: class and message of what stopped it."""
    lost_tools: tuple[str, ...] = ()
    """For a broken pool: names of tools found in its source without importing it."""
    max_queued_requests: int = -1
    ask: dict[str, float] = msgspec.field(default_factory=dict)
    """What one replica asks for in all: `CPU`, `GPU`, `memory` (bytes) and custom resources."""
    bundles: tuple[Bundle, ...] = ()
    """How `ask` is parted among nodes; empty: one node, whichever, has all of it."""
    apart: bool = False
    """Whether no two bundles may share a node."""

    @property
    def key(self) -> str:
        return self.name


Entry = ToolSpec | PromptSpec | ResourceSpec | TemplateSpec | PoolEntry | PrincipalEntry

ENTRY_TYPES: dict[Space, type[Any]] = {
    "tools": ToolSpec,
    "prompts": PromptSpec,
    "resources": ResourceSpec,
    "templates": TemplateSpec,
    "pools": PoolEntry,
    "principals": PrincipalEntry,
}
SPACES: tuple[Space, ...] = tuple(ENTRY_TYPES)


def key_of(entry: Entry) -> str:
    """The key under which an entry is kept in its space."""
    return entry.name if isinstance(entry, PrincipalEntry) else entry.key


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One entry made, replaced (`value` is its JSON) or withdrawn (`value` is None)."""

    number: int
    space: str
    key: str
    value: bytes | None


class ToolRights(NamedTuple):
    """All that decides which tools a caller sees: callers with equal rights see the same."""

    patterns: frozenset[str]
    """Of the names that it may use."""
    policies: frozenset[AccessPolicy]
    """Those of the tools' policies that let it in and not everybody."""


class Catalog:
    """What is offered at one moment. Immutable: a change makes another catalog.

    Ordered by `(epoch, number)`: `number` counts committed writes and never repeats in a store;
    `epoch` counts the owners the store has had.
    """

    def __init__(
        self,
        store_id: str,
        epoch: int,
        number: int,
        entries: Mapping[Space, Mapping[str, Entry]],
    ) -> None:
        self.store_id = store_id
        self.epoch = epoch
        self.number = number
        self._entries = {space: entries.get(space, {}) for space in SPACES}
        self._tool_rights: dict[Caller, ToolRights] = {}

    @classmethod
    def empty(cls) -> Catalog:
        """What a gateway holds before it has heard from the registry."""
        return cls("", 0, 0, {})

    @property
    def version(self) -> tuple[int, int]:
        return self.epoch, self.number

    def of(self, space: Space) -> Mapping[str, Entry]:
        """Every entry of a space by key, in no particular order."""
        return self._entries[space]

    def changed(self, epoch: int, changes: Iterable[Change]) -> Catalog:
        """The catalog after `changes`, in their order. Spaces without a change are shared."""
        spaces: dict[Space, dict[str, Entry]] = {}
        touched: dict[str, set[str]] = {}  # keys of changed tools by name
        number = self.number
        for change in changes:
            number = max(number, change.number)
            if change.space not in ENTRY_TYPES:  # written by a later version of this program
                continue
            space: Space = change.space
            if space not in spaces:
                spaces[space] = dict(self._entries[space])
            old = spaces[space].pop(change.key, None)
            # What cannot be read takes the old entry away all the same, which is no longer true.
            new = None if change.value is None else read_entry(space, change.key, change.value)
            if new is not None:
                spaces[space][change.key] = new
            for spec in (old, new):
                if isinstance(spec, ToolSpec):
                    touched.setdefault(spec.name, set()).add(change.key)
        catalog = Catalog(self.store_id, epoch, number, {**self._entries, **spaces})
        catalog._inherit(self, spaces.keys(), touched)
        return catalog

    def _inherit(
        self, before: Catalog, changed: Collection[Space], touched: Mapping[str, set[str]]
    ) -> None:
        """Take over what `before` has made already and these changes leave as it is.

        With 10,000 tools, sorting them anew for each single change would cost a gateway more than
        all else about it.
        """
        if "principal_book" in vars(before) and "principals" not in changed:
            vars(self)["principal_book"] = before.principal_book
        if "tools" in vars(before):
            vars(self)["tools"] = self._tools_after(before.tools, touched)

    def _tools_after(
        self, before: Mapping[str, tuple[ToolSpec, ...]], touched: Mapping[str, set[str]]
    ) -> Mapping[str, tuple[ToolSpec, ...]]:
        if not touched:
            return before
        tools, entries = dict(before), self._entries["tools"]
        for name, keys in touched.items():
            kept = [spec for spec in before.get(name, ()) if spec.key not in keys]
            made = [spec for key in keys if isinstance(spec := entries.get(key), ToolSpec)]
            if kept or made:
                tools[name] = _newest_first(kept + made)
            else:
                tools.pop(name, None)
        if any(name not in before for name in touched):
            return {name: tools[name] for name in sorted(tools)}
        return tools

    # What follows is made on first use and kept: a catalog is read far more often than it changes.

    @cached_property
    def tools(self) -> Mapping[str, tuple[ToolSpec, ...]]:
        """Versions of each tool, newest first, by name; names in their order."""
        versions: dict[str, list[ToolSpec]] = {}
        for spec in self._entries["tools"].values():
            assert isinstance(spec, ToolSpec)
            versions.setdefault(spec.name, []).append(spec)
        return {name: _newest_first(versions[name]) for name in sorted(versions)}

    @cached_property
    def principal_book(self) -> PrincipalBook:
        return PrincipalBook(
            e for e in self._entries["principals"].values() if isinstance(e, PrincipalEntry)
        )

    @cached_property
    def _selective_policies(self) -> frozenset[AccessPolicy]:
        tools = self._entries["tools"].values()
        return frozenset(
            spec.access
            for spec in tools
            if isinstance(spec, ToolSpec) and "*" not in spec.access.principals
        )

    def tool_rights(self, caller: Caller) -> ToolRights:
        """What this caller shares with all who see the same tools, to keep lists by."""
        rights = self._tool_rights.get(caller)
        if rights is None:
            patterns = frozenset(("*",) if "*" in caller.tools else caller.tools)
            admitting = (policy for policy in self._selective_policies if policy.admits(caller))
            rights = self._tool_rights[caller] = ToolRights(patterns, frozenset(admitting))
        return rights

    def tool(self, name: str, caller: Caller, version: str | None = None) -> ToolSpec | None:
        """The version of `name` that answers this caller: the newest stable one, or `version`.

        None where there is no such tool or this caller may not use it: the same answer.
        """
        known = self.tools.get(name, ())
        if len(known) == 1:  # as with nearly all tools
            (spec,) = known
            asked = version is None or version == spec.version
            return spec if asked and _may_use(caller, spec) else None
        versions = [s for s in known if _may_use(caller, s)]
        if version is not None:
            return next((s for s in versions if s.version == version), None)
        return next((s for s in versions if not s.is_prerelease), next(iter(versions), None))

    def listed_tools(self, caller: Caller) -> Iterator[ToolSpec]:
        """What `tools/list` shows this caller: one version a tool, by name."""
        found = (self.tool(name, caller) for name in self.tools)
        return (spec for spec in found if spec is not None and spec.visibility == "listed")

    def visible(self, space: Space, caller: Caller) -> list[Entry]:
        """The prompts, resources or templates that this caller may see, by key."""
        entries = self._entries[space]
        return [entries[key] for key in sorted(entries) if _access_of(entries[key]).admits(caller)]

    def get(self, space: Space, key: str, caller: Caller) -> Entry | None:
        """One prompt, resource or template; None also where this caller may not see it."""
        entry = self._entries[space].get(key)
        return entry if entry is not None and _access_of(entry).admits(caller) else None

    def pool(self, name: str) -> PoolEntry | None:
        entry = self._entries["pools"].get(name)
        return entry if isinstance(entry, PoolEntry) else None


def _newest_first(versions: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    if len(versions) < 2:  # as nearly all are: parsing 10,000 versions would take 50 ms
        return tuple(versions)
    # By the text as well: versions that differ in build metadata alone are equal to semver, and
    # every replica must list them in one order.
    return tuple(
        sorted(versions, key=lambda s: (semver.Version.parse(s.version), s.version), reverse=True)
    )


def _may_use(caller: Caller, spec: ToolSpec) -> bool:
    return caller.may_use(spec.name) and spec.access.admits(caller)


def _access_of(entry: Entry) -> AccessPolicy:
    return getattr(entry, "access", None) or AccessPolicy()


_decoders = {space: msgspec.json.Decoder(entry_type) for space, entry_type in ENTRY_TYPES.items()}


def encode_entry(entry: Entry) -> bytes:
    """An entry as the journal keeps it: JSON; fields that have their defaults are left out."""
    return msgspec.json.encode(entry)


def decode_entry(space: Space, value: bytes) -> Entry:
    """The inverse of `encode_entry`; fields that this version does not know are ignored.

    Raises:
        msgspec.ValidationError: if `value` is not an entry of this space.
    """
    entry: Entry = _decoders[space].decode(value)
    return entry


def read_entry(space: Space, key: str, value: bytes) -> Entry | None:
    """An entry of a catalog; None, and a line in the log, for one that this version cannot read.

    A later version of this program may have written it. What is offered beside it must not suffer.
    """
    try:
        return decode_entry(space, value)
    except msgspec.DecodeError as error:
        _log.warning("%s %s is left out of the catalog: %s", space, shown(key), error)
        return None
