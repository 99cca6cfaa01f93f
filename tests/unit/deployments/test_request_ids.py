from typing import Any

import pytest
from ray.serve._private import constants, http_util

from thornback.deployments.request_ids import keep_serve_from_telling, request_id_of, telling


def id_of(*values: bytes) -> str:
    headers = [(b"host", b"h"), *((b"x-request-id", value) for value in values)]
    return request_id_of({"headers": headers})


def test_a_client_names_its_request() -> None:
    assert id_of(b"0af7651916cd43dd-b7ad:42/x") == "0af7651916cd43dd-b7ad:42/x"
    assert id_of(b"a" * 128) == "a" * 128


@pytest.mark.parametrize(
    "chosen", [b"", b"two words", b"line\nbreak", b'"', b"back\\slash", b"\xc3\xa9", b"a" * 129]
)
def test_what_does_not_fit_on_a_log_line_is_replaced(chosen: bytes) -> None:
    assert id_of(chosen).startswith("req_")


def test_without_one_each_request_gets_a_fresh_id() -> None:
    assert id_of().startswith("req_")
    assert id_of() != id_of()


async def told(message: dict[str, Any]) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await telling(send, "req_1")(message)
    return sent[0]


@pytest.mark.anyio
async def test_the_response_names_its_request() -> None:
    kept = [(b"content-type", b"application/json")]
    start = await told({"type": "http.response.start", "status": 200, "headers": kept})
    assert start["headers"] == [*kept, (b"x-request-id", b"req_1")]
    assert kept == [(b"content-type", b"application/json")]
    body = {"type": "http.response.body", "body": b"{}"}
    assert await told(dict(body)) == body


@pytest.mark.anyio
async def test_ray_serve_adds_no_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "RAY_SERVE_ENABLE_HA_PROXY", True)
    middleware = http_util.RequestIdMiddleware
    monkeypatch.setattr(middleware, "__call__", middleware.__call__)
    assert keep_serve_from_telling()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    nothing: Any = None
    await middleware(app)({"type": "http", "headers": []}, nothing, send)
    assert sent[0]["headers"] == []


def test_behind_serves_own_proxy_the_proxy_names_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "RAY_SERVE_ENABLE_HA_PROXY", False)
    there = http_util.RequestIdMiddleware.__call__
    assert not keep_serve_from_telling()
    assert http_util.RequestIdMiddleware.__call__ is there
