"""Contents outlive the actor that owns them: its objects die with it, its files do not."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import ray

from thornback.cluster.actors import connect, start_registry
from thornback.cluster.blob_actor import (
    CHUNK_BYTES,
    CONTENTS,
    INLINE_BYTES,
    BlobClient,
    start_blobs,
    stop_blobs,
)
from thornback.cluster.errors import ContentDamaged, ContentUnavailable, StoreError
from thornback.cluster.principals import Caller, Principal
from thornback.cluster.resources import ContentFiles, sha256_of
from thornback.deployments.contents import ContentReader
from thornback.deployments.mirror import CatalogMirror
from thornback.deployments.uploads import Uploads

NAMESPACE = "thornback.contents-test"
SMALL = b"small"
LARGE = os.urandom(3 * CHUNK_BYTES + 17)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def blobs(state_dir: Path) -> Iterator[BlobClient]:
    with tempfile.TemporaryDirectory(prefix="tbk") as temporary:  # short: sockets lie below it
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=100 << 20,
            log_to_driver=False,
            _temp_dir=temporary,
        )
        try:
            node_id = ray.get_runtime_context().get_node_id()
            yield start_blobs(NAMESPACE, state_dir, node_id=node_id)
        finally:
            ray.shutdown()


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _kill(blobs: BlobClient) -> None:
    """SIGKILL the actor, and wait until another process has its place."""
    pid = (await blobs.info())["pid"]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while True:
            try:
                if (await blobs.info())["pid"] != pid:
                    return
            except ContentUnavailable:
                pass


def test_contents_small_and_large_come_back_through_any_client(blobs: BlobClient) -> None:
    async def scenario() -> None:
        elsewhere = BlobClient(NAMESPACE)
        for data in (SMALL, LARGE, b"x" * INLINE_BYTES, b""):
            assert await elsewhere.get(await blobs.put(data)) == data
        assert await blobs.get(sha256_of(b"never put")) is None
        assert (await blobs.info())["hot_bytes"] >= len(LARGE)

    asyncio.run(scenario())


def test_content_that_is_not_what_was_announced_is_not_kept(blobs: BlobClient) -> None:
    async def scenario() -> None:
        arrived = await blobs.put_as(sha256_of(b"announced"), _chunks(b"some", b"thing"))
        assert arrived == (sha256_of(b"something"), 9)
        assert await blobs.get(arrived.sha256) is None

    asyncio.run(scenario())


def test_only_what_is_missing_is_put(blobs: BlobClient) -> None:
    async def scenario() -> None:
        contents = {sha256_of(data): data for data in (b"one", b"two")}
        assert await blobs.put_missing(contents) == 2
        assert await blobs.put_missing({**contents, sha256_of(b"three"): b"three"}) == 1

    asyncio.run(scenario())


def test_a_killed_actor_loses_its_objects_and_no_content(blobs: BlobClient) -> None:
    async def scenario() -> None:
        small, large = await blobs.put(SMALL), await blobs.put(LARGE)
        actor = ray.get_actor("blobs", namespace=NAMESPACE)
        (reference,) = await actor.get.remote(large)
        await _kill(blobs)
        with pytest.raises(ray.exceptions.ObjectLostError):
            await reference
        elsewhere = BlobClient(NAMESPACE)
        assert await elsewhere.get(small) == SMALL
        assert await elsewhere.get(large) == LARGE

    asyncio.run(scenario())


def test_while_the_actor_is_away_its_node_reads_the_files(
    blobs: BlobClient, state_dir: Path
) -> None:
    async def scenario() -> None:
        large = await blobs.put(LARGE)
        os.kill((await blobs.info())["pid"], signal.SIGKILL)
        here = BlobClient(NAMESPACE, state_dir, timeout_s=0.05)
        assert await here.get(large) == LARGE
        await blobs.info()

    asyncio.run(scenario())


def test_an_upload_across_a_kill_fails_as_a_whole(blobs: BlobClient, state_dir: Path) -> None:
    data = b"interrupted" * 1000

    async def interrupted() -> AsyncIterator[bytes]:
        yield data[:5000]
        await _kill(blobs)
        yield data[5000:]

    async def scenario() -> None:
        with pytest.raises(StoreError, match="send it again from the beginning") as refused:
            await blobs.put_as(sha256_of(data), interrupted())
        assert "Traceback" not in str(refused.value)
        assert await blobs.get(sha256_of(data)) is None
        assert await blobs.get(await blobs.put(data)) == data

    asyncio.run(scenario())


def test_damage_on_disk_is_told_as_that_and_never_as_bytes(
    blobs: BlobClient, state_dir: Path
) -> None:
    async def scenario() -> None:
        sha256 = await blobs.put(b"will be damaged")
        ContentFiles(state_dir / CONTENTS).path_of(sha256).write_bytes(b"was damaged")
        with pytest.raises(ContentDamaged):
            await blobs.get(sha256)
        assert await blobs.get(sha256) is None

    asyncio.run(scenario())


def test_what_is_uploaded_through_one_gateway_outlives_every_actor_and_is_read_through_another(
    blobs: BlobClient, state_dir: Path
) -> None:
    ann = Caller(Principal("default", "ann"))
    start_registry(NAMESPACE, state_dir)

    @asynccontextmanager
    async def gateway() -> AsyncIterator[Uploads]:
        mirror = CatalogMirror(connect(NAMESPACE))
        await mirror.start()
        client = BlobClient(NAMESPACE)
        reader = ContentReader(client)
        try:
            yield Uploads(mirror, connect(NAMESPACE), client, reader, anonymous=False)
        finally:
            await mirror.stop()

    async def scenario() -> None:
        async with gateway() as one:
            spec = await one.upload(ann, sha256_of(LARGE), {"name": "large"}, _chunks(LARGE))
            os.kill((await connect(NAMESPACE).info()).pid, signal.SIGKILL)
            await _kill(blobs)
            assert await one.download(ann, sha256_of(LARGE)) == (spec, LARGE)
        async with gateway() as other:
            assert await other.download(ann, sha256_of(LARGE)) == (spec, LARGE)

    asyncio.run(scenario())


def test_contents_are_there_after_down_and_up(blobs: BlobClient, state_dir: Path) -> None:
    sha256 = asyncio.run(blobs.put(b"kept"))
    stop_blobs(NAMESPACE)
    start_blobs(NAMESPACE, state_dir)
    assert asyncio.run(blobs.get(sha256)) == b"kept"  # a client finds the new actor by its name
