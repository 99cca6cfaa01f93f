"""The actors that hold the cluster's state, and the way to them. Ray is imported here alone.

`RegistryActor` gives `Registry` a process: named `registry` in the cluster's namespace, detached,
pinned to the node that has its directory, restarted by Ray whatever kills it. `RegistryClient` is
the only way to it. Nobody keeps a handle across a failure, and nobody looks an actor up by name
elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from thornback.cluster.catalog import Catalog, ToolSpec, read_entry
from thornback.cluster.errors import (
    RegistryUnavailable,
    StoreConflict,
    StoreError,
    StoreOwned,
    ThornbackError,
)
from thornback.cluster.journal import Journal
from thornback.cluster.news import News, decode_news, decode_snapshot, encode, unreadable
from thornback.cluster.registry import Edit, Registry, decode_edit, encode_edit

REGISTRY = "registry"
"""Name of the registry actor, and of its directory under the cluster's `state_dir`."""
CALL_TIMEOUT_S = 10.0
"""Seconds after which a registry that does not answer counts as away."""
WRITE_TIMEOUT_S = 60.0

_MAX_CONCURRENCY = 2000
_OWNED_ATTEMPTS = 50
_OWNED_PAUSE_S = 0.1
_GOODBYE_S = 0.2
_STORE_ID = b"thornback.store_id"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RegistryInfo(msgspec.Struct, frozen=True):
    """Where the registry runs, and how far it is."""

    pid: int
    node_id: str
    store_id: str
    epoch: int
    number: int
    directory: str
    """Of its store, on that node."""


class RegistryActor:
    """The process of a `Registry`.

    Writes that arrive while one is being synced travel together in the next sync. An answer to
    watchers is made once, however many wait for it. The store is opened by the first call, so that
    a store that cannot be opened is a typed error to that caller, and is tried again by the next.
    """

    def __init__(self, namespace: str, directory: str) -> None:
        self._namespace = namespace
        self._directory = Path(directory)
        self._registry: Registry | None = None
        self._opening = asyncio.Lock()
        self._waiting: list[tuple[Edit, asyncio.Future[tuple[int, int]]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._answers: dict[int, asyncio.Task[bytes]] = {}

    async def write(self, edit: bytes) -> tuple[int, int]:
        """Apply an `Edit`; gives the version of the catalog that holds it, once it is synced.

        Ray repeats the call when this process dies during it; an edit that stands already makes no
        new number, so that does no harm.

        Raises:
            RegistrationError: if the edit cannot stand; nothing of it was kept.
            StoreError: if the disk failed; nothing was acknowledged.
        """
        decoded = await asyncio.to_thread(decode_edit, edit)
        registry = await self._opened()
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((decoded, answer))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(registry))
        return await answer

    async def watch(self, number: int, timeout_s: float) -> bytes:
        """The `News` since `number`, as soon as there is any; after `timeout_s` without changes."""
        registry = await self._opened()
        await self._wait(lambda: registry.version[1] != number, timeout_s)
        answer = self._answers.get(number)
        if answer is None or (answer.done() and answer.exception() is not None):
            news = asyncio.to_thread(lambda: encode(registry.news_since(number)))
            answer = self._answers[number] = asyncio.create_task(news)
        return await asyncio.shield(answer)

    async def wait_for(self, number: int, timeout_s: float) -> tuple[int, int]:
        """The catalog's version, once its number is `number` or later, or the time is over."""
        registry = await self._opened()
        await self._wait(lambda: registry.version[1] >= number, timeout_s)
        return registry.version

    async def snapshot(self) -> bytes:
        """The whole catalog, as a `Snapshot`."""
        registry = await self._opened()
        return await asyncio.to_thread(lambda: encode(registry.snapshot()))

    async def tools_of(self, pool: str) -> list[bytes]:
        """The tools of a pool, as `encode_entry` writes them."""
        registry = await self._opened()
        return await asyncio.to_thread(registry.tools_of, pool)

    async def info(self) -> bytes:
        """A `RegistryInfo`, as JSON."""
        registry = await self._opened()
        node_id = ray.get_runtime_context().get_node_id()
        epoch, number = registry.version
        return msgspec.json.encode(
            RegistryInfo(
                os.getpid(), node_id, registry.store_id, epoch, number, str(self._directory)
            )
        )

    async def keys(self) -> list[bytes]:
        """The cluster's keys for sealing; the first seals, all open."""
        registry = await self._opened()
        return await self._on_disk(registry.keys)

    async def note(self, space: str, key: str, value: bytes | None) -> None:
        """Keep a value beside the catalog, or forget it; watchers hear nothing of it."""
        registry = await self._opened()
        await self._on_disk(lambda: registry.note(space, key, value))

    async def noted(self, space: str, key: str) -> bytes | None:
        registry = await self._opened()
        return await asyncio.to_thread(registry.noted, space, key)

    async def add_note(self, space: str, key: str, value: bytes, keep: int) -> None:
        """Add a JSON value to a list beside the catalog, of which the last `keep` stay."""
        registry = await self._opened()
        await self._on_disk(lambda: registry.add_note(space, key, value, keep))

    async def added_notes(self, space: str, keys: list[str]) -> list[list[bytes]]:
        """The lists under several keys."""
        registry = await self._opened()
        return await asyncio.to_thread(lambda: [registry.added_notes(space, key) for key in keys])

    # --- writing together -------------------------------------------------------------------------

    async def _write_all(self, registry: Registry) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            edits = [edit for edit, _ in together]
            try:
                outcomes = await self._on_disk(partial(registry.write, *edits))
            except Exception as e:
                for _, answer in together:
                    _settle(answer, e)
                continue
            for (_, answer), outcome in zip(together, outcomes, strict=True):
                _settle(answer, outcome)
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        self._answers.clear()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _wait(self, done: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.to_thread(work)
        except StoreConflict:
            raise
        except StoreError:
            # What memory and disk hold may differ now. A new process reads the truth; this one
            # lives just long enough for the answer to leave.
            _log.exception("the registry's store failed; this process ends and Ray starts another")
            asyncio.get_running_loop().call_later(_GOODBYE_S, os._exit, 1)
            raise

    # --- opening ----------------------------------------------------------------------------------

    async def _opened(self) -> Registry:
        if self._registry is None:
            async with self._opening:
                if self._registry is None:
                    self._registry = await self._open()
        return self._registry

    async def _open(self) -> Registry:
        for attempt in range(_OWNED_ATTEMPTS):
            try:
                registry = await asyncio.to_thread(self._open_once)
                break
            except StoreOwned:
                # A killed owner may not be quite gone; its lock goes with it.
                if attempt == _OWNED_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_OWNED_PAUSE_S)
        return registry

    def _open_once(self) -> Registry:
        known = internal_kv._internal_kv_get(_STORE_ID, namespace=self._namespace.encode())
        journal = Journal.open(
            self._directory,
            owner=f"the registry of {self._namespace}",
            program_version=version("thornback"),
            expected_store_id=known.decode() if known else None,
        )
        try:
            registry = Registry(journal)
            internal_kv._internal_kv_put(
                _STORE_ID, journal.store_id.encode(), namespace=self._namespace.encode()
            )
        except BaseException:
            journal.close()  # or this process would be told that it owns the store already
            raise
        return registry


def _settle(answer: asyncio.Future[Any], outcome: object) -> None:
    if answer.cancelled():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class RegistryClient:
    """The registry from elsewhere, for asyncio.

    Outlives the actor: a call during a restart waits for the next process, and one to an actor
    that is gone looks it up anew. Every method raises `RegistryUnavailable` where there is no
    answer in time, what the registry raised as it was raised there, and `StoreError` for an answer
    of another version that cannot be read.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._handle: Any = None

    async def write(self, edit: Edit, timeout_s: float = WRITE_TIMEOUT_S) -> tuple[int, int]:
        """Apply an edit, all or nothing; gives the version of the catalog that holds it."""
        version: tuple[int, int] = await self._call("write", timeout_s, encode_edit(edit))
        return version

    async def watch(self, number: int, timeout_s: float) -> News:
        """What changed since `number`, waiting up to `timeout_s` for a change."""
        return decode_news(await self._call("watch", timeout_s + CALL_TIMEOUT_S, number, timeout_s))

    async def wait_for(self, number: int, timeout_s: float) -> tuple[int, int]:
        """The catalog's version, once its number is at least `number` or the time is over."""
        version: tuple[int, int] = await self._call(
            "wait_for", timeout_s + CALL_TIMEOUT_S, number, timeout_s
        )
        return version

    async def catalog(self, timeout_s: float = CALL_TIMEOUT_S) -> Catalog:
        """The catalog as it is now: a strong read."""
        return decode_snapshot(await self._call("snapshot", timeout_s)).catalog()

    async def tools_of(self, pool: str, timeout_s: float = CALL_TIMEOUT_S) -> list[ToolSpec]:
        """The tools of one pool, which is all of a catalog that its hosts need to know.

        Without those that this version cannot read, as in the catalog of a gateway.
        """
        values: list[bytes] = await self._call("tools_of", timeout_s, pool)
        entries = (read_entry("tools", f"of pool {pool}", value) for value in values)
        return [entry for entry in entries if isinstance(entry, ToolSpec)]

    async def info(self, timeout_s: float = CALL_TIMEOUT_S) -> RegistryInfo:
        answer = await self._call("info", timeout_s)
        try:
            return msgspec.json.decode(answer, type=RegistryInfo)
        except msgspec.DecodeError as error:
            raise unreadable(error) from None

    async def keys(self, timeout_s: float = CALL_TIMEOUT_S) -> list[bytes]:
        """The cluster's keys for sealing, 32 bytes each; the first seals, all open."""
        keys: list[bytes] = await self._call("keys", timeout_s)
        return keys

    async def note(
        self, space: str, key: str, value: bytes | None, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Keep a value durably beside the catalog; None forgets it."""
        await self._call("note", timeout_s, space, key, value)

    async def noted(self, space: str, key: str, timeout_s: float = CALL_TIMEOUT_S) -> bytes | None:
        value: bytes | None = await self._call("noted", timeout_s, space, key)
        return value

    async def add_note(
        self, space: str, key: str, value: bytes, keep: int, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        """Add a JSON value durably to a list beside the catalog, of which the last `keep` stay."""
        await self._call("add_note", timeout_s, space, key, value, keep)

    async def added_notes(
        self, space: str, keys: list[str], timeout_s: float = CALL_TIMEOUT_S
    ) -> list[list[bytes]]:
        """The lists under several keys, oldest value first."""
        lists: list[list[bytes]] = await self._call("added_notes", timeout_s, space, keys)
        return lists

    async def _call(self, method: str, timeout_s: float, *args: object) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                if self._handle is None:
                    self._handle = await asyncio.to_thread(_look_up, self.namespace)
                return await self._method(method).remote(*args)
        except (TimeoutError, GetTimeoutError) as e:
            raise RegistryUnavailable(f"no answer within {timeout_s:g} s") from e
        except RayTaskError as e:
            # Ray's own class derives from both, but its text is the remote traceback.
            if isinstance(e.cause, ThornbackError):
                raise e.cause from None
            raise
        except RayActorError as e:
            self._handle = None
            raise RegistryUnavailable("its actor is gone") from e

    def _method(self, name: str) -> Any:
        try:
            return getattr(self._handle, name)
        except AttributeError as error:  # a detached actor outlives the version that started it
            raise unreadable(error) from None


class BlockingRegistryClient:
    """The registry for code without an event loop: the launcher and the command line."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    def write(self, edit: Edit, timeout_s: float = WRITE_TIMEOUT_S) -> tuple[int, int]:
        return self._run(self._client.write(edit, timeout_s))

    def wait_for(self, number: int, timeout_s: float) -> tuple[int, int]:
        return self._run(self._client.wait_for(number, timeout_s))

    def catalog(self, timeout_s: float = CALL_TIMEOUT_S) -> Catalog:
        return self._run(self._client.catalog(timeout_s))

    def info(self, timeout_s: float = CALL_TIMEOUT_S) -> RegistryInfo:
        return self._run(self._client.info(timeout_s))

    def keys(self, timeout_s: float = CALL_TIMEOUT_S) -> list[bytes]:
        return self._run(self._client.keys(timeout_s))

    def note(
        self, space: str, key: str, value: bytes | None, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._run(self._client.note(space, key, value, timeout_s))

    def noted(self, space: str, key: str, timeout_s: float = CALL_TIMEOUT_S) -> bytes | None:
        return self._run(self._client.noted(space, key, timeout_s))

    def add_note(
        self, space: str, key: str, value: bytes, keep: int, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._run(self._client.add_note(space, key, value, keep, timeout_s))

    def added_notes(
        self, space: str, keys: list[str], timeout_s: float = CALL_TIMEOUT_S
    ) -> list[list[bytes]]:
        return self._run(self._client.added_notes(space, keys, timeout_s))

    @staticmethod
    def _run(work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run(work)


def connect(namespace: str) -> RegistryClient:
    """The registry of a cluster, whether it is up or not; Ray must be initialised."""
    return RegistryClient(namespace)


def start_registry(
    namespace: str, state_dir: Path, *, node_id: str | None = None, timeout_s: float = 60.0
) -> RegistryClient:
    """Start the cluster's registry, or join the one that runs; blocks until it answers.

    Args:
        namespace: `thornback.<cluster>`.
        state_dir: On the node `node_id`; the registry's own directory in it is made where there is
            none.
        node_id: Where the registry stays; this process's node where None.

    Raises:
        StoreOwned: if another process has the directory.
        StoreError: if the store there is foreign, newer, damaged, or gone, or if the registry that
            runs has its store elsewhere.
        RegistryUnavailable: if it does not answer in time.
    """
    directory = os.path.abspath(state_dir / REGISTRY)
    node = node_id or ray.get_runtime_context().get_node_id()
    ray.remote(num_cpus=0)(RegistryActor).options(
        name=REGISTRY,
        namespace=namespace,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_MAX_CONCURRENCY,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote(namespace, directory)
    client = RegistryClient(namespace)
    try:
        running = BlockingRegistryClient(client).info(timeout_s)
    except StoreError:
        # It holds no store, and would answer the next try, maybe for another directory, the same.
        _kill(namespace)
        raise
    if running.directory != directory:
        raise StoreError(
            f"{namespace} is running with its state in {running.directory}, not in {directory}; "
            "take it down first"
        )
    return client


def stop_registry(namespace: str) -> None:
    """End the registry of a cluster that is taken down; its store stays as it is."""
    _kill(namespace)
    # The cluster is over: the next one of this name may begin with another store.
    internal_kv._internal_kv_del(_STORE_ID, namespace=namespace.encode())


def _kill(namespace: str) -> None:
    with suppress(RegistryUnavailable):  # there is none
        ray.kill(_look_up(namespace), no_restart=True)


def _look_up(namespace: str) -> Any:
    try:
        return ray.get_actor(REGISTRY, namespace=namespace)
    except ValueError:
        raise RegistryUnavailable(f"there is none in {namespace}") from None
