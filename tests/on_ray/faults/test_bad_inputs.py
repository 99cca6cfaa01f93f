"""Bad input over real sockets: through HAProxy, and past it at a gateway's own port.

What each body and header is answered with is proved in process by `tests/protocol`; here it is that
HAProxy and the replica's HTTP server let it through or refuse it themselves, in time, that nothing
dies of it, and that it leaves one line in the log.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.logs import LogTail
from tests.on_ray.faults.raw_http import META, MODERN, Answer, Connection, Target, head
from tests.protocol.test_bodies import CASES, body_of
from tests.protocol.test_http import WRONG_HOSTS, WRONG_ORIGINS

ANSWER_S = 1.0
"""From the last byte that was read to the answer."""
MEGABYTE = 1 << 20
OTHERS_PORT = "8000"
"""In the lists of wrong hosts and origins, the port of the cluster that they are wrong for."""
EVERY_WAY = ["front", "gateway 0", "gateway 1"]


class Bad(NamedTuple):
    """A request, and what it must be answered with."""

    name: str
    request: bytes
    status: int
    code: int | None
    """Of the JSON-RPC error; None where the answer need not hold one."""
    by_front: bool = False
    """Whether HAProxy may refuse it itself, with 400."""


def bad_bodies(target: Target) -> Iterator[Bad]:
    for name, case in CASES.items():
        headers = {"Mcp-Protocol-Version": MODERN} if case.get("modern") else {}
        request = target.request(body_of(case), headers)
        yield Bad(name, request, case["status"], case["code"])


def bad_headers(target: Target) -> Iterator[Bad]:
    usual = target.request(b"{}")
    for method in ("GET", "DELETE", "PUT", "PATCH", "OPTIONS"):
        yield Bad(method, target.request(method=method), 405, -32600)
    for host in WRONG_HOSTS:
        wrong = host.replace(OTHERS_PORT, str(target.host.rpartition(":")[2]))
        yield Bad(f"Host {wrong}", target.request(b"{}", {"Host": wrong}), 421, -32600, True)
    yield Bad("no Host", target.request(b"{}", {"Host": None}), 421, -32600, True)
    for origin in WRONG_ORIGINS:
        wrong = origin.replace(OTHERS_PORT, str(target.host.rpartition(":")[2]))
        yield Bad(f"Origin {wrong}", target.request(b"{}", {"Origin": wrong}), 403, -32600)
    for name in ("Host", "Origin", "Content-Type", "Mcp-Session-Id"):
        value = target.host if name == "Host" else "application/json"
        yield Bad(f"two {name}", doubled(usual, name, value), 400, -32600, name == "Host")
    yield Bad("two keys", doubled(usual, "Authorization", "Bearer x"), 401, -32600)
    for name in ("Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version"):
        yield Bad(f"two {name}", doubled(usual, name, MODERN), 400, -32020)
    for kind in (None, "text/plain", "application/json; charset=latin-1"):
        yield Bad(f"type {kind}", target.request(b"{}", {"Content-Type": kind}), 415, -32600)
    yield Bad("gzip", target.request(b"{}", {"Content-Encoding": "gzip"}), 415, -32600)
    yield Bad("Accept", target.request(b"{}", {"Accept": "text/html"}), 406, -32600)
    for name in ("X-Request-Timeout-Seconds", "X-Request-Disconnect-Disabled"):
        yield Bad(name, target.request(b"{}", {name: "?1"}), 400, -32600)


def bad_calls(target: Target) -> Iterator[Bad]:
    def call(name: str, **headers: str | None) -> bytes:
        changed = {key.replace("_", "-"): value for key, value in headers.items()}
        params = {"name": name, "arguments": {"key": "never"}}
        return target.call("tools/call", params, headers=changed)

    yield Bad("no Mcp-Method", call("effect", Mcp_Method=None), 400, -32020)
    yield Bad("another Mcp-Method", call("effect", Mcp_Method="tools/list"), 400, -32020)
    yield Bad("no Mcp-Name", call("effect", Mcp_Name=None), 400, -32020)
    yield Bad("another Mcp-Name", call("effect", Mcp_Name="wait"), 400, -32020)
    for version in (None, "2025-11-25", "2099-01-01"):
        named = call("effect", Mcp_Protocol_Version=version)
        yield Bad(f"header says {version}", named, 400, -32020)
    yield Bad("a tool name of 10 kB", call("x" * 10_000), 400, -32602)
    yield Bad("a method of 10 kB", target.call("x" * 10_000), 404, -32601)
    yield Bad("an unknown version", unknown_version(target), 400, -32022)


def unknown_version(target: Target) -> bytes:
    about = {f"{META}protocolVersion": "2099-01-01", f"{META}clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": about}}
    headers = {"Mcp-Protocol-Version": "2099-01-01", "Mcp-Method": "tools/list"}
    return target.request(json.dumps(message).encode(), headers)


def doubled(request: bytes, name: str, value: str) -> bytes:
    """The request with a header line more."""
    first, _, rest = request.partition(b"\r\n")
    lines = [f"{name}: {value}"] * (1 if f"\r\n{name}:".encode() in request else 2)
    return b"\r\n".join([first, *(line.encode() for line in lines), rest])


def target_of(hurt: HurtCluster, way: str) -> Target:
    return hurt.front() if way == "front" else hurt.gateways()[int(way[-1])]


async def answer_to(bad: Bad, target: Target) -> tuple[Answer, float]:
    """The answer, and the seconds that it took from the last byte on."""
    async with asyncio.timeout(10), await Connection.open(target.port) as connection:
        await connection.send(bad.request)
        sent_s = time.monotonic()
        answer = await connection.answer()
        return answer, time.monotonic() - sent_s


def misfit(bad: Bad, answer: Answer, took_s: float, way: str) -> str | None:
    """What is wrong with an answer."""
    if took_s > ANSWER_S:
        return f"{bad.name}: answered after {took_s:.2f} s"
    if answer.headers.get("content-type") != "application/json":
        if answer.status == 400 and bad.by_front:
            return None
        return f"{bad.name}: HTTP {answer.status}, {answer.headers}, {answer.body[:80]!r}"
    found = (answer.status, answer.error["code"])
    if found != (bad.status, bad.code):
        return f"{bad.name}: {found}, not {(bad.status, bad.code)}"
    return None


@pytest.mark.parametrize("way", EVERY_WAY)
def test_bad_input_is_refused_in_time_and_leaves_one_line(hurt: HurtCluster, way: str) -> None:
    target = target_of(hurt, way)
    before = everything(hurt)
    log = LogTail(hurt.logs, hurt.file.namespace)
    bads: list[Bad] = [*bad_bodies(target), *bad_headers(target), *bad_calls(target)]
    answers = asyncio.run(each_answer(bads, target))
    assert [m for b, (a, t) in zip(bads, answers, strict=True) if (m := misfit(b, a, t, way))] == []
    ours = [a for a, _ in answers if a.headers.get("content-type") == "application/json"]
    lines = log.after(len(ours))
    assert len(lines.access) == len(ours)
    assert all(len(json.dumps(line)) < 500 for line in lines.access)
    assert len(lines.others) <= len(answers) - len(ours), lines.others
    assert everything(hurt) == before


async def each_answer(bads: Iterable[Bad], target: Target) -> list[tuple[Answer, float]]:
    return [await answer_to(bad, target) for bad in bads]


def everything(hurt: HurtCluster) -> dict[str, set[int]]:
    """The processes that bad input could end."""
    parts = {part: hurt.pids(part) for part in ("gateway", "effects")}
    return {**parts, "front": hurt.named("haproxy"), "registry": hurt.named("ray::RegistryActor")}


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("megabytes", [5, 100])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_body_that_is_too_large_is_answered_before_its_end(
    hurt: HurtCluster, way: str, megabytes: int, says_length: bool
) -> None:
    target = target_of(hurt, way)
    before = everything(hurt)
    log = LogTail(hurt.logs, hurt.file.namespace)
    answer, waited_s, sent = asyncio.run(send_megabytes(target, megabytes, says_length))
    assert (answer.status, answer.error["code"]) == (413, -32600)
    assert waited_s <= ANSWER_S
    print(f"\n{way}: {sent} of {megabytes} MB sent, answer {waited_s:.3f} s after the last of them")
    lines = log.after(1)
    assert ([line["status"] for line in lines.access], lines.others) == ([413], [])
    assert everything(hurt) == before


async def send_megabytes(
    target: Target, megabytes: int, says_length: bool
) -> tuple[Answer, float, int]:
    """Send until there is an answer: it, the seconds since the last piece, and how many went."""
    length = {"Content-Length": str(megabytes * MEGABYTE)}
    headers = length if says_length else {"Content-Length": None, "Transfer-Encoding": "chunked"}
    piece = b"x" * MEGABYTE
    if not says_length:
        piece = b"100000\r\n" + piece + b"\r\n"
    async with asyncio.timeout(20), await Connection.open(target.port) as connection:
        await connection.send(target.request(headers=headers))
        answering = asyncio.create_task(connection.answer())
        sent = 0
        while sent < megabytes and not answering.done():
            sending = asyncio.create_task(connection.send(piece))
            # Who has answered need not read on, so that a send may never end.
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                sending.cancel()
                break
            if sending.exception() is not None:  # the answer is there already
                break
            sent += 1
            sent_s = time.monotonic()
            await asyncio.sleep(0)  # sending may take no time, and the answer needs some
        if sent == megabytes and not says_length:
            await connection.send(b"0\r\n\r\n")
        answer = await answering
        return answer, time.monotonic() - sent_s, sent


# --- two readers of one request -------------------------------------------------------------------


def smuggling(target: Target, hidden: bytes) -> dict[str, bytes]:
    """Requests in which HAProxy and the gateway might see another request, `hidden`.

    RFC 9112 lets a server refuse each of them, or read it as one request without `hidden`.
    """
    usual = [
        ("Host", target.host),
        ("Authorization", f"Bearer {target.key}"),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
    ]

    def post(*framing: tuple[str, str], body: bytes) -> bytes:
        return head("POST", "/mcp", [*usual, *framing]) + body

    ended = b"0\r\n\r\n" + hidden
    full, none = ("Content-Length", str(len(ended))), ("Content-Length", "0")
    whole = ("Content-Length", str(len(hidden)))
    chunked = ("Transfer-Encoding", "chunked")
    attempts = {
        "two lengths": post(whole, none, body=hidden),
        "two lengths in one": post(("Content-Length", f"{len(hidden)}, 0"), body=hidden),
        "length with a sign": post(("Content-Length", f"+{len(hidden)}"), body=hidden),
        "length in hex": post(("Content-Length", hex(len(hidden))), body=hidden),
        "negative length": post(("Content-Length", "-1"), body=hidden),
        "length with a space before the colon": post(
            ("Content-Length ", str(len(hidden))), none, body=hidden
        ),
        "an unknown coding": post(full, ("Transfer-Encoding", "xchunked"), body=ended),
        "chunked, and then not": post(full, ("Transfer-Encoding", "chunked, identity"), body=ended),
        "chunked twice": post(full, chunked, chunked, body=ended),
        "chunked, folded": post(full, ("Transfer-Encoding", "\r\n chunked"), body=ended),
        "chunked after a control character": post(
            full, ("Transfer-Encoding", "\x0bchunked"), body=ended
        ),
        "chunked, space before the colon": post(
            full, ("Transfer-Encoding ", "chunked"), body=ended
        ),
        "a size that overflows": post(chunked, body=b"10000000000000000\r\n" + hidden),
        "a negative size": post(chunked, body=b"-1\r\n" + hidden),
        "a size in hex with 0x": post(chunked, body=b"0x0\r\n\r\n" + hidden),
        "a chunk longer than its size": post(chunked, body=b"2\r\n{}" + ended),
        "a bare line feed after the size": post(chunked, body=b"0\n\n" + hidden),
        "a line break in a chunk's extension": post(chunked, body=b"2;\n" + hidden),
        "a zero byte in a header": post(("X-A", "a\x00b"), none, body=hidden),
        "a carriage return in a header": post(("X-A", "a\rContent-Length: 9"), none, body=hidden),
        "a folded header": post(("X-A", f"a\r\n Content-Length: {len(hidden)}"), none, body=hidden),
        "a header without a name": post((" ", "x"), whole, body=hidden),
        "an upgrade": post(("Connection", "Upgrade"), ("Upgrade", "h2c"), whole, body=hidden),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
        "no version": b"POST /mcp\r\n\r\n" + hidden,
        "a space in the path": post(whole, body=hidden).replace(b"/mcp", b"/mcp HTTP/1.1 ", 1),
        "a line break in the path": post(whole, body=hidden).replace(b"/mcp", b"/\nmcp", 1),
        "half a request": hidden[: len(hidden) // 2],
    }
    return attempts


@pytest.mark.parametrize("way", EVERY_WAY)
def test_one_request_in_is_one_request_run(hurt: HurtCluster, way: str) -> None:
    target = target_of(hurt, way)
    before = everything(hurt)

    async def scenario() -> list[str]:
        found = []
        names = smuggling(target, b"").keys()
        for number, name in enumerate(names):
            key = f"smuggled-{way[-1]}-{number}"
            request = smuggling(target, target.tool("effect", {"key": key}))[name]
            found += [f"{name}: {what}" for what in await attempt(target, request, key, number)]
        return found

    found = asyncio.run(scenario())
    ran = [e for e in hurt.effects_file.read_text().splitlines() if e.startswith("smuggled")]
    assert (found, ran) == ([], [])
    assert everything(hurt) == before


async def attempt(target: Target, request: bytes, key: str, number: int) -> list[str]:
    """Send a request of two meanings, then an innocent one elsewhere; what went wrong."""
    async with asyncio.timeout(10), await Connection.open(target.port) as connection:
        await connection.send(request)
        connection.end_of_input()
        came = await connection.rest()
    found = []
    if came.count(b"HTTP/1.1 200") or key.encode() in came:
        found.append(f"was answered {came[-300:]!r}")
    if came.count(b"HTTP/1.") > 2:
        found.append(f"had {came.count(b'HTTP/1.')} answers")
    # A gateway that waits for the rest of somebody's request would take the next one for it.
    innocent = f"innocent-{key}"
    for _ in range(4):
        answer = await target.ask(target.call("server/discover", rpc_id=innocent))
        if answer.json.get("id") != innocent or "result" not in answer.json:
            found.append(f"the next request was answered {answer}")
    return found


def test_what_is_right_still_is(hurt: HurtCluster) -> None:
    async def scenario() -> None:
        for target in (hurt.front(), *hurt.gateways()):
            key = f"right-{target.port}"
            answer = await target.ask(target.tool("effect", {"key": key}))
            assert answer.result["content"][0]["text"] == key

    asyncio.run(scenario())
