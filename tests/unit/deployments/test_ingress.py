import asyncio
import inspect
from importlib import import_module
from typing import Any

import pytest
from ray.serve._private import constants

from thornback.deployments.environment import DATA_PATH
from thornback.deployments.ingress import Ingress, is_asked, middlewares


def asked(path: str) -> list[str]:
    """Who answers a request for this path, behind what Serve would put around its application."""
    answered: list[str] = []

    async def serve(*_: Any) -> None:
        answered.append("Serve")

    ((door, args, kwargs),) = middlewares()
    app = door(serve, *args, **kwargs)
    asyncio.run(app({"type": "http", "path": path}, None, None))
    return answered


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the gateway of this process was asked for."""
    paths: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        paths.append(scope["path"])

    monkeypatch.setattr(Ingress, "gateway", staticmethod(app))
    return paths


def test_requests_go_straight_to_the_gateway_of_the_process(gateway: list[str]) -> None:
    assert asked("/mcp") == asked("/healthz") == asked("/-") == []
    assert gateway == ["/mcp", "/healthz", "/-"]


def test_the_paths_of_serve_stay_its_own(gateway: list[str]) -> None:
    assert asked("/-/healthz") == ["Serve"]
    assert gateway == []


def test_a_process_without_a_gateway_is_serves() -> None:
    assert Ingress.gateway is None
    assert asked("/mcp") == ["Serve"]


def test_the_server_takes_it_for_asgi() -> None:
    assert inspect.iscoroutinefunction(Ingress.__call__)  # by which uvicorn tells


def test_serve_is_told_where_to_ask() -> None:
    module, _, name = DATA_PATH["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].rpartition(".")
    assert getattr(import_module(module), name) is middlewares


@pytest.mark.parametrize("said", [None, "thornback.deployments.ingress.middlewares"])
def test_who_names_requests_is_told_whether_serve_asks(
    said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", said)
    assert is_asked() == (said is not None)
