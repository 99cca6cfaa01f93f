"""What only a process boundary shows of the registry: it is killed, and everything goes on."""

import asyncio
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from thornback.cluster.actors import (
    BlockingRegistryClient,
    RegistryClient,
    connect,
    start_registry,
    stop_registry,
)
from thornback.cluster.catalog import ToolSpec
from thornback.cluster.errors import (
    RegistrationError,
    RegistryUnavailable,
    StoreError,
    StoreOwned,
)
from thornback.cluster.journal import Journal, Write
from thornback.cluster.registry import edit_of
from thornback.deployments.mirror import CatalogMirror


def tool(name: str, pool: str = "text") -> ToolSpec:
    return ToolSpec(
        name=name,
        version="1.0.0",
        description="Does it.",
        input_schema=msgspec.Raw(b'{"type":"object"}'),
        pool=pool,
    )


@pytest.fixture
def namespace(bare_ray: None, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"thornback.{request.node.name}"
    yield name
    stop_registry(name)


@pytest.fixture
def registry(namespace: str, tmp_path: Path) -> RegistryClient:
    return start_registry(namespace, tmp_path)


def test_a_killed_registry_comes_back_as_it_was_and_its_mirrors_go_on(
    registry: RegistryClient,
) -> None:
    async def scenario() -> None:
        written = await registry.write(edit_of(tool("reverse"), tool("count"), pool="text"))
        await registry.note("probes", "kept", b"yes")
        keys = await registry.keys()
        before = await registry.info()
        mirror = CatalogMirror(connect(registry.namespace))
        await mirror.start()
        assert mirror.catalog.version == written

        os.kill(before.pid, signal.SIGKILL)
        assert list(mirror.catalog.tools) == ["count", "reverse"]

        after = await registry.info(timeout_s=30)
        assert after.pid != before.pid
        assert (after.store_id, after.number) == (before.store_id, before.number)
        assert after.epoch == before.epoch + 1
        assert list((await registry.catalog()).tools) == ["count", "reverse"]
        assert await registry.noted("probes", "kept") == b"yes"
        assert await registry.keys() == keys

        withdrawn = [("tools", "count@1.0.0")]
        _, number = await registry.write(edit_of(tool("shout"), withdraw=withdrawn))
        assert list((await mirror.wait_for(number, timeout_s=10)).tools) == ["reverse", "shout"]
        await mirror.stop()

    asyncio.run(scenario())


def test_no_acknowledged_write_is_lost_or_doubled_by_a_kill(registry: RegistryClient) -> None:
    async def scenario() -> None:
        pid = (await registry.info()).pid
        writes = [asyncio.create_task(registry.write(edit_of(tool(f"t{i}")))) for i in range(200)]
        await writes[0]
        os.kill(pid, signal.SIGKILL)
        numbers = [number for _, number in await asyncio.gather(*writes)]
        catalog = await registry.catalog(timeout_s=30)
        assert set(catalog.tools) == {f"t{i}" for i in range(200)}
        # A write repeated after its sync makes no second number; it gets the catalog's of then.
        assert catalog.number == 200
        assert max(numbers) <= 200

    asyncio.run(scenario())


def test_what_the_registry_refuses_arrives_as_what_it_is(registry: RegistryClient) -> None:
    blocking = BlockingRegistryClient(registry)
    blocking.write(edit_of(tool("a"), pool="text"))
    with pytest.raises(RegistrationError) as refused:
        blocking.write(edit_of(tool("a", pool="sql"), pool="sql"))
    assert type(refused.value) is RegistrationError
    assert str(refused.value).startswith("tool a@1.0.0 is offered by pool text and by pool sql")
    assert blocking.info().number == 1


def test_a_second_owner_of_the_directory_is_told_who_has_it(
    registry: RegistryClient, tmp_path: Path
) -> None:
    owner = BlockingRegistryClient(registry).info()
    try:
        with pytest.raises(StoreOwned, match=rf"{registry.namespace} \(pid {owner.pid} on "):
            start_registry("thornback.other", tmp_path)
    finally:
        stop_registry("thornback.other")
    assert BlockingRegistryClient(registry).write(edit_of(tool("a"))) == (1, 1)


def test_a_registry_that_finds_its_store_gone_does_not_begin_anew(
    registry: RegistryClient, tmp_path: Path
) -> None:
    blocking = BlockingRegistryClient(registry)
    before = blocking.info()
    shutil.move(tmp_path / "registry", tmp_path / "unmounted")
    os.kill(before.pid, signal.SIGKILL)
    with pytest.raises(StoreError, match=f"holds no store; expected {before.store_id}"):
        blocking.info(timeout_s=30)
    shutil.move(tmp_path / "unmounted", tmp_path / "registry")
    assert blocking.info(timeout_s=30).store_id == before.store_id


def test_a_registry_whose_disk_fails_ends_and_begins_again_from_the_disk(
    registry: RegistryClient, tmp_path: Path
) -> None:
    blocking = BlockingRegistryClient(registry)
    blocking.write(edit_of(tool("kept")))
    before = blocking.info()
    # The disk is full for that process alone: its files may not grow beyond a byte.
    _, hard = resource.prlimit(before.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(before.pid, resource.RLIMIT_FSIZE, (1, hard))
    with pytest.raises(StoreError, match="could not be written"):
        blocking.write(edit_of(tool("lost")))
    after = blocking.info(timeout_s=30)
    while after.pid == before.pid:
        after = blocking.info(timeout_s=30)
    assert list(blocking.catalog().tools) == ["kept"]
    assert (after.epoch, after.number) == (before.epoch + 1, before.number)
    assert blocking.write(edit_of(tool("later")))[1] == 2


def test_a_cluster_without_a_registry_is_said_to_have_none(namespace: str) -> None:
    with pytest.raises(RegistryUnavailable, match="there is none"):
        BlockingRegistryClient(connect(namespace)).info()


def test_a_registry_that_was_stopped_is_found_again_by_the_same_client(
    registry: RegistryClient, tmp_path: Path
) -> None:
    blocking = BlockingRegistryClient(registry)
    blocking.write(edit_of(tool("a")))
    stop_registry(registry.namespace)
    with pytest.raises(RegistryUnavailable):
        blocking.info()
    start_registry(registry.namespace, tmp_path)
    assert list(blocking.catalog().tools) == ["a"]


def test_a_registry_that_is_started_twice_is_one(registry: RegistryClient, tmp_path: Path) -> None:
    again = start_registry(registry.namespace, tmp_path)
    first, second = (BlockingRegistryClient(client).info() for client in (registry, again))
    assert first == second


def test_a_registry_that_runs_is_not_joined_with_another_state(
    registry: RegistryClient, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=rf"with its state in {tmp_path / 'registry'}, not in "):
        start_registry(registry.namespace, tmp_path / "other")


def test_a_store_that_cannot_be_read_is_said_each_time_and_is_not_kept_open(
    registry: RegistryClient, tmp_path: Path
) -> None:
    blocking = BlockingRegistryClient(registry)
    before = blocking.info()
    os.kill(before.pid, signal.SIGKILL)
    with opened_here(tmp_path) as journal:  # the next process opens it with its first call
        journal.commit([Write("tools", "a@1.0.0", b"rubbish")])
    for _ in range(2):
        with pytest.raises(StoreError, match="holds a tool that is none"):
            blocking.info(timeout_s=30)
    with opened_here(tmp_path) as journal:
        journal.commit([Write("tools", "a@1.0.0", None)])
    assert blocking.info(timeout_s=30).store_id == before.store_id


@contextmanager
def opened_here(state_dir: Path) -> Iterator[Journal]:
    """The registry's store in this process, as soon as that of a killed one is quite gone."""
    for _ in range(100):
        with suppress(StoreOwned):
            journal = Journal.open(state_dir / "registry", owner="the test", program_version="0")
            break
        time.sleep(0.05)
    yield journal
    journal.close()


def test_a_registry_that_cannot_open_its_store_does_not_stand_in_the_way(
    namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        start_registry(namespace, tmp_path / "file")
    assert BlockingRegistryClient(start_registry(namespace, tmp_path)).catalog().tools == {}


def test_a_pools_hosts_are_told_of_its_tools(registry: RegistryClient) -> None:
    async def scenario() -> None:
        await registry.write(edit_of(tool("a"), tool("b", pool="sql")))
        assert await registry.tools_of("sql") == [tool("b", pool="sql")]

    asyncio.run(scenario())
