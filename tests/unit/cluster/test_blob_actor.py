"""What the actor does with senders that die, err or come in crowds; no Ray needed for that."""

import asyncio
from pathlib import Path

import pytest

from thornback.cluster import blob_actor
from thornback.cluster.blob_actor import BlobActor
from thornback.cluster.errors import ContentUnavailable, StoreError
from thornback.cluster.resources import sha256_of


def actor(directory: Path) -> BlobActor:
    return BlobActor(str(directory), hot_bytes=1000)


def partial_files(directory: Path) -> list[Path]:
    return list((directory / "partial").iterdir())


def test_content_arrives_in_chunks_and_is_kept_by_its_hash(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs = actor(tmp_path)
        arrival = await blobs.begin()
        await blobs.write(arrival, b"ab")
        await blobs.write(arrival, b"c")
        assert await blobs.finish(arrival, sha256_of(b"abc")) == (sha256_of(b"abc"), 3)
        assert await blobs.get(sha256_of(b"abc")) == b"abc"
        with pytest.raises(StoreError, match="send it again"):
            await blobs.finish(arrival, sha256_of(b"abc"))

    asyncio.run(scenario())


def test_a_sender_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_actor, "ARRIVAL_IDLE_S", 0.01)

    async def scenario() -> None:
        blobs = actor(tmp_path)
        arrival = await blobs.begin()
        async with asyncio.timeout(10):
            while partial_files(tmp_path):
                await blobs.missing([])  # it answers others meanwhile
        with pytest.raises(StoreError, match="given up"):
            await blobs.write(arrival, b"late")

    asyncio.run(scenario())


def test_what_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs = actor(tmp_path)
        arrival = await blobs.begin()
        await blobs.write(arrival, b"half")
        await blobs.abandon(arrival)
        await blobs.abandon(arrival)
        assert partial_files(tmp_path) == []

    asyncio.run(scenario())


def test_only_so_many_contents_arrive_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_actor, "MAX_ARRIVING", 2)

    async def scenario() -> None:
        blobs = actor(tmp_path)
        first, second = await blobs.begin(), await blobs.begin()
        with pytest.raises(ContentUnavailable, match="too many"):
            await blobs.begin()
        await blobs.abandon(first)
        await blobs.abandon(second)
        await blobs.abandon(await blobs.begin())

    asyncio.run(scenario())


def test_a_crowd_that_comes_at_once_is_bounded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_actor, "MAX_ARRIVING", 2)

    async def scenario() -> None:
        blobs = actor(tmp_path)
        begun = await asyncio.gather(*(blobs.begin() for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(one, ContentUnavailable) for one in begun) == 3

    asyncio.run(scenario())


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        blobs = actor(tmp_path)
        arrival = await blobs.begin()
        await blobs.write(arrival, b"here")
        await blobs.finish(arrival, sha256_of(b"here"))
        hashes = [sha256_of(data) for data in (b"here", b"absent")]
        assert await blobs.missing(hashes) == hashes[1:]

    asyncio.run(scenario())
