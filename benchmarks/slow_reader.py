"""A client that reads a long stream slowly: what that costs gateway and host in memory."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.accounting import spent
from benchmarks.measuring import Measured, Point, check_count
from benchmarks.servers import Server
from benchmarks.streaming import FIRST_ITEM, StreamCheck, stream_request
from benchmarks.watching import Seen
from thornback.deployments.load import FRESH, WrongAnswers

SLOW_BYTES_PER_S = 200_000
"""A thousand items a second: the tool could make twenty times as many."""
PIECE_BYTES = 20_000
LOOK_S = 0.5


def measure_slow_reader(server: Server, point: Point, run: int) -> Measured:
    """Read slowly for as long as the load lasts, and the rest as fast as it comes.

    Raises:
        WrongAnswers: items are missing, or out of order.
        CountDiffers: the tool counted other calls.
    """
    load = point.load
    (tool,), text = load.tools, f"{secrets.token_hex(4)}."
    arguments = json.loads(load.arguments.replace(FRESH, text))
    parts = urlsplit(server.url)
    counted = server.counted()
    before, begin_s = server.usage(), time.monotonic()
    check = StreamCheck(text)
    with _memory(server) as memory:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request("POST", parts.path, *stream_request(tool, arguments))
            answer = connection.getresponse()
            first_s = time.monotonic() - begin_s
            until_s = begin_s + load.seconds
            while piece := answer.read1(PIECE_BYTES):
                check.take(piece)
                if time.monotonic() < until_s:
                    time.sleep(len(piece) / SLOW_BYTES_PER_S)
        finally:
            connection.close()
    took_s = time.monotonic() - begin_s
    if answer.status != 200 or check.items != arguments["count"] or not check.is_whole:
        raise WrongAnswers(1, 0, 0, f"{answer.status} with {check.items} items in their order")
    check_count(server, counted, 1)
    grown = [value - memory[0][1] for _, value in memory]
    return Measured(
        server=server.name,
        point=point.label,
        run=run,
        calls=1,
        seconds=took_s,
        latency_us={FIRST_ITEM: {round(first_s * 1e6): 1}},
        cpu_s=spent(before, server.usage()),
        unique_bytes=server.unique_bytes(),
        extra={"grown_mb": max(grown), "items_per_s": check.items / took_s},
        series={"MB more": [(moment - begin_s, value - memory[0][1]) for moment, value in memory]},
    )


@contextmanager
def _memory(server: Server) -> Iterator[Seen]:
    """USS of gateways and hosts in MB, again and again while the block runs."""
    seen: Seen = []
    over = threading.Event()

    def look() -> None:
        by_role = server.unique_bytes()
        seen.append((time.monotonic(), (by_role.get("gateway", 0) + by_role.get("host", 0)) / 1e6))

    def keep_looking() -> None:
        while not over.wait(LOOK_S):
            look()

    look()
    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        look()
