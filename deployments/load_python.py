"""A `Load` from this process, for machines without wrk.

It spends about a millisecond of CPU on a call, so that the endpoint is seldom what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import Counter

import httpx
import msgspec

from thornback.deployments.load import FRESH, Figures, Load, figures_of
from thornback.deployments.mcp_client import headers_of, meta_of


async def run_python(
    load: Load, key: str | None = None, transport: httpx.AsyncBaseTransport | None = None
) -> Figures:
    """Run a load to its end.

    Raises:
        WrongAnswers: not every request was answered rightly.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=load.connections)
    async with httpx.AsyncClient(
        headers=headers, limits=limits, transport=transport, trust_env=False, timeout=None
    ) as http:
        run = _Run(http, load)
        clients = [asyncio.create_task(run.client()) for _ in range(load.connections)]
        lasts_s = load.warm_up_s + load.seconds + load.drain_s
        _, pending = await asyncio.wait(clients, timeout=lasts_s)
        for client in pending:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return figures_of(run.told(unanswered=len(pending)), load.seconds)


class _Run:
    """The clients of one load, and what they met so far."""

    def __init__(self, http: httpx.AsyncClient, load: Load) -> None:
        self._http = http
        self._load = load
        self._nonce = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._from_s = time.monotonic() + load.warm_up_s
        self._until_s = self._from_s + load.seconds
        self._answered = self._wrong = self._broken = 0
        self._first_wrong = ""
        self._times: dict[str, Counter[int]] = {tool: Counter() for tool in load.tools}

    async def client(self) -> None:
        """Ask, one request after the other, until the load is over."""
        while (began := time.monotonic()) < self._until_s:
            number = next(self._numbers)
            tool = self._load.tools[number % len(self._load.tools)]
            try:
                right = await self._ask(number, tool)
            except httpx.HTTPError:
                self._broken += 1
                return
            ended = time.monotonic()
            self._answered += 1
            self._wrong += not right
            if self._from_s <= ended < self._until_s:
                self._times[tool][round((ended - began) * 1e6)] += 1

    async def _ask(self, number: int, tool: str) -> bool:
        load, text = self._load, f"{self._nonce}-{number}."
        called = load.method == "tools/call"
        headers = headers_of(load.revision, load.method, tool if called else None)
        meta = meta_of(load.revision)
        params: dict[str, object] = {"_meta": meta} if meta else {}
        if called:
            params |= {
                "name": tool,
                "arguments": msgspec.Raw(load.arguments.replace(FRESH, text).encode()),
            }
        body = {"jsonrpc": "2.0", "id": number, "method": load.method, "params": params}
        answer = await self._http.post(load.url, content=msgspec.json.encode(body), headers=headers)
        wanted = load.expected.replace(FRESH, text) + "x" * load.padding_bytes
        said = answer.text
        if answer.status_code == 200 and wanted in said and '"isError":true' not in said:
            return True
        self._first_wrong = self._first_wrong or f"{answer.status_code} {said[:300]}"
        return False

    def told(self, unanswered: int) -> bytes:
        """What `load.lua` says of itself at the end."""
        return msgspec.json.encode(
            {
                "answered": self._answered,
                "unanswered": unanswered,
                "wrong": self._wrong,
                "socket_errors": self._broken,
                "first_wrong": self._first_wrong,
                "latency_us": self._times,
            }
        )
