"""`Registry`: who offers what. It judges edits, writes those that stand, and numbers catalogs.

One writer over one journal. An edit is kept whole or not at all; the number that it made is the
number of the catalog that holds it. An edit that changes nothing makes no number, so repeating one
is harmless. No Ray, no clock, no task: `actors.py` gives it a process.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import semver

from thornback.cluster.catalog import (
    ENTRY_TYPES,
    SPACES,
    Catalog,
    Change,
    Entry,
    PoolEntry,
    PromptSpec,
    ResourceSpec,
    Space,
    ToolSpec,
    content_hash_of,
    decode_entry,
    encode_entry,
    key_of,
)
from thornback.cluster.errors import RegistrationError, StoreConflict, StoreError, shown
from thornback.cluster.journal import Journal, Record, Write
from thornback.cluster.news import News, Snapshot
from thornback.cluster.principals import PrincipalEntry
from thornback.cluster.schema_rules import schema_fault

MAX_KEY_CHARACTERS = 2048
MAX_ENTRY_BYTES = 1024 * 1024
MAX_FAULTS_TOLD = 10
NEWS_CHANGES = 1000
"""Changes in one answer to a watcher, unless a single write made more."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Spaces of the journal that are no part of a catalog.
_MARK = Write("registry", "catalog", b"")
"""Written with every edit: the number of this record is the number of the catalog."""
_KEYS = "keys"
_NOTES = "note:"


class Edit(msgspec.Struct, frozen=True):
    """What one write changes, all or nothing."""

    put: list[tuple[Space, bytes]] = []
    """Entries to make or replace, as `encode_entry` writes them."""
    withdraw: list[tuple[Space, str]] = []
    """Keys of entries to take out; one that is not there is no error."""
    pool: str | None = None
    """Where given, `put` holds all tools of that pool: its others are withdrawn."""


def edit_of(
    *entries: Entry, withdraw: Iterable[tuple[Space, str]] = (), pool: str | None = None
) -> Edit:
    """The edit that puts these entries."""
    put = [(_SPACE_OF[type(entry)], encode_entry(entry)) for entry in entries]
    return Edit(put, list(withdraw), pool)


_SPACE_OF: dict[type, Space] = {entry_type: space for space, entry_type in ENTRY_TYPES.items()}
_edit_decoder = msgspec.msgpack.Decoder(Edit)


def encode_edit(edit: Edit) -> bytes:
    return msgspec.msgpack.encode(edit)


def decode_edit(data: bytes) -> Edit:
    """The inverse of `encode_edit`.

    Raises:
        RegistrationError: if `data` is no edit.
    """
    try:
        return _edit_decoder.decode(data)
    except msgspec.DecodeError as e:
        raise RegistrationError(f"not an edit: {e}") from None


class Kept(NamedTuple):
    """An entry as the registry holds it: the bytes, and what it judges other edits by."""

    value: bytes
    pool: str | None
    """The pool of a tool."""


Entries = Mapping[tuple[str, str], Kept]
"""What is offered, by space and key."""


class Registry:
    """The one mutable truth about what is offered.

    `write` is for one thread at a time. Everything else may be called meanwhile, and sees what has
    been synced and nothing else.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        """
        Raises:
            StoreError: if the journal cannot be read, or holds what no registry wrote.
        """
        mark = journal.get(_MARK.space, _MARK.key)
        try:
            entries = {
                (record.space, record.key): Kept(record.value, _pool_of(record.space, record.value))
                for space in SPACES
                for record in journal.scan(space)
            }
        except msgspec.DecodeError as e:
            raise StoreError(f"{journal.directory} holds a tool that is none: {e}") from e
        # One reference, replaced whole: a reader never sees entries without their number.
        self._state: tuple[int, dict[tuple[str, str], Kept]] = (mark.number if mark else 0, entries)

    @property
    def store_id(self) -> str:
        return self._journal.store_id

    @property
    def version(self) -> tuple[int, int]:
        """`(epoch, number)` of the catalog as it is now."""
        return self._journal.epoch, self._state[0]

    def write(self, *edits: Edit) -> list[tuple[int, int] | RegistrationError]:
        """Apply edits in their order, each all or nothing, with one sync for all.

        Returns:
            For each the version of the catalog that holds it, or why nothing of it was kept.

        Raises:
            StoreError: if the journal could not be written; then no edit is acknowledged.
        """
        number, kept = self._state
        entries = dict(kept)
        outcomes: list[list[Change] | RegistrationError] = []
        for edit in edits:
            try:
                outcomes.append(_apply(plan(entries, edit), entries))
            except RegistrationError as refusal:
                outcomes.append(refusal)
        batches = [_batch_of(outcome) for outcome in outcomes if isinstance(outcome, list)]
        numbers = iter(self._journal.commit(*batches) if any(batches) else [])
        answers: list[tuple[int, int] | RegistrationError] = []
        for outcome in outcomes:
            if isinstance(outcome, RegistrationError):
                answers.append(outcome)
                continue
            made = next(numbers, number)
            if isinstance(made, StoreError):  # no write of ours expects anything
                raise made
            # A batch of nothing gets the number before it, which may be a note's.
            number = made if outcome else number
            answers.append((self._journal.epoch, number))
        self._state = (number, entries)
        return answers

    @property
    def catalog(self) -> Catalog:
        """The catalog as it is now, decoded anew: 10,000 tools take some tens of milliseconds."""
        return self.snapshot().catalog()

    def snapshot(self) -> Snapshot:
        number, entries = self._state
        rows = [(space, key, entries[space, key].value) for space, key in sorted(entries)]
        return Snapshot(self.store_id, self._journal.epoch, number, rows)

    def tools_of(self, pool: str) -> list[bytes]:
        """The tools of a pool, as they are kept."""
        return [kept.value for kept in self._state[1].values() if kept.pool == pool]

    def news_since(self, number: int) -> News:
        """What a watcher that has reached `number` should hear next."""
        epoch, current = self.version
        changes = self.changes_since(number)
        reached = changes[-1].number if changes else current
        return News(self.store_id, epoch, reached, changes)

    def changes_since(self, number: int) -> list[Change] | None:
        """Changes of the catalog after `number`; None where only a snapshot can tell.

        Raises:
            StoreError: if the log cannot be read.
        """
        current = self._state[0]
        if number >= current:  # beyond it is no number of this store
            return [] if number == current else None
        reached = number
        while True:
            changes = self._journal.read_from(reached, NEWS_CHANGES)
            if not changes:
                return changes
            offered = [c for c in changes if c.space in ENTRY_TYPES]
            if offered:
                return offered
            # A long run of notes: the changes of the catalog are further on.
            reached = changes[-1].number

    # --- durable, and no part of a catalog --------------------------------------------------------

    def note(self, space: str, key: str, value: bytes | None) -> None:
        """Keep a value beside the catalog, or forget it; watchers hear nothing of it.

        Raises:
            StoreError: as `write` does.
        """
        if self.noted(space, key) != value:
            self._journal.commit([Write(_NOTES + space, key, value)])

    def noted(self, space: str, key: str) -> bytes | None:
        record = self._journal.get(_NOTES + space, key)
        return record.value if record else None

    def add_note(self, space: str, key: str, value: bytes, keep: int) -> None:
        """Add a JSON value to the list under a key, which keeps its last `keep` values.

        A value that is the last one already is not added again: Ray repeats calls.

        Raises:
            StoreError: as `write` does.
        """
        while True:
            record = self._journal.get(_NOTES + space, key)
            values = _listed(record)
            if values[-1:] == [value]:
                return
            kept = [msgspec.Raw(each) for each in [*values, value][-keep:]]
            expect = record.number if record else 0
            (made,) = self._journal.commit(
                [Write(_NOTES + space, key, msgspec.json.encode(kept), expect)]
            )
            if not isinstance(made, StoreConflict):  # another one was added meanwhile
                return

    def added_notes(self, space: str, key: str) -> list[bytes]:
        """What `add_note` kept under a key, oldest first."""
        return _listed(self._journal.get(_NOTES + space, key))

    def keys(self) -> list[bytes]:
        """The cluster's keys for sealing, 32 random bytes each: the first seals, all open."""
        ring = [record.value for record in self._journal.scan(_KEYS)]
        if ring:
            return ring
        (made,) = self._journal.commit([Write(_KEYS, "1", secrets.token_bytes(32), expect=0)])
        if isinstance(made, StoreError) and not isinstance(made, StoreConflict):
            raise made
        return [record.value for record in self._journal.scan(_KEYS)]


def _listed(record: Record | None) -> list[bytes]:
    if record is None:
        return []
    return [bytes(raw) for raw in msgspec.json.decode(record.value, type=list[msgspec.Raw])]


def plan(entries: Entries, edit: Edit) -> list[Change]:
    """What `edit` changes in `entries`, number 0, without the parts that are so already.

    Raises:
        RegistrationError: with every fault of the edit, one line each (at most
            `MAX_FAULTS_TOLD`).
    """
    new = list(_decoded(edit))
    gone: set[tuple[str, str]] = set(edit.withdraw)
    if edit.pool is not None:
        gone |= {key for key, kept in entries.items() if kept.pool == edit.pool}
    faults = [
        *(
            f"{_title(entry)}: {fault}"
            for space, value, entry in new
            if not _stands(entries, space, key_of(entry), value)
            for fault in _faults_of(entry)
        ),
        *_clashes(entries, gone, edit.pool, [entry for _, _, entry in new]),
    ]
    if faults:
        more = len(faults) - MAX_FAULTS_TOLD
        told = faults[:MAX_FAULTS_TOLD] + ([f"... and {more} more"] if more > 0 else [])
        raise RegistrationError("\n".join(told))
    put = {(space, key_of(entry)): value for space, value, entry in new}
    return [
        Change(0, space, key, None)
        for space, key in sorted(gone - put.keys())
        if (space, key) in entries
    ] + [
        Change(0, space, key, value)
        for (space, key), value in put.items()
        if not _stands(entries, space, key, value)
    ]


def _stands(entries: Entries, space: str, key: str, value: bytes) -> bool:
    """Whether an entry is kept exactly so already, hence has been judged."""
    kept = entries.get((space, key))
    return kept is not None and kept.value == value


def _decoded(edit: Edit) -> Iterator[tuple[Space, bytes, Entry]]:
    for space, value in edit.put:
        if len(value) > MAX_ENTRY_BYTES:
            raise RegistrationError(
                f"an entry of {space} has {len(value)} bytes, and {MAX_ENTRY_BYTES} are allowed"
            )
        try:
            yield space, value, decode_entry(space, value)
        except msgspec.DecodeError as e:
            raise RegistrationError(f"not an entry of {space}: {e}") from None
        except RecursionError:
            raise RegistrationError(f"not an entry of {space}: nested too deep") from None


def _clashes(
    entries: Entries, gone: set[tuple[str, str]], pool: str | None, new: Sequence[Entry]
) -> Iterator[str]:
    """Where new entries contradict each other, or what stays."""
    seen: dict[tuple[str, str], Entry] = {}
    for entry in new:
        at = (_SPACE_OF[type(entry)], key_of(entry))
        if isinstance(entry, ToolSpec):
            if pool is not None and entry.pool != pool:
                yield f"{_title(entry)}: of pool {entry.pool}, in an edit of pool {pool}"
            kept = None if at in gone else entries.get(at)
            other = seen.get(at)
            offered_by = other.pool if isinstance(other, ToolSpec) else kept and kept.pool
            if offered_by not in (None, entry.pool):
                yield (
                    f"{_title(entry)} is offered by pool {offered_by} and by pool {entry.pool}; "
                    "two pools may offer one tool only at different versions"
                )
                continue
        if isinstance(entry, ResourceSpec) and _is_anothers(entry, entries.get(at)):
            yield f"{_title(entry)} belongs to somebody else"
        if at in seen:
            yield f"{_title(entry)}: put twice in one edit"
        seen[at] = entry
    yield from _shared_keys(entries, gone, new)


def _is_anothers(entry: ResourceSpec, kept: Kept | None) -> bool:
    """Whether a caller's resource would replace one that is not that caller's. The gateway has
    looked already, at a catalog that may be old; the operator, who has no name, replaces any."""
    if kept is None or entry.owner is None:
        return False
    present = decode_entry("resources", kept.value)
    return isinstance(present, ResourceSpec) and present.owner != entry.owner


def _shared_keys(
    entries: Entries, gone: set[tuple[str, str]], new: Sequence[Entry]
) -> Iterator[str]:
    """Principals that would share a bearer key: who called could then not be told."""
    callers = [entry for entry in new if isinstance(entry, PrincipalEntry)]
    if not callers:
        return
    replaced = gone | {("principals", caller.name) for caller in callers}
    owners: dict[str, str] = {}
    for at, kept in entries.items():
        if at[0] == "principals" and at not in replaced:
            entry = decode_entry("principals", kept.value)
            assert isinstance(entry, PrincipalEntry)
            owners[entry.key_sha256] = entry.name
    for caller in callers:
        owner = owners.setdefault(caller.key_sha256, caller.name)
        if owner != caller.name:
            yield f"principals {owner} and {caller.name} have the same key"


def _faults_of(entry: Entry) -> Iterator[str]:
    """What is wrong with an entry in itself."""
    key = key_of(entry)
    if not key or len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        yield f"a key is 1 to {MAX_KEY_CHARACTERS} printable characters"
    if isinstance(entry, ToolSpec | PromptSpec):
        if not _NAME.fullmatch(entry.name):
            yield "a name is 1 to 64 of a-z, A-Z, 0-9, _ and -"
        if not semver.Version.is_valid(entry.version):
            yield f"{shown(entry.version)!r} is not a semantic version such as 1.0.0"
    if isinstance(entry, ToolSpec):
        yield from _tool_faults(entry)
    elif isinstance(entry, PoolEntry) and not _NAME.fullmatch(entry.name):
        yield "a name is 1 to 64 of a-z, A-Z, 0-9, _ and -"
    elif isinstance(entry, ResourceSpec) and not _SHA256.fullmatch(entry.sha256):
        yield "sha256 is not 64 lower-case hex digits"
    elif isinstance(entry, PrincipalEntry) and not _SHA256.fullmatch(entry.key_sha256):
        yield "key_sha256 is not 64 lower-case hex digits"


def _tool_faults(spec: ToolSpec) -> Iterator[str]:
    if not spec.pool:
        yield "names no pool"
    fault = schema_fault(bytes(spec.input_schema), of_object=True)
    if fault is not None:
        yield f"input schema: {fault}"
    if spec.output_schema is not None:
        fault = schema_fault(bytes(spec.output_schema), of_object=False)
        if fault is not None:
            yield f"output schema: {fault}"
    if spec.content_hash and spec.content_hash != content_hash_of(spec):
        yield "content_hash is not that of its name, description and schemas"


def _title(entry: Entry) -> str:
    kind = _SPACE_OF[type(entry)].removesuffix("s")
    return f"{kind} {shown(key_of(entry))}"


def _apply(changes: list[Change], entries: dict[tuple[str, str], Kept]) -> list[Change]:
    for change in changes:
        at = (change.space, change.key)
        if change.value is None:
            del entries[at]
        else:
            entries[at] = Kept(change.value, _pool_of(change.space, change.value))
    return changes


def _batch_of(changes: list[Change]) -> list[Write]:
    writes = [Write(change.space, change.key, change.value) for change in changes]
    return [*writes, _MARK] if writes else []


class _ToolHead(msgspec.Struct):
    pool: str


_head_decoder = msgspec.json.Decoder(_ToolHead)


def _pool_of(space: str, value: bytes) -> str | None:
    return _head_decoder.decode(value).pool if space == "tools" else None
