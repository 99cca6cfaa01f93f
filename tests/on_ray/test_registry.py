"""What only a process boundary shows of the registry: it is killed, and everything goes on."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from thornback.cluster.actors import (
    RegistryClient,
    connect,
    start_registry,
    stop_registry,
)
from thornback.cluster.catalog import ToolSpec
from thornback.cluster.registry import edit_of
from thornback.deployments.clock import SystemClock
from thornback.deployments.mirror import CatalogMirror

SCHEMA = msgspec.Raw(b'{"type":"object"}')


def tool(name: str, pool: str = "text", description: str = "Does it.") -> ToolSpec:
    return ToolSpec(
        name=name, version="1.0.0", description=description, input_schema=SCHEMA, pool=pool
    )


@pytest.fixture
def namespace(bare_ray: None, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"thornback.{request.node.name}"
    yield name
    stop_registry(name)


@pytest.fixture
def registry(namespace: str, tmp_path: Path) -> RegistryClient:
    return start_registry(namespace, tmp_path)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_killed_registry_comes_back_as_it_was_and_its_mirrors_go_on(
    registry: RegistryClient,
) -> None:
    async def scenario() -> None:
        written = await registry.write(edit_of(tool("reverse"), tool("count"), pool="text"))
        await registry.note("probes", "kept", b"yes")
        keys = await registry.keys()
        before = await registry.info()
        mirror = CatalogMirror(connect(registry.namespace), SystemClock())
        await mirror.start()
        assert mirror.catalog.version == written

        kill(before.pid)
        assert list(mirror.catalog.tools) == ["count", "reverse"]

        after = await registry.info(timeout_s=30)
        assert after.pid != before.pid
        assert (after.store_id, after.number) == (before.store_id, before.number)
        assert after.epoch == before.epoch + 1
        assert list((await registry.catalog()).tools) == ["count", "reverse"]
        assert await registry.noted("probes", "kept") == b"yes"
        assert await registry.keys() == keys

        _, number = await registry.write(
            edit_of(tool("shout"), withdraw=[("tools", "count@1.0.0")])
        )
        assert list((await mirror.wait_for(number, timeout_s=10)).tools) == ["reverse", "shout"]
        await mirror.stop()

    asyncio.run(scenario())
