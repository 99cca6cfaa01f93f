"""`Journal`: durable records, and the ordered log of their changes. All SQL of the project is here.

A journal is one directory: an SQLite database in WAL mode, and a lock file that says who owns it.
Whatever is acknowledged was synced to disk before. A second owner is refused by the lock; should
the lock fail (a file system without locks, a deleted lock file), the epoch that every commit
verifies stops the former owner. What the records mean is for the stores above to know: to a journal
they are bytes under `(space, key)`.

The public methods of `Journal` are the storage interface of every store here (append, read from a
number, compare and set, transaction); a networked database would be a second class with the same.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from thornback.cluster.catalog import Change
from thornback.cluster.directories import make_directory, sync_directory
from thornback.cluster.errors import StoreConflict, StoreError, StoreFenced, StoreOwned
from thornback.cluster.ids import new_id

SCHEMA = 1
"""Number of the tables below; a journal with a higher one is refused."""
DEFAULT_LOG_CHANGES = 20_000
"""Changes that the log keeps before its oldest are trimmed away."""
DEFAULT_LOG_BYTES = 64 * 1024 * 1024
"""Bytes of values that it keeps: a thousand tools with large schemas, replaced a few times."""
CHECKPOINT_BYTES = 8 * 1024 * 1024
"""Bytes written to the WAL after which it is copied into the database."""
_WRITE_BYTES = 16 * 1024
"""What a write may add to the WAL beside its value: whole pages of records, log and indexes."""

_DATABASE = "journal.sqlite"
_LOCK = "owner"
_TABLES = """
CREATE TABLE store (
    store_id TEXT NOT NULL, schema INTEGER NOT NULL, program_version TEXT NOT NULL,
    epoch INTEGER NOT NULL, number INTEGER NOT NULL, trimmed INTEGER NOT NULL
);
CREATE TABLE records (
    space TEXT NOT NULL, key TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (space, key)
);
CREATE TABLE changes (
    position INTEGER PRIMARY KEY, number INTEGER NOT NULL,
    space TEXT NOT NULL, key TEXT NOT NULL, value BLOB
);
CREATE INDEX changes_by_number ON changes (number);
"""
_SELECT = "SELECT space, key, number, value FROM records WHERE space = ?"
_PUT = """
INSERT INTO records (space, key, number, value) VALUES (?, ?, ?, ?)
ON CONFLICT (space, key) DO UPDATE SET number = excluded.number, value = excluded.value
"""
_DELETE = "DELETE FROM records WHERE space = ? AND key = ?"
_LOG = "INSERT INTO changes (number, space, key, value) VALUES (?, ?, ?, ?)"
_LOG_SIZE = "SELECT count(*), ifnull(sum(length(value)), 0) FROM changes"
_FIRST_TOO_MANY = """
SELECT number FROM (
    SELECT number, position, row_number() OVER newer AS changes,
        sum(ifnull(length(value), 0)) OVER newer AS bytes
    FROM changes WINDOW newer AS (ORDER BY position DESC)
) WHERE changes > ? OR bytes > ? ORDER BY position DESC LIMIT 1
"""


class Write(NamedTuple):
    """One record to put, or with `value` None to delete."""

    space: str
    key: str
    value: bytes | None
    expect: int | None = None
    """Number of the record that this replaces, 0 where there must be none; None: whatever is."""


class Record(NamedTuple):
    """One record as it is now."""

    space: str
    key: str
    number: int
    """Number of the batch that wrote it last."""
    value: bytes


class _LogSize(NamedTuple):
    """How long the log is: changes, and bytes of their values."""

    changes: int
    bytes: int

    def with_batch(self, batch: Sequence[Write]) -> _LogSize:
        values = sum(len(write.value or b"") for write in batch)
        return _LogSize(self.changes + len(batch), self.bytes + values)

    def is_beyond(self, bound: _LogSize) -> bool:
        """Whether it is a quarter over its bound: trimming each time would cost each write."""
        return 4 * self.changes > 5 * bound.changes or 4 * self.bytes > 5 * bound.bytes


class Journal:
    """An open journal; its process owns the directory until `close` or the process's end.

    Methods may be called from any thread; commits happen one after the other.
    """

    def __init__(self, directory: Path, lock: int, log_bound: _LogSize) -> None:
        # `open` is the way in: it holds the lock, and knows what to do when the rest fails.
        self.directory = directory
        self._lock = lock
        self._log_bound = log_bound
        self._committing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = _connect(directory / _DATABASE)
        self._reader = _connect(directory / _DATABASE)
        self._failure: str | None = None
        self._unmerged_bytes = 0
        self._logged = _LogSize(0, 0)
        self.store_id = ""
        self.epoch = 0
        self.number = 0
        """Number of the last committed batch; never repeats in a store."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        owner: str,
        program_version: str,
        expected_store_id: str | None = None,
        log_changes: int = DEFAULT_LOG_CHANGES,
        log_bytes: int = DEFAULT_LOG_BYTES,
    ) -> Journal:
        """Own `directory`, and create the store where there is none.

        Args:
            directory: Created with its parents, for this user alone.
            owner: Who opens it, for the message to whoever comes second.
            program_version: Recorded as the program that wrote last.
            expected_store_id: The store that must be there. An empty or foreign directory is an
                error then: a disk that was not mounted must not look like a fresh start.
            log_changes: Changes that the log keeps.
            log_bytes: Bytes of their values that it keeps.

        Raises:
            StoreOwned: if another process owns the directory.
            StoreError: if the store is foreign, newer than this program, damaged, or unreadable.
        """
        try:
            if expected_store_id is not None and not (directory / _DATABASE).exists():
                raise StoreError(f"{directory} holds no store; expected {expected_store_id}")
            make_directory(directory)
            lock = _take_lock(directory / _LOCK, owner)
        except OSError as e:
            raise StoreError(f"cannot open {directory}: {e}") from e
        journal: Journal | None = None
        try:
            _touch_privately(directory / _DATABASE)
            journal = cls(directory, lock, _LogSize(log_changes, log_bytes))
            journal._begin_epoch(program_version, expected_store_id)
        except BaseException as e:
            if journal is not None:
                journal._disconnect()
            os.close(lock)
            if isinstance(e, sqlite3.Error | OSError):
                raise StoreError(f"cannot open {directory}: {e}") from e
            raise
        return journal

    def close(self) -> None:
        """Give the directory up. Nothing is lost without it."""
        with self._committing, self._reading:
            self._disconnect()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
            self._failure = self._failure or "it was closed"

    # --- writing ----------------------------------------------------------------------------------

    def commit(self, *batches: Sequence[Write]) -> list[int | StoreError]:
        """Write every batch, each all or nothing, in one transaction and with one sync.

        Returns:
            For each batch its number, or the `StoreConflict` for which nothing of it was written.
            A batch without writes makes no number and gets the one before it.

        Raises:
            StoreFenced: if another owner has opened the store since.
            StoreError: if the disk failed; then no batch is acknowledged, and the journal refuses
                further writes until it is opened again.
        """
        with self._committing:
            if self._failure is not None:
                raise StoreError(
                    f"{self.directory} takes no writes until it is opened again: {self._failure}"
                )
            try:
                self._merge_wal()
                outcomes = self._transact(batches)
            except (sqlite3.Error, OSError) as e:
                # What a failed sync left behind is unknown: the kernel may have dropped the dirty
                # pages and call the next sync a success. Only a fresh start reads the truth.
                self._failure = str(e)
                raise StoreError(f"{self.directory} could not be written: {e}") from e
        return outcomes

    def _transact(self, batches: Sequence[Sequence[Write]]) -> list[int | StoreError]:
        outcomes: list[int | StoreError] = []
        with self._transaction() as number:
            logged = self._logged
            for batch in batches:
                try:
                    with self._savepoint():
                        self._apply(batch, number + 1)
                except StoreConflict as conflict:
                    outcomes.append(conflict)
                    continue
                number += bool(batch)
                logged = logged.with_batch(batch)
                outcomes.append(number)
            logged = self._trim(logged)
            self._writer.execute("UPDATE store SET number = ?", (number,))
        self.number, self._logged = number, logged
        # A value is written twice: as the record, and into the log.
        self._unmerged_bytes += sum(
            _WRITE_BYTES + 2 * len(w.value or b"") for batch in batches for w in batch
        )
        return outcomes

    @contextmanager
    def _transaction(self) -> Iterator[int]:
        """One synced transaction of this epoch; gives the number of the last batch before it."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            epoch, number = self._writer.execute("SELECT epoch, number FROM store").fetchone()
            if epoch != self.epoch:
                raise StoreFenced(self.epoch, epoch)
            yield number
            self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            raise

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._writer.execute("SAVEPOINT batch")
        try:
            yield
        except StoreConflict:
            self._writer.execute("ROLLBACK TO batch")
            raise
        finally:
            self._writer.execute("RELEASE batch")

    def _apply(self, batch: Sequence[Write], number: int) -> None:
        for space, key, value, expect in batch:
            if expect is not None:
                self._verify(space, key, expect)
            if value is None:
                self._writer.execute(_DELETE, (space, key))
            else:
                self._writer.execute(_PUT, (space, key, number, value))
            self._writer.execute(_LOG, (number, space, key, value))

    def _verify(self, space: str, key: str, expect: int) -> None:
        row = self._writer.execute(
            "SELECT number FROM records WHERE space = ? AND key = ?", (space, key)
        ).fetchone()
        found = row[0] if row else 0
        if found != expect:
            raise StoreConflict(f"{space}/{key}", expect, found)

    def _trim(self, logged: _LogSize) -> _LogSize:
        """Drop the oldest batches of a log that is over its bound; gives its size."""
        if not logged.is_beyond(self._log_bound):
            return logged
        # A batch goes whole: half of one would be a state that never was.
        (through,) = self._writer.execute(_FIRST_TOO_MANY, self._log_bound).fetchone()
        self._writer.execute("DELETE FROM changes WHERE number <= ?", (through,))
        self._writer.execute("UPDATE store SET trimmed = ?", (through,))
        return self._log_size()

    def _log_size(self) -> _LogSize:
        return _LogSize(*self._writer.execute(_LOG_SIZE).fetchone())

    def _merge_wal(self) -> None:
        """Copy the WAL into the database when it has grown.

        Here and not in SQLite's own time after a commit, where a failure would go unnoticed.
        """
        if self._unmerged_bytes >= CHECKPOINT_BYTES:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._unmerged_bytes = 0

    # --- reading ----------------------------------------------------------------------------------

    def get(self, space: str, key: str) -> Record | None:
        """One record, None where there is none."""
        rows = self._read(f"{_SELECT} AND key = ?", space, key)
        return Record(*rows[0]) if rows else None

    def scan(self, space: str) -> Iterator[Record]:
        """Every record of a space at one moment, by key."""
        return (Record(*row) for row in self._read(f"{_SELECT} ORDER BY key", space))

    def read_from(self, number: int, limit: int = 1000) -> list[Change] | None:
        """The changes after batch `number`, oldest first.

        Batches come whole: at least one where there is any, more as long as the changes number no
        more than `limit`.

        Returns:
            None where the log cannot tell: the changes were trimmed away, or `number` is not one
            of this store's.
        """
        with self._reading, self._reader_transaction():
            trimmed, last = self._reader.execute("SELECT trimmed, number FROM store").fetchone()
            if not trimmed <= number <= last:
                return None
            rows = self._reader.execute(
                "SELECT number, space, key, value FROM changes"
                " WHERE number > ? AND number <= ? ORDER BY position",
                (number, self._last_within(number, limit, last)),
            )
            return [Change(*row) for row in rows]

    def _last_within(self, number: int, limit: int, last: int) -> int:
        """Number of the last batch that an answer of `limit` changes after `number` can hold."""
        numbers = "SELECT number FROM changes WHERE number > ? ORDER BY position LIMIT 1 OFFSET ?"
        too_many = self._reader.execute(numbers, (number, limit)).fetchone()
        if too_many is None:
            return last
        first = self._reader.execute(numbers, (number, 0)).fetchone()
        return max(int(first[0]), int(too_many[0]) - 1)

    def _read(self, statement: str, *parameters: str) -> list[tuple[str, str, int, bytes]]:
        with self._reading, self._reader_transaction():
            return self._reader.execute(statement, parameters).fetchall()

    @contextmanager
    def _reader_transaction(self) -> Iterator[None]:
        try:
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("COMMIT")
        except sqlite3.Error as e:
            raise StoreError(f"{self.directory} could not be read: {e}") from e

    # --- opening ----------------------------------------------------------------------------------

    def _begin_epoch(self, program_version: str, expected_store_id: str | None) -> None:
        tables = [name for (name,) in self._writer.execute("SELECT name FROM sqlite_master")]
        if tables and "store" not in tables:
            raise StoreError(f"{self.directory / _DATABASE} is a database of another program")
        if not tables:
            if expected_store_id is not None:
                raise StoreError(f"{self.directory} holds no store; expected {expected_store_id}")
            self._create(program_version)
        row = self._writer.execute(
            "SELECT store_id, schema, program_version, epoch, number FROM store"
        ).fetchone()
        if row is None:
            raise StoreError(f"{self.directory} holds a store that has lost its id")
        store_id, schema, writer, epoch, number = row
        if schema > SCHEMA:
            raise StoreError(
                f"{self.directory} has schema {schema}, written by version {writer}; "
                f"version {program_version} reads up to schema {SCHEMA}"
            )
        if expected_store_id not in (None, store_id):
            raise StoreError(f"{self.directory} holds {store_id}; expected {expected_store_id}")
        self._restart_wal()
        self.store_id, self.epoch, self.number = store_id, epoch, number
        with self._transaction():
            self._writer.execute(
                "UPDATE store SET epoch = ?, program_version = ?", (epoch + 1, program_version)
            )
        self.epoch = epoch + 1
        self._logged = self._log_size()

    def _create(self, program_version: str) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _TABLES.split(";")):
            self._writer.execute(statement)
        self._writer.execute(
            "INSERT INTO store VALUES (?, ?, ?, 0, 0, 0)", (new_id("sto"), SCHEMA, program_version)
        )
        self._writer.execute("COMMIT")
        # SQLite syncs the directory entry of the WAL, but not that of the database.
        sync_directory(self.directory)

    def _restart_wal(self) -> None:
        """Merge the WAL of the owner before and begin an empty one.

        After a failed sync its pages may be in memory and not on disk, marked clean. A frame
        appended behind those would be synced and yet lost: recovery stops at the first gap.
        """
        busy, _, _ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(f"{self.directory} is being used by a process without its lock")

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            with suppress(sqlite3.Error):
                connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun and ended by hand; threads are kept apart by the journal's own locks.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _touch_privately(path: Path) -> None:
    """Make the file if there is none, for this user alone; SQLite gives its WAL the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _take_lock(path: Path, owner: str) -> int:
    """The descriptor of the lock file, locked; the kernel frees it with the process."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 512, 0).decode("utf-8", "replace").strip()
        os.close(lock)
        raise StoreOwned(str(path.parent), holder or "another process") from None
    except BaseException:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{owner} (pid {os.getpid()} on {socket.gethostname()})\n".encode(), 0)
    return lock
