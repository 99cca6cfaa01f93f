"""`/resources/sha256/<hex>` as HTTP clients meet it."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from tests.content_fakes import FakeCluster
from tests.fakes import FakeClock
from thornback.cluster.catalog import Catalog
from thornback.cluster.errors import HttpRefusal
from thornback.cluster.principals import PrincipalEntry, key_hash
from thornback.cluster.resources import sha256_of
from thornback.deployments.content_endpoint import (
    PATH,
    UPLOAD_TIMEOUT_S,
    ContentEndpoint,
    _body,
)
from thornback.deployments.contents import ContentReader
from thornback.deployments.http_edge import DRAIN_TIMEOUT_S, Neighbours
from thornback.deployments.uploads import Uploads

DATA = b"0123456789"
SHA256 = sha256_of(DATA)


class KeyedCluster(FakeCluster):
    """With two principals, `ann` and `bob`, whose keys are their names."""

    @property
    def catalog(self) -> Catalog:
        principals = {name: PrincipalEntry(name, key_hash(name)) for name in ("ann", "bob")}
        return Catalog("s", 1, 1, {"resources": self.entries, "principals": principals})


class Answered(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    unread: int
    """Messages of the request that nobody read."""

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


@pytest.fixture
def cluster() -> KeyedCluster:
    return KeyedCluster()


def ask(
    cluster: KeyedCluster,
    method: str,
    *pieces: bytes,
    key: str | None = "ann",
    sha256: str = SHA256,
    query: bytes = b"",
    headers: Mapping[str, str] | None = None,
    leaves: bool = False,
) -> Answered:
    """One request; with `leaves`, of a client that goes away instead of ending its body."""
    reader = ContentReader(cluster)
    uploads = Uploads(cluster, cluster, cluster, reader, anonymous=False, max_bytes=1000)
    endpoint = ContentEndpoint(
        uploads,
        Neighbours("127.0.0.1", 8000),
        cluster,
        FakeClock(),
        anonymous=False,
        gateway="gateway",
    )
    lines = {"host": "127.0.0.1:8000", **(headers or {})}
    if key is not None:
        lines["authorization"] = f"Bearer {key}"
    scope = {
        "type": "http",
        "method": method,
        "path": PATH + sha256,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
    }
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    end = {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b""}
    return asyncio.run(_exchange(endpoint, scope, [*messages, end]))


async def _exchange(
    endpoint: ContentEndpoint, scope: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Answered:
    left = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        for message in left:
            return message
        return await asyncio.Future()  # as servers do, until the client leaves

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with asyncio.timeout(DRAIN_TIMEOUT_S / 2):
        await endpoint(scope, receive, send)
    unread = len(list(left))
    if not sent:
        return Answered(0, {}, b"", unread)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answered(sent[0]["status"], headers, body, unread)


def test_what_is_put_is_got_by_who_put_it(cluster: KeyedCluster) -> None:
    put = ask(cluster, "PUT", b"01234", b"56789", query=b"name=n.txt&mime_type=text%2Fhtml")
    assert put.status == 201
    assert json.loads(put.body) == {
        "uri": f"thornback://ann/sha256/{SHA256}",
        "name": "n.txt",
        "mimeType": "text/html",
        "size": 10,
        "sha256": SHA256,
    }
    got = ask(cluster, "GET")
    assert (got.status, got.body) == (200, DATA)
    assert got.headers["content-type"] == "text/html"
    assert got.headers["etag"] == f'"{SHA256}"'


def test_no_browser_runs_what_a_caller_put(cluster: KeyedCluster) -> None:
    ask(cluster, "PUT", DATA, query=b"mime_type=text/html")
    headers = ask(cluster, "GET").headers
    assert headers["content-disposition"] == "attachment"
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers["x-content-type-options"] == "nosniff"


def test_knowing_a_hash_is_no_permission(cluster: KeyedCluster) -> None:
    ask(cluster, "PUT", DATA)
    others, absent = ask(cluster, "GET", key="bob"), ask(cluster, "GET", sha256="0" * 64)
    assert (others.status, others.body) == (absent.status, absent.body)
    assert others.status == 404


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_nobody_comes_in_without_a_key(cluster: KeyedCluster, method: str, key: str | None) -> None:
    refused = ask(cluster, method, DATA, key=key)
    assert refused.status == 401
    assert "www-authenticate" in refused.headers
    assert cluster.contents == {}


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-500", 206, b"56789"),
        ("bytes=0-1,3-4", 200, DATA),
        ("lines=1-2", 200, DATA),
        ("bytes=-", 200, DATA),
        ("bytes=10-", 416, None),
        ("bytes=5-2", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(cluster: KeyedCluster, asked: str, status: int, body: bytes | None) -> None:
    ask(cluster, "PUT", DATA)
    got = ask(cluster, "GET", headers={"range": asked})
    assert got.status == status
    if body is not None:
        assert got.body == body
        assert got.headers["content-length"] == str(len(body))
    if asked == "bytes=7-":
        assert got.headers["content-range"] == "bytes 7-9/10"


def test_head_tells_the_length_and_sends_nothing(cluster: KeyedCluster) -> None:
    ask(cluster, "PUT", DATA)
    head = ask(cluster, "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "10", b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"sha256": "0" * 64}, 422),
        ({"sha256": "nothex"}, 404),
        ({"query": b"mimetype=a/b"}, 400),
        ({"query": b"name=a&name=b"}, 400),
        ({"query": b"name=%ff"}, 400),
        ({"query": b"nameonly"}, 400),
        ({"headers": {"content-length": "1001"}}, 413),
        ({"headers": {"content-encoding": "gzip"}}, 415),
        ({"headers": {"host": "evil.example"}}, 421),
        ({"headers": {"origin": "https://evil.example"}}, 403),
    ],
)
def test_a_wrong_upload_is_refused_in_json(
    cluster: KeyedCluster, request_: dict[str, Any], status: int
) -> None:
    refused = ask(cluster, "PUT", DATA, **request_)
    assert (refused.status, refused.code) == (status, "http.refused")
    assert refused.headers["content-type"] == "application/json"
    assert cluster.entries == {}


def test_a_body_that_grows_too_large_is_refused(cluster: KeyedCluster) -> None:
    refused = ask(cluster, "PUT", *[b"x" * 100] * 11, sha256=sha256_of(b"x" * 1100))
    assert refused.status == 413
    assert cluster.contents == {}


@pytest.mark.parametrize(
    ("method", "pieces", "status"),
    [("GET", (), 404), ("HEAD", (), 404), ("DELETE", (), 404), ("PUT", (b"other",), 422)],
)
def test_a_refusal_does_not_wait_for_more_of_a_body_that_was_read_to_its_end(
    cluster: KeyedCluster, method: str, pieces: Sequence[bytes], status: int
) -> None:
    # `ask` gives up sooner than a body is drained that stops coming.
    assert ask(cluster, method, *pieces).status == status


def test_an_upload_that_nobody_read_is_drained_so_that_its_sender_reads_the_answer(
    cluster: KeyedCluster,
) -> None:
    refused = ask(cluster, "PUT", *[b"x" * 100] * 20, key="wrong")
    assert (refused.status, refused.unread) == (401, 0)


def test_a_sender_may_not_dawdle_for_ever() -> None:
    clock = FakeClock()

    async def receive() -> Mapping[str, Any]:
        clock.advance(UPLOAD_TIMEOUT_S / 3)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> list[bytes]:
        return [piece async for piece in _body(receive, {}, clock)]

    with pytest.raises(HttpRefusal) as refused:
        asyncio.run(read())
    assert refused.value.status == 408


def test_a_request_that_serve_cancels_is_logged_as_that_of_a_client_that_went(
    cluster: KeyedCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    ask(cluster, "PUT", DATA)
    monkeypatch.setattr(cluster, "get", cancelled)
    caplog.set_level(logging.INFO, "thornback.access")
    with pytest.raises(asyncio.CancelledError):
        ask(cluster, "GET")
    assert '"status":499' in caplog.text


def test_a_client_that_goes_away_leaves_nothing(cluster: KeyedCluster) -> None:
    assert ask(cluster, "PUT", DATA, leaves=True).status == 0
    assert cluster.contents == cluster.entries == {}


def test_its_owner_withdraws_it(cluster: KeyedCluster) -> None:
    ask(cluster, "PUT", DATA, query=b"uri=notes://1&public=true")
    assert ask(cluster, "GET", key="bob").status == 200
    assert ask(cluster, "DELETE", key="bob").status == 404
    gone = ask(cluster, "DELETE")
    assert (gone.status, json.loads(gone.body)) == (200, {"withdrawn": ["notes://1"]})
    assert ask(cluster, "GET").status == 404


def test_other_methods_are_refused(cluster: KeyedCluster) -> None:
    refused = ask(cluster, "POST", DATA)
    assert (refused.status, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, PUT")


def test_a_bug_is_an_id_and_not_a_traceback(
    cluster: KeyedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(cluster, "put_as", broken)
    failed = ask(cluster, "PUT", DATA)
    assert failed.status == 500
    assert b"secret" not in failed.body
    assert b"err_" in failed.body
