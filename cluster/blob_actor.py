"""`BlobActor`: the owner of a node's contents, and how everybody else reaches it.

Disk is the truth (`resources.py`); what is read often is in Ray's object store as well. An object
dies with the process that put it, so the actor puts it itself: a tool or a gateway that goes away
loses nothing, and an actor that goes away is restarted and fills its objects again from disk.
What contents are called and who may read them is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import cachetools
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from thornback.cluster.errors import ContentUnavailable, StoreError, StoreOwned, ThornbackError
from thornback.cluster.ids import new_id
from thornback.cluster.resources import ContentFiles, ContentStore, Incoming, Stored, sha256_of

T = TypeVar("T")

ACTOR = "blobs"
"""Name of the actor, in the namespace of its cluster."""
CONTENTS = "contents"
"""Its directory, in the cluster's state directory."""
INLINE_BYTES = 100_000
"""Content up to this size travels in the answer itself; Ray has a limit of the same size."""
CHUNK_BYTES = 1 << 20
MAX_HOT_BYTES = 256 << 20
MAX_ARRIVING = 32
"""Contents that may be arriving at one time."""
ARRIVAL_IDLE_S = 60.0
"""Seconds without a chunk after which an arriving content is given up: its sender has died."""
LOCK_WAIT_S = 15.0
"""Seconds that a restarted actor waits for its predecessor to be gone."""


class _Hot(NamedTuple):
    ref: Any
    size_bytes: int


class _Arriving(NamedTuple):
    incoming: Incoming
    gives_up: asyncio.TimerHandle


class BlobActor:
    """Runs on the node that has the directory; everything that blocks runs in its threads."""

    def __init__(self, directory: str, hot_bytes: int) -> None:
        self._store = _opened(Path(directory))
        # One writer, so that what is synced is synced in order; few readers, because each holds
        # a whole content in memory.
        self._writer = ThreadPoolExecutor(1, "contents-writer")
        self._readers = ThreadPoolExecutor(4, "contents-reader")
        self._hot: cachetools.LRUCache[str, _Hot] = cachetools.LRUCache(
            hot_bytes, getsizeof=lambda hot: hot.size_bytes
        )
        self._arriving: dict[str, _Arriving] = {}
        self._opening = 0
        """Arrivals on their way into `_arriving`."""

    async def get(self, sha256: str, lost: bool = False) -> bytes | list[Any] | None:
        """The content where it is small, a list of one reference where it is not (a bare one would
        be resolved on the way), None where there is none.

        Args:
            sha256: Which.
            lost: Whether the object of an earlier answer could not be fetched.
        """
        if lost:
            self._hot.pop(sha256, None)
        elif (hot := self._hot.get(sha256)) is not None:
            return [hot.ref]
        data, ref = await self._in(self._readers, self._read, sha256)
        if ref is None or data is None:
            return data
        with contextlib.suppress(ValueError):  # larger than all that may be hot
            self._hot[sha256] = _Hot(ref, len(data))
        return [ref]

    async def missing(self, hashes: list[str]) -> list[str]:
        """Those that must be put: they are not here, or damaged."""
        return await self._in(
            self._readers, lambda: [h for h in hashes if not self._store.holds(h)]
        )

    async def begin(self) -> str:
        """Open an arriving content; the name under which its chunks come.

        Raises:
            ContentUnavailable: if too many are arriving already.
        """
        if len(self._arriving) + self._opening >= MAX_ARRIVING:
            raise ContentUnavailable("too many contents are arriving")
        arrival = new_id("blb")
        self._opening += 1
        try:
            incoming = await self._in(self._writer, self._store.incoming)
        finally:
            self._opening -= 1
        self._arriving[arrival] = _Arriving(incoming, self._give_up_later(arrival))
        return arrival

    async def write(self, arrival: str, chunk: bytes) -> None:
        """Add a chunk.

        Raises:
            StoreError: if it cannot be written, or this actor knows of no such arrival (any more).
        """
        arriving = self._taken(arrival)
        try:
            await self._in(self._writer, arriving.incoming.write, chunk)
        except StoreError:
            self._arriving.pop(arrival, None)
            raise
        if arrival in self._arriving:
            later = self._give_up_later(arrival)
            self._arriving[arrival] = _Arriving(arriving.incoming, later)

    async def finish(self, arrival: str, sha256: str) -> Stored:
        """Keep what arrived, if it is what `sha256` says; what arrived is in the answer.

        Raises:
            StoreError: if it cannot be written, or this actor knows of no such arrival (any more).
        """
        incoming = self._taken(arrival).incoming
        self._arriving.pop(arrival, None)
        arrived = Stored(incoming.sha256, incoming.size_bytes)
        if arrived.sha256 == sha256:
            return await self._in(self._writer, incoming.keep)
        await self._in(self._writer, incoming.discard)
        return arrived

    async def abandon(self, arrival: str) -> None:
        arriving = self._arriving.pop(arrival, None)
        if arriving is not None:
            arriving.gives_up.cancel()
            await self._in(self._writer, arriving.incoming.discard)

    async def info(self) -> dict[str, Any]:
        """`pid`, `node_id`, and how much there is: `contents`, `total_bytes`, `hot_bytes`."""
        sizes = await self._in(self._writer, self._store.sizes)
        return {
            "pid": os.getpid(),
            "node_id": ray.get_runtime_context().get_node_id(),
            "contents": len(sizes),
            "total_bytes": sum(sizes.values()),
            "hot_bytes": int(self._hot.currsize),
        }

    def _read(self, sha256: str) -> tuple[bytes | None, Any]:
        """The content, and a reference to it where it is too large for an answer."""
        data = self._store.get(sha256)
        if data is None or len(data) <= INLINE_BYTES:
            return data, None
        return data, ray.put(data)

    def _taken(self, arrival: str) -> _Arriving:
        """An arrival that is known, and is not given up while it is being worked on."""
        arriving = self._arriving.get(arrival)
        if arriving is None:
            raise StoreError("this content was given up; send it again from the beginning")
        arriving.gives_up.cancel()
        return arriving

    def _give_up_later(self, arrival: str) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(ARRIVAL_IDLE_S, lambda: self._given_up(arrival))

    def _given_up(self, arrival: str) -> None:
        arriving = self._arriving.pop(arrival, None)
        if arriving is not None:
            self._writer.submit(arriving.incoming.discard)

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


class BlobClient:
    """Contents, as a process anywhere in the cluster reads and puts them.

    Outlives the actor: one that dies is restarted by Ray, one that is gone is looked up anew, and
    reads meanwhile come from the files where this process can see them.
    """

    def __init__(
        self, namespace: str, state_dir: Path | None = None, timeout_s: float = 10.0
    ) -> None:
        """
        Args:
            namespace: Ray namespace of the cluster.
            state_dir: The cluster's, for a process that may be on the node that has it.
            timeout_s: How long one answer of the actor may take.
        """
        self.namespace = namespace
        self._actor: Any = None
        self._files = ContentFiles(state_dir / CONTENTS) if state_dir is not None else None
        self._timeout_s = timeout_s

    async def get(self, sha256: str) -> bytes | None:
        """The content, verified against its hash; None where there is none.

        Raises:
            ContentDamaged: if its bytes on disk are others; it was set aside.
            ContentUnavailable: if neither the actor nor the files can be reached.
        """
        try:
            return await self._from_actor(sha256)
        except ContentUnavailable:
            data = await self._from_files(sha256)
            if data is None:
                raise
            return data

    async def _from_actor(self, sha256: str) -> bytes | None:
        lost = False
        for _ in range(2):
            answer = await self._ask("get", sha256, lost)
            if not isinstance(answer, list):
                return cast(bytes | None, answer)
            try:
                async with asyncio.timeout(self._timeout_s):
                    return cast(bytes, await answer[0])
            except (ObjectLostError, TimeoutError):  # its owner died, or its copy was evicted
                lost = True
        raise ContentUnavailable("the object store lost the content twice")

    async def _from_files(self, sha256: str) -> bytes | None:
        if self._files is None:
            return None
        return await asyncio.to_thread(self._files.get, sha256)

    async def put(self, data: bytes) -> str:
        """Keep `data`; durable when this returns its hash."""
        sha256 = sha256_of(data)
        await self.put_as(sha256, _slices_of(data))
        return sha256

    async def put_as(self, sha256: str, chunks: AsyncIterable[bytes]) -> Stored:
        """Keep what `chunks` yield if its hash is `sha256`; what arrived is in the answer.

        Raises:
            StoreError: if it could not be written.
            ContentUnavailable: if the actor cannot be reached, or has too much to do.
            Exception: whatever `chunks` raises; nothing is kept then.
        """
        arrival = await self._ask("begin")
        try:
            async for chunk in chunks:
                await self._ask("write", arrival, chunk)
            return Stored(*await self._ask("finish", arrival, sha256))
        except BaseException:
            if self._actor is not None:
                self._actor.abandon.remote(arrival)
            raise

    async def put_missing(self, contents: Mapping[str, bytes]) -> int:
        """Put those of `contents`, by their hash, that are not there; the number of them."""
        missing = await self._ask("missing", list(contents))
        for sha256 in missing:
            await self.put(contents[sha256])
        return len(missing)

    async def info(self) -> dict[str, Any]:
        """As `BlobActor.info`."""
        return cast(dict[str, Any], await self._ask("info"))

    async def _ask(self, method: str, *args: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(_look_up, self.namespace)
                return await getattr(self._actor, method).remote(*args)
        except RayTaskError as error:
            # Ray's own class carries the remote traceback in its text.
            if isinstance(error.cause, ThornbackError):
                raise error.cause from None
            raise
        except TimeoutError as error:
            raise ContentUnavailable(f"no answer within {self._timeout_s:g} s") from error
        except RayActorError as error:
            self._actor = None
            raise ContentUnavailable("their actor is gone") from error


def start_blobs(
    namespace: str, state_dir: Path, *, node_id: str | None = None, timeout_s: float = 60.0
) -> BlobClient:
    """Start the cluster's blob actor, or join the one that runs; blocks until it answers.

    Args:
        namespace: `thornback.<cluster>`.
        state_dir: On the node `node_id`; the actor's own directory in it is made where there is
            none.
        node_id: Where the actor stays; this process's node where None.
        timeout_s: How long the actor may take until it answers.

    Raises:
        StoreError: if it cannot open the directory.
        ContentUnavailable: if it does not come up.
    """
    node = node_id or ray.get_runtime_context().get_node_id()
    remote_class: Any = ray.remote(BlobActor)
    actor = remote_class.options(
        name=ACTOR,
        namespace=namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote(str(state_dir / CONTENTS), _hot_bytes_of(node))
    try:
        ray.get(actor.info.remote(), timeout=timeout_s)
    except (RayActorError, RayTaskError) as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ThornbackError):
            raise cause from None
        directory = state_dir / CONTENTS
        raise StoreError(f"nobody can open {directory}: {_last_line(error)}") from error
    except GetTimeoutError as error:
        raise ContentUnavailable(f"their actor did not start within {timeout_s:g} s") from error
    return BlobClient(namespace, state_dir)


def stop_blobs(namespace: str) -> None:
    """End the actor, if there is one; its contents stay on disk."""
    with contextlib.suppress(ContentUnavailable):
        ray.kill(_look_up(namespace), no_restart=True)


def _look_up(namespace: str) -> Any:
    try:
        return ray.get_actor(ACTOR, namespace=namespace)
    except ValueError as error:
        raise ContentUnavailable("there is no actor for them") from error


def _hot_bytes_of(node_id: str) -> int:
    """A quarter of the node's object store, so that calls have the rest; bounded."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    ours = [node["Resources"] for node in nodes if node["NodeID"] == node_id]
    stores = [resources.get("object_store_memory", 0) for resources in ours]
    return min(MAX_HOT_BYTES, int(sum(stores)) // 4)


def _opened(directory: Path) -> ContentStore:
    """The store, as soon as the process that had it before is gone."""
    pause = threading.Event()
    for _ in range(int(LOCK_WAIT_S / 0.05)):
        try:
            return ContentStore(directory)
        except StoreOwned:
            pause.wait(0.05)
    return ContentStore(directory)


async def _slices_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
