"""What clients saw while something died, and whether it may have been so.

Pure: operations and effects in, complaints out. An operation is one call with a key that no other
call has; its tool leaves that key in the effects file and answers with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from tests.on_ray.faults.raw_http import Answer

Outcome = Literal["right", "told", "front", "cut", "wrong"]
"""`right`: the tool's own answer. `told`: an error in valid MCP. `front`: HAProxy's own answer.
`cut`: no answer, the connection ended or could not be made. `wrong`: anything else."""

NOT_STARTED = frozenset(
    {"pool.no_replica", "pool.overloaded", "pool.busy", "pool.broken", "pool.infeasible"}
)
"""Codes that promise that the tool did not run."""
AFTER_KILL_S = 0.25
"""A call that begins later than this after a kill must not feel it."""


class Operation(NamedTuple):
    """One call of one client. Moments are on the clients' own monotonic clock."""

    client: int
    key: str
    began_s: float
    ended_s: float
    outcome: Outcome
    detail: str = ""
    """Of what is not right: the dotted code, HAProxy's words, the kind of cut, what was wrong."""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Fault(NamedTuple):
    """What was done to the cluster, and what it may cost."""

    at_s: float
    """When, on the clients' clock."""
    allowed: frozenset[Outcome] = frozenset({"told"})
    """How a call may fail because of it."""
    felt_s: float = AFTER_KILL_S
    """Calls that begin later than this after it do not fail."""
    each: int | None = 1
    """How many calls of one client may fail; None: as many as come to it while it is felt."""


def outcome_of(key: str, rpc_id: str, answer: Answer) -> tuple[Outcome, str]:
    """What an answer to the call with this key comes to."""
    try:
        message = answer.json
    except ValueError:
        return "wrong", f"HTTP {answer.status}, not JSON: {answer.body[:80]!r}"
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return "wrong", f"HTTP {answer.status}, not JSON-RPC: {answer.body[:80]!r}"
    if answer.status == 503 and message.get("id") is None and "No gateway" in str(message):
        return "front", message["error"]["message"]
    if message.get("id") != rpc_id:
        return "wrong", f"HTTP {answer.status}, the answer to {message.get('id')}: {message}"
    if answer.status != 200:
        return "wrong", f"HTTP {answer.status}: {message}"
    return _of_message(key, message)


def _of_message(key: str, message: dict[str, Any]) -> tuple[Outcome, str]:
    if "error" in message:
        return "told", str(message["error"].get("data", {}).get("code", message["error"]))
    result = message["result"]
    if result.get("isError"):
        said = result.get("_meta", {}).get("io.thornback/error", {})
        return "told", str(said.get("code", result))
    text = result["content"][0]["text"]
    return ("right", "") if text == key else ("wrong", f"answered {text!r}")


def complaints(
    operations: Iterable[Operation], effects: Sequence[str], fault: Fault | None = None
) -> list[str]:
    """What in a history must not be; empty for a good one.

    Args:
        operations: Every call of every client, each of them over.
        effects: Lines of the effects file, of tools that must not run twice.
        fault: What happened meanwhile; None: nothing, so that every call has a right answer.
    """
    operations = list(operations)
    return [
        *(c for operation in operations for c in _of_one(operation, fault)),
        *_of_clients(operations, fault),
        *_of_effects(operations, effects),
    ]


def _of_one(operation: Operation, fault: Fault | None) -> list[str]:
    if operation.outcome == "right":
        return []
    what = f"{operation.key}: {operation.outcome}, {operation.detail}"
    if operation.outcome == "wrong" or fault is None:
        return [what]
    after_s = operation.began_s - fault.at_s
    if operation.outcome not in fault.allowed:
        return [f"{what}; begun {after_s:+.3f} s from the fault"]
    if operation.ended_s < fault.at_s:
        return [f"{what}; it ended {fault.at_s - operation.ended_s:.3f} s before the fault"]
    if after_s > fault.felt_s:
        return [f"{what}; begun {after_s:.3f} s after the fault"]
    return []


def _of_clients(operations: Iterable[Operation], fault: Fault | None) -> list[str]:
    failed = Counter(o.client for o in operations if o.outcome != "right")
    limit = 0 if fault is None else fault.each
    if limit is None:
        return []
    return [f"client {c} had {n} failures" for c, n in failed.items() if n > max(limit, 0)]


def _of_effects(operations: Iterable[Operation], effects: Sequence[str]) -> list[str]:
    ran = Counter(effects)
    found = [f"{key} ran {times} times" for key, times in ran.items() if times > 1]
    sent = set()
    for operation in operations:
        sent.add(operation.key)
        if operation.outcome == "right" and not ran[operation.key]:
            found.append(f"{operation.key}: answered, and has no effect")
        not_started = operation.detail in NOT_STARTED or "was not started" in operation.detail
        if not_started and ran[operation.key]:
            found.append(f"{operation.key}: {operation.detail}, and has an effect")
    return found + [f"{key} was never sent" for key in ran if key not in sent]


def longest_gap_s(operations: Collection[Operation], fault: Fault) -> float:
    """Seconds from the fault until the last client had a right answer to a call begun after it."""
    first: dict[int, float] = {}
    for operation in sorted(operations, key=lambda o: o.ended_s):
        if operation.outcome == "right" and operation.began_s >= fault.at_s:
            first.setdefault(operation.client, operation.ended_s)
    return max(first.values(), default=float("inf")) - fault.at_s
