"""Official clients, unmodified, list every tool and call what ships."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningCluster
from tests.on_ray.peers import node_of, npm_folder, python_with

CLIENTS = Path(__file__).with_name("clients")
CALLS: dict[str, dict[str, Any]] = {
    "test_simple_text": {},
    "test_image_content": {},
    "sql_query": {"sql": "SELECT 40 + 2 AS answer"},
}
ANSWERS = {
    "test_simple_text": ["text"],
    "test_image_content": ["image"],
    "sql_query": ["text"],
}


def python_sdk() -> list[str]:
    return [sys.executable, str(CLIENTS / "python_sdk.py")]


def python_sdk_1() -> list[str]:
    return [python_with("mcp==1.30.0"), str(CLIENTS / "python_sdk_1.py")]


def fastmcp() -> list[str]:
    # Later ones ask for a certifi that is not everywhere yet.
    return [python_with("fastmcp==4.1.0"), str(CLIENTS / "fastmcp_client.py")]


def typescript_client() -> list[str]:
    return _node("@modelcontextprotocol/client@2.4.0", "typescript_client.mjs")


def typescript_sdk_1() -> list[str]:
    return _node("@modelcontextprotocol/sdk@1.32.2", "typescript_sdk_1.mjs")


def _node(package: str, script: str) -> list[str]:
    folder = npm_folder(package)
    # Node looks for packages beside the script, so the script goes where the package is.
    (folder / script).write_text((CLIENTS / script).read_text("utf-8"), "utf-8")
    return [node_of(folder), str(folder / script)]


@pytest.mark.parametrize(
    ("client", "mode", "protocol"),
    [
        (python_sdk, [], "2026-07-28"),
        (python_sdk_1, [], "2025-11-25"),
        (fastmcp, [], None),
        (typescript_client, ["auto"], "2026-07-28"),
        (typescript_client, ["legacy"], "2025-11-25"),
        (typescript_sdk_1, [], None),
    ],
)
def test_an_official_client_lists_and_calls(
    client: Callable[[], list[str]],
    mode: list[str],
    protocol: str | None,
    cluster: RunningCluster,
) -> None:
    done = subprocess.run(
        [*client(), cluster.url, *mode],
        input=json.dumps(CALLS),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    listed = json.loads(cluster.thornback("tools", "--json", "--url", cluster.url).stdout)
    assert seen["tools"] == [tool["name"] for tool in listed]
    assert seen["answers"] == {
        name: {"isError": False, "types": types} for name, types in ANSWERS.items()
    }
    assert seen["protocol"] == protocol
