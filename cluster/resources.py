"""`ContentStore`: bytes by their SHA-256, on disk, returned exactly or not at all.

The files are the truth: each is written aside, synced, renamed into place and its directory synced
before anything is acknowledged, and each is hashed again whenever it is read. The index beside them
(diskcache, hence SQLite) only says what was synced and how large it is; a damaged or missing one is
made again from the files. Names, MIME types and permissions are the catalog's, not this module's;
keeping what is hot in memory is `blob_actor.py`'s.

    <directory>/files/ab/cd/abcd...    content, named by its hash
    <directory>/partial/               being written; emptied when the store is opened
    <directory>/damaged/               set aside: what was not what its name says
    <directory>/index/                 sha256 -> bytes
    <directory>/lock                   flock: one process writes, any number reads
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache

from thornback.cluster.directories import make_directory, sync_directory
from thornback.cluster.errors import ContentDamaged, StoreError, StoreOwned

READ_BYTES = 1 << 20
_HEX = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class Stored(NamedTuple):
    """What a put made."""

    sha256: str
    size_bytes: int


def is_sha256(text: str) -> bool:
    """Whether `text` can name content: 64 lower-case hex digits."""
    return _HEX.fullmatch(text) is not None


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ContentFiles:
    """The readers' side of a content store: needs no lock and changes nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path_of(self, sha256: str) -> Path:
        """Where content of this hash lies, if it is there.

        Raises:
            ValueError: if `sha256` is not a hash; a path is never made from anything else.
        """
        if not is_sha256(sha256):
            raise ValueError("not the lower-case hex of a SHA-256")
        return self.directory / "files" / sha256[:2] / sha256[2:4] / sha256

    def get(self, sha256: str) -> bytes | None:
        """The content, verified; None where there is none.

        Raises:
            ContentDamaged: if there are other bytes under this name.
            StoreError: if the disk cannot be read.
        """
        try:
            data = self.path_of(sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _store_error("read", error) from error
        if sha256_of(data) != sha256:
            raise ContentDamaged(sha256)
        return data


class Incoming:
    """Content that is arriving; it exists for nobody until `keep`."""

    def __init__(self, store: ContentStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._open = True

    @property
    def sha256(self) -> str:
        """The hash of what has arrived so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add a chunk.

        Raises:
            StoreError: if it cannot be written; what arrived before is discarded too.
        """
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self.discard()
            raise _store_error("write", error) from error
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def keep(self) -> Stored:
        """Make it content of the store; synced when this returns.

        Raises:
            StoreError: if that failed; it may be tried again from the beginning.
        """
        stored = Stored(self.sha256, self.size_bytes)
        try:
            os.fsync(self._fd)
            self._store._adopt(self._path, stored)
        except OSError as error:
            raise _store_error("write", error) from error
        finally:
            self.discard()
        return stored

    def discard(self) -> None:
        """Forget it; does nothing the second time, nor after `keep`."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):
            os.close(self._fd)
        with contextlib.suppress(OSError):
            os.unlink(self._path)


class ContentStore(ContentFiles):
    """The owner of a directory of contents: the one process that writes to it. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`, made where it is missing, and put right what a crash left.

        Raises:
            StoreOwned: if another process, or another store of this one, owns it.
            StoreError: if it cannot be read or written.
        """
        super().__init__(directory)
        self._mutex = threading.RLock()
        self._synced_directories: set[Path] = set()
        try:
            for name in ("files", "partial", "damaged"):
                make_directory(directory / name)
            self._lock = _locked(directory)
        except OSError as error:
            raise _store_error("open", error) from error
        for left in (directory / "partial").iterdir():
            left.unlink(missing_ok=True)
        self._index = _Index(directory / "index")
        self._index_is_current = False
        # Without room for an index there can be no put, but what is there can still be read.
        with contextlib.suppress(StoreError):
            self._with_index(lambda: None)

    def close(self) -> None:
        with self._mutex:
            self._index.close()
            if self._lock >= 0:
                os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> ContentStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def put(self, data: bytes | Iterable[bytes]) -> str:
        """Keep `data`, given whole or in chunks; synced when this returns its hash.

        Content that is there already is written again: what was damaged is whole afterwards.

        Raises:
            StoreError: if it could not be kept; there is nothing half then.
        """
        incoming = self.incoming()
        try:
            for chunk in [data] if isinstance(data, bytes) else data:
                incoming.write(chunk)
            return incoming.keep().sha256
        finally:
            incoming.discard()

    def incoming(self) -> Incoming:
        """Content to be written bit by bit.

        Raises:
            StoreError: if the disk takes nothing.
        """
        try:
            return Incoming(self, self.directory / "partial" / secrets.token_hex(16))
        except OSError as error:
            raise _store_error("write", error) from error

    def get(self, sha256: str) -> bytes | None:
        """As `ContentFiles.get`; damaged content is set aside, so that the next get finds none."""
        try:
            return super().get(sha256)
        except ContentDamaged:
            with self._mutex:
                self._set_aside_if_damaged(sha256)
            raise

    def holds(self, sha256: str) -> bool:
        """Whether `get` would return the content: it is read and hashed to find out."""
        try:
            return self.get(sha256) is not None
        except ContentDamaged:
            return False

    def delete(self, sha256: str) -> bool:
        """Remove content; False where there was none."""
        path = self.path_of(sha256)
        with self._mutex:
            self._with_index(lambda: self._index.forget([sha256]))
            try:
                path.unlink()
                sync_directory(path.parent)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _store_error("delete", error) from error
        return True

    def sizes(self) -> Mapping[str, int]:
        """Bytes of everything that is kept, by hash, sorted."""
        with self._mutex:
            return self._with_index(lambda: dict(sorted(self._index.sizes().items())))

    def total_bytes(self) -> int:
        return sum(self.sizes().values())

    def _adopt(self, path: Path, stored: Stored) -> None:
        """Give a synced file its name. The index learns of it last: it lists what is durable."""
        target = self.path_of(stored.sha256)
        with self._mutex:
            self._ensure_directory(target.parent)
            os.replace(path, target)
            sync_directory(target.parent)
            self._with_index(lambda: self._index.note({stored.sha256: stored.size_bytes}))

    def _ensure_directory(self, path: Path) -> None:
        """Make a directory below `files` that a power cut does not take away again."""
        if path in self._synced_directories:
            return
        if path != self.directory / "files":
            self._ensure_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        sync_directory(path.parent)
        self._synced_directories.add(path)

    def _set_aside_if_damaged(self, sha256: str) -> None:
        # Looked at again under the lock: a put may have healed it since, and must not be undone.
        try:
            super().get(sha256)
        except ContentDamaged:
            aside = self.directory / "damaged" / f"{sha256}.{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):  # on a disk that fails it is damaged where it is
                os.replace(self.path_of(sha256), aside)
            self._with_index(lambda: self._index.forget([sha256]))

    def _with_index(self, use: Callable[[], T]) -> T:
        """Use the index; a damaged one is made again from the files first."""
        try:
            self._reconcile()
            return use()
        except (*_INDEX_ERRORS, OSError):
            self._index_is_current = False
        try:
            self._index.recreate()
            self._reconcile()
            return use()
        except (*_INDEX_ERRORS, OSError) as error:
            self._index_is_current = False
            raise StoreError(f"the index of contents cannot be written: {error}") from error

    def _reconcile(self) -> None:
        """Make the index say what the files say, once after it was opened."""
        if self._index_is_current:
            return
        found = dict(_files_below(self.directory / "files"))
        listed = self._index.sizes()
        self._index.forget(sha for sha in listed if sha not in found)
        unlisted = {sha: size for sha, size in found.items() if sha not in listed}
        for sha256 in unlisted:  # renamed into place by a process that died before it synced that
            _sync_file(self.path_of(sha256))
            self._ensure_directory(self.path_of(sha256).parent)
            sync_directory(self.path_of(sha256).parent)
        self._index.note(unlisted)
        self._index_is_current = True
        for sha256, size_bytes in found.items():
            if listed.get(sha256, size_bytes) != size_bytes:
                self._index.note({sha256: size_bytes})
                self._set_aside_if_damaged(sha256)


class IndexDamaged(Exception):
    """A row of the index is not one that we wrote."""


class _PlainDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text to integers and nothing else: diskcache's own would unpickle what it finds, which runs
    whatever somebody put there."""

    def put(self, key: object) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"the index is keyed by text, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not raw or type(key) is not str or not is_sha256(key):
            raise IndexDamaged("a key")
        return key

    def store(self, value: object, read: bool, key: Any = None) -> tuple[int, int, None, int]:
        if type(value) is not int:
            raise TypeError(f"the index holds integers, not {type(value).__name__}")
        return 0, diskcache.core.MODE_RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> int:
        if mode != diskcache.core.MODE_RAW or type(value) is not int:
            raise IndexDamaged("a value")
        return value


_INDEX_ERRORS = (sqlite3.Error, diskcache.Timeout, IndexDamaged)


class _Index:
    """The size of what is durable, by hash. Raises `_INDEX_ERRORS` where it is damaged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: Any = None

    @property
    def _cache(self) -> Any:
        if self._opened is None:
            self._opened = diskcache.Cache(
                str(self._directory),
                timeout=10,
                disk=_PlainDisk,
                eviction_policy="none",
                cull_limit=0,
                sqlite_synchronous=2,  # FULL
            )
        return self._opened

    def note(self, sizes: Mapping[str, int]) -> None:
        if sizes:
            with self._cache.transact():
                for sha256, size_bytes in sizes.items():
                    self._cache.set(sha256, size_bytes)

    def forget(self, hashes: Iterable[str]) -> None:
        hashes = list(hashes)
        if hashes:
            with self._cache.transact():
                for sha256 in hashes:
                    self._cache.delete(sha256)

    def sizes(self) -> dict[str, int]:
        return {sha256: self._cache[sha256] for sha256 in list(self._cache.iterkeys())}

    def recreate(self) -> None:
        """Begin again with an empty index."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        if self._opened is not None:
            with contextlib.suppress(sqlite3.Error):
                self._opened.close()
            self._opened = None


def _locked(directory: Path) -> int:
    """A descriptor that holds the directory's lock until it is closed, or its process dies."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(lock, 100).decode("utf-8", "replace").strip() or "another process"
        os.close(lock)
        raise StoreOwned(str(directory), owner) from None
    with contextlib.suppress(OSError):  # only for the other's error message
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()}\n".encode())
    return lock


def _files_below(directory: Path) -> Iterator[tuple[str, int]]:
    """Hash and size of every file that lies where content of its name would lie."""
    for path in directory.glob("??/??/*"):
        if is_sha256(path.name) and path.parent == directory / path.name[:2] / path.name[2:4]:
            yield path.name, path.stat().st_size


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _store_error(verb: str, error: OSError) -> StoreError:
    why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return StoreError(f"cannot {verb} content: {why}")
