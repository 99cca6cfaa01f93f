"""What is said of a call is found by its request, in gateways and tool hosts."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.load import until
from tests.on_ray.faults.raw_http import Answer

WRITTEN_S = 20.0
"""An access line is written after the answer has been read."""


def ask(hurt: HurtCluster, request_id: str | None, tool: str, **arguments: str) -> list[Answer]:
    """Call a tool through each gateway."""

    async def both() -> list[Answer]:
        call = {"name": tool, "arguments": arguments}
        headers = {"X-Request-ID": request_id}
        return await asyncio.gather(
            *(
                target.ask(target.call("tools/call", call, headers=headers))
                for target in hurt.gateways()
            )
        )

    return asyncio.run(both())


def found(hurt: HurtCluster, *words: str, lines: int) -> list[dict[str, Any]]:
    """What `logs` finds, once there are so many lines."""
    said: list[dict[str, Any]] = []

    def are_written() -> bool:
        done = hurt.thornback("logs", "--json", *words)
        said[:] = [json.loads(line) for line in done.stdout.splitlines()]
        return len(said) >= lines

    asyncio.run(until(are_written, WRITTEN_S))
    return [{"pool": line["pool"], **json.loads(line["line"])} for line in said]


def test_a_call_is_found_by_the_id_that_its_client_chose(hurt: HurtCluster) -> None:
    answers = ask(hurt, "trace-7f.1", "talk", topic="weather")
    assert [answer.headers["x-request-id"] for answer in answers] == ["trace-7f.1"] * 2
    lines = found(hurt, "--request", "trace-7f.1", lines=6)
    assert {line["request_id"] for line in lines} == {"trace-7f.1"}
    said = sorted((line["pool"], line.get("message", line.get("name"))) for line in lines)
    assert said == [
        *[("effects", "enough of weather")] * 2,
        *[("effects", "let us talk of weather")] * 2,
        *[("gateway", "talk")] * 2,
    ]
    assert {line["principal"] for line in lines if line["pool"] == "gateway"} == {"ann"}


def test_the_traceback_behind_an_error_id_is_found_with_the_call(hurt: HurtCluster) -> None:
    answer, other = ask(hurt, None, "buggy", secret="of no importance")
    request_id = answer.headers["x-request-id"]
    assert request_id != other.headers["x-request-id"]
    error = re.search(r"err_[\w-]+", answer.result["content"][0]["text"])
    assert error is not None
    lines = found(hurt, "buggy", "--request", error[0], lines=2)
    assert {line["request_id"] for line in lines} == {request_id}
    (bug,) = [line for line in lines if line["pool"] == "effects"]
    assert bug["traceback"].endswith("RuntimeError: of no importance")


def test_an_id_that_no_header_may_hold_is_replaced(hurt: HurtCluster) -> None:
    for answer in ask(hurt, "caf\xe9", "talk", topic="names"):
        assert (answer.status, answer.headers["x-request-id"][:4]) == (200, "req_")


def test_nothing_found_is_said_with_what_was_searched(hurt: HurtCluster) -> None:
    done = hurt.thornback("logs", "--request", "req_of_nobody")
    assert done.returncode == 1
    assert hurt.file.one_machine, "Ray need not be asked"
    assert re.search(r"searched \d+ files of .*effects, gateway.* on 1 machine", done.stderr)
