"""Two callers with keys, a wrong key and none, over both gateways: who sees and may do what."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.on_ray.faults.raw_http import Answer, Target

WRONG_KEY = "tbk_wrong-key-of-nobody"
SEEN: dict[str, dict[str, list[str]]] = {
    "ann": {
        "prompts": ["greet", "plan"],
        "resources": ["test://open", "test://secret"],
        "resourceTemplates": ["test://notes/{day}"],
    },
    "bob": {
        "tools": ["effect", "text_stats"],
        "prompts": ["greet"],
        "resources": ["test://guests", "test://open"],
        "resourceTemplates": [],
    },
}
LISTS = {
    "tools/list": ("tools", "name"),
    "prompts/list": ("prompts", "name"),
    "resources/list": ("resources", "uri"),
    "resources/templates/list": ("resourceTemplates", "uriTemplate"),
}


def greet(name: str) -> dict[str, Any]:
    return {"name": name, "arguments": {"tone": "warm"} if name == "greet" else {"goal": "peace"}}


def complete(name: str, argument: str) -> dict[str, Any]:
    return {
        "ref": {"type": "ref/prompt", "name": name},
        "argument": {"name": argument, "value": ""},
    }


# Each method that names something: what is asked, and which of the two callers may.
ASKED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("tools/call", {"name": "effect", "arguments": {"key": "by-principal"}}, {"ann", "bob"}),
    ("tools/call", {"name": "large", "arguments": {"size_bytes": 3}}, {"ann"}),
    ("tools/call", {"name": "nope", "arguments": {}}, set()),
    ("prompts/get", greet("greet"), {"ann", "bob"}),
    ("prompts/get", greet("plan"), {"ann"}),
    ("resources/read", {"uri": "test://open"}, {"ann", "bob"}),
    ("resources/read", {"uri": "test://secret"}, {"ann"}),
    ("resources/read", {"uri": "test://guests"}, {"bob"}),
    ("resources/read", {"uri": "test://notes/monday"}, {"ann"}),
    ("completion/complete", complete("greet", "tone"), {"ann", "bob"}),
    ("completion/complete", complete("plan", "goal"), {"ann"}),
]


@pytest.fixture
def ways(hurt: HurtCluster) -> dict[str, list[Target]]:
    """By caller: through the front, and to each gateway by itself."""
    found = {name: [hurt.front(name), *hurt.gateways(name)] for name in ("ann", "bob")}
    found["nobody"] = [hurt.front(None), *hurt.gateways(None)]
    found["wrong"] = [target._replace(key=WRONG_KEY) for target in found["nobody"]]
    assert {len(targets) for targets in found.values()} == {3}
    return found


def ask(target: Target, method: str, params: dict[str, Any] | None = None) -> Answer:
    return asyncio.run(target.ask(target.call(method, params)))


@pytest.mark.parametrize("name", ["ann", "bob"])
def test_each_caller_sees_its_own_lists(ways: dict[str, list[Target]], name: str) -> None:
    for target in ways[name]:
        for method, (field, key) in LISTS.items():
            listed = [entry[key] for entry in ask(target, method).result[field]]
            if (name, field) == ("ann", "tools"):
                assert {"effect", "wait", "text_diff", "die"} <= set(listed)
            else:
                assert sorted(listed) == SEEN[name][field]


@pytest.mark.parametrize("name", ["ann", "bob"])
@pytest.mark.parametrize(("method", "params", "may"), ASKED)
def test_each_caller_may_what_its_entry_allows(
    ways: dict[str, list[Target]], name: str, method: str, params: dict[str, Any], may: set[str]
) -> None:
    for target in ways[name]:
        answer = ask(target, method, params)
        if name in may:
            assert not answer.result.get("isError"), answer
        else:
            assert (answer.status, answer.error["code"]) == (400, -32602)
            assert not re.search("denied|forbidden|allow|permi", answer.error["message"])


def test_what_is_not_allowed_answers_like_what_does_not_exist(
    ways: dict[str, list[Target]],
) -> None:
    for target in ways["bob"]:
        hidden, missing = (
            ask(target, "tools/call", {"name": name, "arguments": {}}) for name in ("wait", "nope")
        )
        assert hidden.body.replace(b"wait", b"nope") == missing.body


@pytest.mark.parametrize("nobody", ["nobody", "wrong"])
def test_without_a_right_key_every_method_is_401(
    ways: dict[str, list[Target]], nobody: str
) -> None:
    methods = [(method, params) for method, params, _ in ASKED]
    for target in ways[nobody]:
        for method, params in [*methods, *((m, {}) for m in LISTS), ("server/discover", {})]:
            answer = ask(target, method, params)
            assert answer.status == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="thornback"')
            assert WRONG_KEY not in str(answer)
        initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize}
        refused = asyncio.run(target.ask(target.request(json.dumps(message).encode())))
        assert (refused.status, "mcp-session-id" in refused.headers) == (401, False)


def test_a_session_is_its_callers_on_every_gateway(ways: dict[str, list[Target]]) -> None:
    client = {"name": "old", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    listing = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).encode()
    for began_at in ways["bob"]:
        opened = asyncio.run(began_at.ask(began_at.request(json.dumps(begin).encode())))
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        session["Mcp-Protocol-Version"] = "2025-11-25"
        for target in ways["bob"]:
            listed = asyncio.run(target.ask(target.request(listing, session)))
            names = [entry["name"] for entry in listed.result["tools"]]
            assert names == SEEN["bob"]["tools"]
        for target in (*ways["ann"], *ways["wrong"], *ways["nobody"]):
            taken = asyncio.run(target.ask(target.request(listing, session)))
            assert taken.status in (401, 404)
            assert "result" not in taken.json


def test_no_key_is_in_any_log_status_process_or_state(
    hurt: HurtCluster, ways: dict[str, list[Target]]
) -> None:
    for name in ways:
        for target in ways[name]:
            ask(target, "tools/call", {"name": "buggy", "arguments": {"secret": "x"}})
            ask(target, "tools/call", {"name": "effect", "arguments": {"key": 7}})
    status = hurt.thornback("status", hurt.name, "--json")
    shown = hurt.thornback("config", "show", str(hurt.config))
    listed = hurt.thornback("logs", "--name", hurt.name, "-n", "100000")
    for done in (status, shown, listed):
        assert done.returncode == 0, done.stderr
    keys = [key.encode() for key in (*hurt.keys.values(), WRONG_KEY)]
    said = {
        "status": status.stdout.encode(),
        "config show": shown.stdout.encode(),
        "logs": listed.stdout.encode(),
        **dict(_files(hurt)),
        **dict(_processes(hurt)),
    }
    assert len(said) > 50
    assert [where for where, data in said.items() if any(key in data for key in keys)] == []


def _files(hurt: HurtCluster) -> Iterator[tuple[str, bytes]]:
    """Every file that the cluster wrote: logs, state, HAProxy's configuration."""
    assert hurt.file.temp_dir is not None
    for folder in (hurt.home, Path(hurt.file.temp_dir)):
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()


def _processes(hurt: HurtCluster) -> Iterator[tuple[str, bytes]]:
    """Command line and environment of every process of the cluster."""
    for process in hurt.processes():
        try:
            facts = [*process.cmdline(), *process.environ().values()]
        except psutil.NoSuchProcess:
            continue
        yield f"process {process.pid}", "\0".join(facts).encode("utf-8", "surrogateescape")


def test_nobody_is_told_which_applications_there_are(hurt: HurtCluster) -> None:
    front = hurt.front(None)
    for path in ("/-/routes", "/-/Routes?of=all", "/-/%72outes"):
        answer = asyncio.run(front.ask(front.request(method="GET", path=path)))
        assert (answer.status, answer.json) == (404, {"error": "not found"}), path
