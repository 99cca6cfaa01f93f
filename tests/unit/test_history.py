"""The judge of fault tests: it must see what is wrong in a history, and nothing in a good one."""

import json
from typing import Any

import pytest

from tests.on_ray.faults.history import Fault, Operation, Outcome, complaints, outcome_of
from tests.on_ray.faults.raw_http import Answer

AT_S = 100.0
FAULT = Fault(AT_S)
LOST = "pool.replica_lost"


def op(
    key: str,
    begin_s: float = 0.0,
    outcome: Outcome = "right",
    detail: str = "",
    *,
    client: int = 0,
    took_s: float = 0.05,
) -> Operation:
    """An operation that begins `begin_s` seconds from the fault."""
    return Operation(client, key, AT_S + begin_s, AT_S + begin_s + took_s, outcome, detail)


def test_a_history_in_which_all_went_well_is_good() -> None:
    operations = [op("a", -1), op("b", 0), op("c", 1, client=1)]
    assert complaints(operations, ["a", "b", "c"]) == []
    assert complaints(operations, ["a", "b", "c"], FAULT) == []


def test_what_a_fault_may_cost_is_good() -> None:
    operations = [
        op("ran", -0.02, "told", LOST),
        op("did not", 0.2, "told", LOST, client=1),
        op("later", 1),
    ]
    assert complaints(operations, ["ran", "later"], FAULT) == []


BAD: dict[str, tuple[list[Operation], list[str], str]] = {
    "a wrong answer": ([op("a", 0, "wrong", "answered 'b'")], ["a"], "a: wrong, answered 'b'"),
    "a run without a call": ([op("a")], ["a", "z"], "z was never sent"),
    "a call that ran twice": ([op("a")], ["a", "a"], "a ran 2 times"),
    "a lost call that ran twice": (
        [op("a", 0, "told", LOST)],
        ["a", "a"],
        "a ran 2 times",
    ),
    "an answer without an effect": ([op("a")], [], "a: answered, and has no effect"),
    "an effect of what was not started": (
        [op("a", 0, "told", "pool.no_replica")],
        ["a"],
        "a: pool.no_replica, and has an effect",
    ),
    "an effect of what HAProxy did not start": (
        [op("a", 0, "front", "it was not started")],
        ["a"],
        "HAProxy",
    ),
    "two failures of one client": (
        [op("a", 0, "told", LOST), op("b", 0.1, "told", LOST)],
        [],
        "client 0 had 2 failures",
    ),
    "a failure of a late call": (
        [op("a", 0.26, "told", LOST)],
        [],
        "begun 0.260 s after the fault",
    ),
    "a failure before the fault": (
        [op("a", -1, "told", LOST)],
        [],
        "it ended 0.950 s before the fault",
    ),
    "a kind of failure that is not allowed": ([op("a", 0, "cut", "EOF")], [], "a: cut, EOF"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_must_not_be_is_seen(name: str) -> None:
    operations, effects, expected = BAD[name]
    fault = FAULT
    if name == "an effect of what HAProxy did not start":
        fault, expected = Fault(AT_S, frozenset({"front"})), "a: it was not started, and has"
    found = complaints(operations, effects, fault)
    assert len(found) == 1, found
    assert expected in found[0]


def test_without_a_fault_no_call_may_fail() -> None:
    found = complaints([op("a", 0, "told", LOST)], [])
    assert found == [f"a: told, {LOST}", "client 0 had 1 failures"]


def test_a_fault_that_is_felt_longer_may_cost_more() -> None:
    fault = Fault(AT_S, frozenset({"cut"}), felt_s=8, each=None)
    refused = [op(f"a{i}", i, "cut", "ConnectionRefusedError") for i in range(8)]
    assert complaints(refused, [], fault) == []
    assert len(complaints([*refused, op("late", 8.1, "cut")], [], fault)) == 1


def answer(message: Any, status: int = 200) -> Answer:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return Answer(status, {"content-type": "application/json"}, body)


def rpc(**fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "k", **fields}


def result(text: str, **fields: Any) -> dict[str, Any]:
    return rpc(result={"content": [{"type": "text", "text": text}], **fields})


LOST_META = {"io.thornback/error": {"code": LOST}}
NO_GATEWAY = {"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": "No gateway is"}}


@pytest.mark.parametrize(
    ("came", "outcome", "detail"),
    [
        (answer(result("k")), "right", ""),
        (answer(result("other")), "wrong", "answered 'other'"),
        (answer(result("k") | {"id": "other"}), "wrong", "the answer to other"),
        (answer(result("died", isError=True, _meta=LOST_META)), "told", LOST),
        (answer(rpc(error={"code": 1, "data": {"code": "x.y"}})), "told", "x.y"),
        (answer(NO_GATEWAY, 503), "front", "No gateway is"),
        (answer(NO_GATEWAY, 404), "wrong", "the answer to None"),
        (answer(b"Internal Server Error", 500), "wrong", "not JSON"),
        (answer(result("k"), 404), "wrong", "HTTP 404"),
        (answer([]), "wrong", "not JSON-RPC"),
    ],
)
def test_an_answer_is_what_it_says_and_no_more(came: Answer, outcome: str, detail: str) -> None:
    found, said = outcome_of("k", "k", came)
    assert found == outcome
    assert detail in said
