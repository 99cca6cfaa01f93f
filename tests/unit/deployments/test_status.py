import threading
import zlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from thornback.cluster.actors import BlockingRegistryClient, RegistryClient
from thornback.cluster.catalog import Catalog, PoolEntry, encode_entry
from thornback.cluster.errors import RegistryUnavailable
from thornback.cluster.news import FORMAT, Snapshot, encode
from thornback.cluster.scaling import Scaled
from thornback.deployments import status as status_module
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.environment import EXPECTED
from thornback.deployments.placement import Node
from thornback.deployments.status import (
    Facts,
    assess,
    gather,
    hear_hosts,
    hear_registry,
    without_forks,
)

CLUSTER = ClusterFile(
    name="local",
    url="http://127.0.0.1:8000/mcp",
    address="127.0.0.1:1",
    dashboard_url="http://127.0.0.1:2",
    namespace="thornback.local",
    state_dir="/state",
)
GATEWAY = {
    "Gateway": {"replicas": [{"replica_id": "g1", "state": "RUNNING", "pid": 7, "node_id": "n"}]}
}


def catalog_of(**facts: Any) -> Catalog:
    entry = PoolEntry(name="p", application="thornback.local.p", modules=("m",), **facts)
    return Catalog("sto_1", 2, 9, {"pools": {"p": entry}})


def facts_of(pool: dict[str, Any] | None = None, **others: Any) -> Facts:
    applications = {
        "thornback.local.gateway": {"status": "RUNNING", "deployments": GATEWAY},
        "thornback.local.p": pool or {"status": "RUNNING", "deployments": {"ToolHost": {}}},
        "somebody.else": {"status": "RUNNING"},
    }
    others.setdefault("catalog", catalog_of())
    return Facts(details={"applications": applications}, **others)


def replicas(*states: str) -> dict[str, Any]:
    found = [{"replica_id": f"r{i}", "state": s, "pid": i} for i, s in enumerate(states)]
    return {"status": "RUNNING", "deployments": {"ToolHost": {"replicas": found}}}


def test_a_pool_at_zero_is_idle_and_the_cluster_healthy() -> None:
    status = assess(CLUSTER, facts_of())
    assert (status.state, status.problems) == ("healthy", [])
    assert status.pools["p"].state == "idle"
    assert list(status.pools) == ["p"], "neither the gateway nor applications of others"
    assert status.gateways[0].pid == 7


def test_a_pool_says_when_and_why_its_size_changed() -> None:
    event = Scaled("p", 1.5, 0, 1)
    (decision,) = assess(CLUSTER, facts_of(decisions={"p": [event]})).pools["p"].decisions
    assert (decision.at, decision.facts) == ("1970-01-01T00:00:01.500+00:00", event)
    assert decision.text == "p 0→1: a call waits, from zero without delay"


def test_replicas_are_counted_by_state() -> None:
    status = assess(CLUSTER, facts_of(replicas("RUNNING", "RUNNING", "STARTING")))
    assert status.pools["p"].replicas == {"RUNNING": 2, "STARTING": 1}
    assert status.pools["p"].state == "ready"


def test_a_broken_pool_says_module_and_cause() -> None:
    broken = catalog_of(state="broken", failed_module="m", cause="no duckdb", lost_tools=("q",))
    status = assess(CLUSTER, facts_of(catalog=broken))
    assert (status.state, status.problems) == ("degraded", ["pool p is broken: m: no duckdb"])
    assert status.pools["p"].lost_tools == ["q"]


def test_a_pool_that_no_node_can_hold_says_what_it_asks_for() -> None:
    facts = facts_of(catalog=catalog_of(ask={"GPU": 1}), nodes=[Node({"CPU": 2})])
    status = assess(CLUSTER, facts)
    assert status.pools["p"].state == "infeasible"
    assert "asks for 1 GPU; the cluster has at most 0 GPU on its only node" in status.problems[0]


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"broken": {}, "mismatches": {"t@1.0.0": "another schema"}}, "mismatch"),
        ({"broken": {"m": "ImportError"}, "mismatches": {}}, "broken"),
    ],
)
def test_what_a_host_says_of_itself_outweighs_what_serve_sees(
    info: dict[str, Any], state: str
) -> None:
    status = assess(CLUSTER, facts_of(replicas("RUNNING"), hosts={"p": [info]}))
    assert (status.state, status.pools["p"].state) == ("degraded", state)


def test_without_a_gateway_the_cluster_is_degraded() -> None:
    facts = facts_of()
    del facts.details["applications"]["thornback.local.gateway"]
    assert assess(CLUSTER, facts).problems == ["no gateway is running"]


def test_a_registry_that_is_away_is_a_problem_and_the_rest_is_still_told() -> None:
    facts = facts_of(catalog=None, problems=["The registry is not available: x"])
    status = assess(CLUSTER, facts)
    assert (status.catalog, status.state) == (None, "degraded")
    assert "p" in status.pools


def test_a_dashboard_that_is_gone_is_said_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "parts_gone", lambda cluster: ["dashboard"])
    monkeypatch.setattr(status_module, "serve_now", lambda *_: pytest.fail("it was asked"))
    monkeypatch.setattr(status_module, "join", lambda cluster: None)
    monkeypatch.setattr(status_module, "_ask_ray", lambda cluster, facts: None)
    monkeypatch.setattr(status_module, "leave", lambda: None)
    (problem,) = gather(CLUSTER).problems
    assert problem.startswith("Ray's dashboard is gone: tools go on")


def test_of_what_serve_would_know_nothing_is_made_up_where_it_cannot_be_asked() -> None:
    status = assess(CLUSTER, Facts(catalog=catalog_of(), problems=["it is gone"]))
    assert (status.state, status.problems) == ("degraded", ["it is gone"])
    assert status.pools["p"].state == "unknown"


def test_settings_that_replicas_do_not_see_are_lines_to_add_and_no_degradation() -> None:
    seen = {**EXPECTED, "RAY_SERVE_ENABLE_HA_PROXY": "0", "SECRET": "hunter2"}
    status = assess(CLUSTER, facts_of(environment=seen))
    assert status.settings is not None
    assert status.settings.missing == ["export RAY_SERVE_ENABLE_HA_PROXY=1"]
    assert "SECRET" not in status.settings.seen
    assert status.state == "healthy"


def test_the_catalog_is_told_by_its_numbers() -> None:
    catalog = assess(CLUSTER, facts_of()).catalog
    assert catalog is not None
    assert (catalog.store_id, catalog.epoch, catalog.number) == ("sto_1", 2, 9)


@pytest.mark.parametrize(
    ("pids", "command", "is_told"),
    [
        ({"fork_server": 7}, ["python", "-m", "thornback.deployments.fork_server"], False),
        ({"fork_server": 7}, [], True),
        ({"fork_server": 7}, ["vim", "notes"], True),
        ({}, [], False),
    ],
)
def test_a_fork_server_that_is_gone_is_told(
    pids: dict[str, int], command: list[str], is_told: bool
) -> None:
    cluster = msgspec.structs.replace(CLUSTER, pids=pids)
    assert (without_forks(cluster, lambda pid: command) is not None) == is_told


class Answers:
    """Stands for the handle of a registry, of this version or of another."""

    def __init__(self, info: bytes, snapshot: bytes, **later: object) -> None:
        self.info, self.snapshot = Method(info), Method(snapshot)
        for method, answer in later.items():
            setattr(self, method, Method(answer))


class Method:
    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def remote(self, *arguments: object) -> object:
        return self._answer


def heard(info: bytes, snapshot: bytes, **later: object) -> Facts:
    client = RegistryClient("thornback.local")
    client._handle = Answers(info, snapshot, **later)
    facts = Facts()
    hear_registry(BlockingRegistryClient(client), facts)
    return facts


INFO = b'{"pid":7,"node_id":"n","store_id":"sto_1","epoch":1,"number":9,"directory":"/d"}'
SNAPSHOT = encode(Snapshot("sto_1", 1, 9, []))
POOL_TEXT = (
    "pools",
    "text",
    encode_entry(PoolEntry(name="text", application="thornback.local.text", modules=("m",))),
)


def test_a_registry_of_a_later_version_may_say_more() -> None:
    facts = heard(INFO[:-1] + b',"colour":"blue"}', SNAPSHOT, added_notes=[])
    assert (facts.registry_pid, facts.catalog.number, facts.problems) == (7, 9, [])


@pytest.mark.parametrize("info", [b"{}", INFO.replace(b"7", b'"7"'), b"no JSON"])
def test_what_a_registry_says_in_another_way_is_a_problem_and_no_crash(info: bytes) -> None:
    facts = heard(info, SNAPSHOT, added_notes=[])
    assert (facts.registry_pid, facts.catalog.number) == (None, 9)
    (problem,) = facts.problems
    assert "this version cannot read what the registry answers" in problem


@pytest.mark.parametrize(
    "snapshot", [b"\xff", bytes((FORMAT,)) + b"?", bytes((FORMAT,)) + zlib.compress(b"\x90")]
)
def test_a_catalog_in_another_form_is_a_problem_and_no_crash(snapshot: bytes) -> None:
    facts = heard(INFO, snapshot)
    assert (facts.registry_pid, facts.catalog) == (7, None)
    assert len(facts.problems) == 1


@pytest.mark.parametrize("notes", [{}, {"added_notes": [[b'{"pool": 7}']]}])
def test_changes_of_size_in_another_form_are_a_problem_and_no_crash(notes: dict[str, Any]) -> None:
    facts = heard(INFO, encode(Snapshot("sto_1", 1, 9, [POOL_TEXT])), **notes)
    assert facts.catalog is not None
    assert facts.decisions == {}
    (problem,) = facts.problems
    assert "this version cannot read what the registry answers" in problem


def test_changes_of_size_are_asked_for_with_the_catalog() -> None:
    event = Scaled("text", 2.0, 1, 2)
    notes = [[msgspec.json.encode(event)]]
    facts = heard(INFO, encode(Snapshot("sto_1", 1, 9, [POOL_TEXT])), added_notes=notes)
    assert (facts.decisions, facts.problems) == ({"text": [event]}, [])


def test_a_registry_that_is_away_is_asked_once_and_told_once() -> None:
    class Away:
        def info(self) -> Any:
            raise RegistryUnavailable("no answer within 10 s")

        catalog = info

    facts = Facts()
    hear_registry(Away(), facts)
    assert facts.problems == ["The registry is not available: no answer within 10 s"]


# --- replicas -------------------------------------------------------------------------------------


class Broadcast:
    """What came back from the replicas of a pool: answers, and errors in place of answers."""

    def __init__(self, *came: object, meet: threading.Barrier | None = None) -> None:
        self._came = came
        self._meet = meet

    def results(self, *, timeout_s: float, return_exceptions: bool) -> list[object]:
        if self._meet is not None:
            self._meet.wait(10)
        for each in self._came:
            if isinstance(each, Unasked) or (isinstance(each, Exception) and not return_exceptions):
                raise each
        return list(self._came)


class Unasked(TimeoutError):
    """Serve did not get as far as to ask a replica."""


def asked(
    monkeypatch: pytest.MonkeyPatch, pool: dict[str, Any], *came: object, **facts: Any
) -> Facts:
    """What is found out of a pool `p` whose replicas answer so."""

    class Serve:
        def get_deployment_handle(self, deployment: str, application: str) -> Any:
            assert (deployment, application) == ("ToolHost", "thornback.local.p")
            return SimpleNamespace(broadcast=lambda method: Broadcast(*came))

    monkeypatch.setattr(status_module, "import_serve", Serve)
    found = facts_of(pool, **facts)
    hear_hosts(CLUSTER, found)
    return found


def info(replica_id: str, **facts: Any) -> dict[str, Any]:
    return {"replica_id": replica_id, "broken": {}, "mismatches": {}, **facts}


@pytest.mark.parametrize("error", [TimeoutError("no answer"), GetTimeoutError()])
def test_a_replica_that_says_nothing_is_named_and_the_cluster_not_healthy(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = asked(monkeypatch, replicas("RUNNING", "RUNNING", "STARTING"), info("r0"), error)
    status = assess(CLUSTER, facts)
    assert (status.state, status.problems) == (
        "degraded",
        ["pool p: 1 of 2 replicas did not answer within 3 s: r1 (pid 1)"],
    )
    assert (status.pools["p"].state, status.pools["p"].silent) == ("ready", ["r1"])


def test_what_the_others_say_counts_although_one_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = info("r1", mismatches={"t@1.0.0": "another schema"}, environment={"A": "1"})
    facts = asked(monkeypatch, replicas("RUNNING", "RUNNING"), TimeoutError(), other)
    status = assess(CLUSTER, facts)
    assert [status.pools["p"].state, *status.problems] == [
        "mismatch",
        "pool p is mismatch: t@1.0.0: another schema",
        "pool p: 1 of 2 replicas did not answer within 3 s: r0 (pid 0)",
    ]


def test_where_serve_reaches_no_replica_all_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = asked(monkeypatch, replicas("RUNNING"), Unasked())
    assert facts.silent == {"p": ["r0"]}


@pytest.mark.parametrize(
    "came",
    [
        [info("r0"), info("r1")],
        [info("r0"), ActorDiedError()],
        [info("r0")],
        [DeploymentUnavailableError(DeploymentID("ToolHost", "p"))],
    ],
)
def test_replicas_that_answer_or_went_away_meanwhile_are_no_problem(
    came: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = asked(monkeypatch, replicas("RUNNING", "RUNNING"), *came)
    assert (facts.silent, assess(CLUSTER, facts).state) == ({}, "healthy")


def test_pools_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    meet = threading.Barrier(2)

    class Serve:
        def get_deployment_handle(self, deployment: str, application: str) -> Any:
            return SimpleNamespace(broadcast=lambda method: Broadcast(info("r0"), meet=meet))

    monkeypatch.setattr(status_module, "import_serve", Serve)
    facts = facts_of(replicas("RUNNING"))
    facts.details["applications"]["thornback.local.q"] = replicas("RUNNING")
    hear_hosts(CLUSTER, facts)
    assert facts.hosts == {"p": [info("r0")], "q": [info("r0")]}


def test_a_pool_at_zero_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "import_serve", lambda: pytest.fail("it was asked"))
    hear_hosts(CLUSTER, facts_of())
