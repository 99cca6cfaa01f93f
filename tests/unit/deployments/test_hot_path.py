"""What the hot path keeps between requests, and how much of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import AccessPolicy, Catalog, ToolSpec
from thornback.cluster.principals import EVERYBODY, Caller, Principal
from thornback.cluster.protocol import Request
from thornback.cluster.revisions import CAPABILITIES_META, CLIENT_INFO_META, MODERN, VERSION_META
from thornback.deployments import hot_path
from thornback.deployments.exchange import Exchange, Incoming
from thornback.deployments.hot_path import HotPath
from thornback.deployments.http_edge import Headers
from thornback.deployments.replies import Reply
from thornback.deployments.sdk import Kernel

HEADERS = Headers([(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", b"tools/list")])
LAB = Caller(Principal("default", "lab"), ("a*",))


class Listing:
    """Answers `tools/list` with the caller's name, and counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, exchange: Exchange) -> dict[str, Any]:
        self.times += 1
        return {"tools": [exchange.caller.principal.name], "ttlMs": 0}


async def _unasked(_: Exchange) -> dict[str, Any]:
    raise AssertionError


def hot_path_of(listing: Listing) -> HotPath:
    kernel = Kernel("server", "1", {}, {"tools/list": listing}, public=True)
    return HotPath(kernel, call=_unasked, list_tools=listing)


async def _nowhere(_: Any) -> None:
    raise AssertionError


def exchange_of(
    hot: HotPath, catalog: Catalog, caller: Caller = EVERYBODY, meta: Mapping[str, Any] = {}
) -> Exchange | None:
    about = {VERSION_META: MODERN.name, CAPABILITIES_META: {}, **meta}
    request = Request(1, "tools/list", {"_meta": about})
    incoming = Incoming(request, b"", HEADERS, caller, catalog, "call_1")
    return hot.exchange(incoming, Reply(_nowhere))


def served(hot: HotPath, catalog: Catalog, caller: Caller = EVERYBODY) -> Any:
    exchange = exchange_of(hot, catalog, caller)
    assert exchange is not None
    return asyncio.run(hot.serve(exchange))  # type: ignore[arg-type]


def listed(hot: HotPath, catalog: Catalog, caller: Caller = EVERYBODY) -> bytes:
    return bytes(served(hot, catalog, caller))


def test_a_list_is_made_once_for_all_principals_with_equal_rights() -> None:
    listing = Listing()
    open_to_some = ToolSpec(
        name="t",
        version="1.0.0",
        description="T.",
        input_schema=msgspec.Raw(b"{}"),
        pool="p",
        access=AccessPolicy(("lab",)),
    )
    hot, catalog = hot_path_of(listing), Catalog("sto", 1, 1, {"tools": {"t": open_to_some}})
    shared = served(hot, catalog, Caller(Principal("default", "agent 0")))
    for number in range(1, 1000):
        caller = Caller(Principal("default", f"agent {number}"))
        assert served(hot, catalog, caller) is shared
    assert listing.times == 1
    assert served(hot, catalog, LAB) is not shared
    assert served(hot, catalog, Caller(LAB.principal)) is not shared  # by the tool's policy alone
    assert served(hot, catalog, Caller(Principal("default", "x"), ("a*",))) is not shared
    assert listing.times == 4


def test_a_list_is_made_once_for_each_class_of_caller_and_catalog() -> None:
    listing = Listing()
    hot, catalog = hot_path_of(listing), Catalog("sto", 1, 1, {})
    for _ in range(3):
        assert b'"anonymous"' in listed(hot, catalog)
        assert b'"lab"' in listed(hot, catalog, LAB)
    assert listing.times == 2
    listed(hot, Catalog("sto", 1, 2, {}))
    assert listing.times == 3


def test_lists_are_kept_up_to_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "MAX_KEPT_LISTS_BYTES", 1)
    listing = Listing()
    hot, catalog = hot_path_of(listing), Catalog("sto", 1, 1, {})
    for caller in (EVERYBODY, LAB, EVERYBODY):
        listed(hot, catalog, caller)
    assert listing.times == 3


def test_what_a_client_says_of_itself_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []
    check = hot_path.fits_envelope
    monkeypatch.setattr(hot_path, "fits_envelope", lambda m: checked.append(m) or check(m))
    hot, catalog = hot_path_of(Listing()), Catalog("sto", 1, 1, {})
    named = {CLIENT_INFO_META: {"name": "c", "version": "1"}}
    for number in range(3):
        assert exchange_of(hot, catalog, meta={**named, "progressToken": number}) is not None
    assert len(checked) == 1
    for _ in range(2):  # what is not well-formed is the kernel's to refuse, every time
        assert exchange_of(hot, catalog, meta={CLIENT_INFO_META: {"name": "c"}}) is None
    assert len(checked) == 3


def test_so_many_clients_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "MAX_KEPT_CLIENTS", 2)
    hot, catalog = hot_path_of(Listing()), Catalog("sto", 1, 1, {})
    for number in range(5):
        info = {CLIENT_INFO_META: {"name": f"c{number}", "version": "1"}}
        assert exchange_of(hot, catalog, meta=info) is not None
        assert len(hot._clients._well_formed) <= 2
    long = {CLIENT_INFO_META: {"name": "c" * hot_path.MAX_CLIENT_BYTES, "version": "1"}}
    before = set(hot._clients._well_formed)
    assert exchange_of(hot, catalog, meta=long) is not None
    assert hot._clients._well_formed == before
