import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from thornback.cluster.errors import ClusterNotRunning
from thornback.deployments.mcp_client import GaveUpWaiting, McpClient, RefusedByCluster

Answer = Callable[[httpx.Request], httpx.Response]


def client_of(answer: Answer, key: str | None = None) -> McpClient:
    return McpClient("http://cluster.test/mcp", key, httpx.MockTransport(answer))


def result(value: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": value})


def test_a_request_says_in_its_headers_what_its_body_says() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.headers["mcp-method"] == body["method"] == "tools/call"
        assert request.headers["mcp-name"] == body["params"]["name"] == "echo"
        version = body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
        assert request.headers["mcp-protocol-version"] == version
        assert request.headers["authorization"] == "Bearer tbk_secret"
        return result({"content": []})

    with client_of(answer, "tbk_secret") as client:
        assert client.request("tools/call", {"name": "echo"}) == {"content": []}


def test_a_request_of_an_older_revision_says_it_by_header_alone() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.headers["mcp-protocol-version"] == "2025-11-25"
        assert not {"mcp-method", "mcp-name"} & set(request.headers)
        assert not body["params"].get("_meta")
        events = 'id: 1\ndata:\n\ndata: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}\n\n'
        return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})

    transport = httpx.MockTransport(answer)
    with McpClient("http://there.test/mcp", None, transport, "2025-11-25") as client:
        assert client.request("tools/call", {"name": "echo"}) == {"content": []}


def test_a_name_that_no_header_can_carry_is_encoded() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["mcp-name"] == "=?base64?ZG9jOi8vw6Q=?="
        return result({"contents": []})

    with client_of(answer) as client:
        client.request("resources/read", {"uri": "doc://ä"})


def test_progress_is_passed_on_before_the_answer() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        token = json.loads(request.content)["params"]["_meta"]["progressToken"]
        note = {"method": "notifications/progress", "params": {"progressToken": token}}
        end = {"jsonrpc": "2.0", "id": token, "result": {"content": []}}
        events = (
            f": ping\n\nevent: message\ndata: {json.dumps(note)}\n\ndata: {json.dumps(end)}\n\n"
        )
        return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})

    seen: list[str] = []
    with client_of(answer) as client:
        client.request("tools/call", {"name": "x"}, notify=lambda method, _: seen.append(method))
    assert seen == ["notifications/progress"]


def test_a_list_is_read_to_its_last_page() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["params"].get("cursor") == "2":
            return result({"tools": [{"name": "b"}]})
        return result({"tools": [{"name": "a"}], "nextCursor": "2"})

    with client_of(answer) as client:
        assert [t["name"] for t in client.pages("tools/list", "tools")] == ["a", "b"]


def test_an_error_is_raised_with_its_words() -> None:
    error = {"code": -32602, "message": "Unknown tool: eco (did you mean echo?)"}
    body = {"jsonrpc": "2.0", "id": 1, "error": error}
    with (
        client_of(lambda request: httpx.Response(200, json=body)) as client,
        pytest.raises(RefusedByCluster, match="did you mean echo"),
    ):
        client.request("tools/call", {"name": "eco"})


def test_a_missing_key_says_where_to_put_one() -> None:
    with (
        client_of(lambda request: httpx.Response(401)) as client,
        pytest.raises(RefusedByCluster, match="THORNBACK_KEY"),
    ):
        client.request("tools/list")


def test_a_stream_that_ends_early_is_no_answer() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=": ping\n\n", headers={"content-type": "text/event-stream"})

    with client_of(answer) as client, pytest.raises(RefusedByCluster, match="before it was"):
        client.request("tools/list")


def test_a_cluster_that_is_not_there_is_not_running() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client_of(answer) as client, pytest.raises(ClusterNotRunning, match=r"cluster\.test"):
        client.request("tools/list")


def test_waiting_ends_when_the_user_said_so() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silence")

    with client_of(answer) as client, pytest.raises(GaveUpWaiting, match=r"within 0\.5 s"):
        client.request("tools/call", {"name": "slow"}, timeout_s=0.5)


def test_an_upload_names_its_hash_and_what_it_is() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "PUT"
        assert request.url.path == "/resources/sha256/" + "0" * 64
        assert dict(request.url.params) == {"name": "a b.txt", "mime_type": "text/plain"}
        return httpx.Response(201, json={"uri": "x://y", "body": request.read().decode()})

    with client_of(answer) as client:
        answered = client.put(
            "0" * 64, iter([b"a", b"b"]), {"name": "a b.txt", "mime_type": "text/plain"}
        )
    assert answered == {"uri": "x://y", "body": "ab"}
