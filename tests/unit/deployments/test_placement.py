"""Whether a replica could be placed at all, concluded from what nodes have."""

from typing import Any

import pytest

from thornback.cluster.catalog import Bundle, PoolEntry
from thornback.deployments.discovery import lacking
from thornback.deployments.placement import GIB, Node, explain, matches

SMALL = Node({"CPU": 2.0, "memory": 8.0 * GIB})
GPU = Node({"CPU": 2.0, "memory": 8.0 * GIB, "GPU": 1.0})
BIG = Node({"CPU": 32.0, "memory": 64.0 * GIB})
HERE = Node({"CPU": 2.0}, {"zone": "a"})
HALVES = (Bundle({"CPU": 1.5}), Bundle({"CPU": 1.5}))


def pool(ask: dict[str, float], **facts: Any) -> PoolEntry:
    return PoolEntry(name="p", application="thornback.local.p", modules=("m",), ask=ask, **facts)


def test_what_some_node_has_is_feasible() -> None:
    assert explain(pool({"CPU": 2.0, "GPU": 1.0}), [SMALL, GPU]) is None


@pytest.mark.parametrize(
    ("ask", "nodes", "asked", "available"),
    [
        ({"CPU": 1.0, "GPU": 1.0}, [SMALL], "1 GPU", "at most 0 GPU on its only node"),
        (
            {"memory": 128.0 * GIB},
            [SMALL, BIG],
            "128 GiB memory",
            "at most 64 GiB memory on any of its 2 nodes",
        ),
        (
            {"CPU": 8.0, "GPU": 1.0},
            [GPU, BIG],
            "8 CPU, 1 GPU",
            "32 CPU, 1 GPU, but not on one node",
        ),
    ],
)
def test_what_no_node_has_is_named_with_what_there_is(
    ask: dict[str, float], nodes: list[Node], asked: str, available: str
) -> None:
    found = explain(pool(ask), nodes)
    assert found is not None
    assert (found.asked, found.available) == (asked, available)
    assert lacking(pool(ask), nodes) == f"asks for {asked}; the cluster has {available}"


def test_of_a_cluster_that_says_nothing_nothing_is_concluded() -> None:
    assert explain(pool({"GPU": 1.0}), []) is None


def test_shares_of_a_cpu_that_add_up_fit() -> None:
    assert explain(pool({"CPU": 0.1 + 0.2}), [Node({"CPU": 0.3})]) is None


@pytest.mark.parametrize(
    ("bundles", "apart", "nodes", "why"),
    [
        (HALVES, False, [SMALL, SMALL], None),
        (HALVES, False, [BIG], None),
        (HALVES, True, [BIG, SMALL], None),
        (HALVES, False, [SMALL], "asks for 3 CPU in 2 bundles; the cluster has 2 CPU in all"),
        (HALVES, True, [BIG], "asks for 2 nodes (STRICT_SPREAD); the cluster has 1"),
        (
            (Bundle({"CPU": 3.0}),),
            False,
            [SMALL, SMALL],
            "asks for 3 CPU; the cluster has at most 2 CPU on any of its 2 nodes",
        ),
    ],
)
def test_each_bundle_must_fit_a_node_and_all_of_them_the_cluster(
    bundles: tuple[Bundle, ...], apart: bool, nodes: list[Node], why: str | None
) -> None:
    assert lacking(pool({"CPU": 3.0}, bundles=bundles, apart=apart), nodes) == why


@pytest.mark.parametrize(
    ("ask", "selectors", "why"),
    [
        ({"CPU": 2.0}, [{"zone": "a"}], None),
        ({"CPU": 2.0}, [{"zone": "nowhere"}, {"zone": "a"}], None),
        (
            {"CPU": 2.0},
            [{"zone": "nowhere"}],
            "asks for a node labelled zone=nowhere; the cluster has zone=a",
        ),
        (
            {"CPU": 2.0},
            [{"disk": "ssd"}],
            "asks for a node labelled disk=ssd; the cluster has no label disk",
        ),
        (
            {"CPU": 8.0},
            [{"zone": "a"}],
            "asks for 8 CPU; the cluster has at most 2 CPU on its only node labelled zone=a",
        ),
    ],
)
def test_only_nodes_with_a_label_that_is_asked_for_count(
    ask: dict[str, float], selectors: list[dict[str, str]], why: str | None
) -> None:
    bundles = (Bundle(ask, tuple(selectors)),)
    assert lacking(pool(ask, bundles=bundles), [HERE, BIG]) == why


@pytest.mark.parametrize(
    ("wish", "labels", "expected"),
    [
        ("a", {"zone": "a"}, True),
        ("a", {"zone": "b"}, False),
        ("a", {}, False),
        ("!a", {"zone": "b"}, True),
        ("!a", {"zone": "a"}, False),
        ("!a", {}, True),
        ("in(a, b)", {"zone": "b"}, True),
        ("in(a,b)", {"zone": "c"}, False),
        ("!in(a, b)", {"zone": "b"}, False),
        ("!in(a, b)", {"zone": "c"}, True),
        ("indigo", {"zone": "indigo"}, True),
    ],
)
def test_a_label_selector_is_read_as_ray_reads_it(
    wish: str, labels: dict[str, str], expected: bool
) -> None:
    assert matches(labels, {"zone": wish}) is expected
