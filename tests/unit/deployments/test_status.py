from typing import Any

import pytest

from thornback.cluster.catalog import Catalog, PoolEntry
from thornback.cluster.scaling import Scaled
from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.environment import EXPECTED
from thornback.deployments.status import Facts, assess

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
    facts = facts_of(catalog=catalog_of(ask={"GPU": 1}), nodes=[{"CPU": 2}])
    status = assess(CLUSTER, facts)
    assert status.pools["p"].state == "infeasible"
    assert "asks for GPU 1; the largest node has GPU 0" in status.problems[0]


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
