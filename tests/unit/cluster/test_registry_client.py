import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from thornback.cluster.actors import RegistryClient
from thornback.cluster.catalog import ToolSpec, encode_entry

SCHEMA = msgspec.Raw(b'{"type":"object"}')
READABLE = ToolSpec(name="a", version="1.0.0", description="d", input_schema=SCHEMA, pool="sql")


def test_a_tool_that_this_version_cannot_read_is_left_out_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def tools_of(pool: str) -> list[bytes]:
        return [b'{"name":7}', encode_entry(READABLE), b"{"]

    client = RegistryClient("thornback.local")
    client._handle = SimpleNamespace(tools_of=SimpleNamespace(remote=tools_of))
    assert asyncio.run(client.tools_of("sql")) == [READABLE]
    assert [line.split(" is left out")[0] for line in caplog.messages] == ["tools of pool sql"] * 2
