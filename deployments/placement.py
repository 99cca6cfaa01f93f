"""Whether the nodes of a cluster could hold a replica at all, busy or not: pure.

What is free now, and what Ray makes of it, is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from thornback.cluster.catalog import Bundle, PoolEntry
from thornback.cluster.errors import PoolInfeasible, shown

GIB = 1024**3
TOLERANCE = 1e-6
"""Ray counts resources in steps of 1/10,000; sums of such numbers are not exact."""
MAX_LABELS_CHARS = 200


class Node(msgspec.Struct, frozen=True):
    """One living node of the cluster."""

    total: dict[str, float]
    """What it has, busy or not: `CPU`, `GPU`, `memory` (bytes) and custom resources."""
    labels: dict[str, str] = {}


def explain(pool: PoolEntry, nodes: Sequence[Node]) -> PoolInfeasible | None:
    """What a replica of `pool` asks for and the cluster does not have; None where it could go.

    What is said against it is certain. Of bundles that each fit on some node and together in the
    cluster, it is not found out whether they fit side by side.

    Args:
        pool: The pool.
        nodes: Living nodes; of an empty list nothing is concluded.
    """
    if not nodes:
        return None
    bundles = pool.bundles or (Bundle(pool.ask),)
    lacks = (_lack_of_one(bundle, nodes) for bundle in bundles)
    lack = next(filter(None, lacks), None) or _lack_of_all(pool, len(bundles), nodes)
    return PoolInfeasible(pool.name, *lack) if lack else None


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node with `labels` is one that `selector` selects, as Ray reads selectors.

    A wish is `a`, `in(a, b)`, or one of them after `!`, which a node without the label fulfils.
    """
    for key, wish in selector.items():
        wanted = wish.removeprefix("!")
        several = re.fullmatch(r"(?:in)?\((.*)\)", wanted)
        values = re.split(", ?", several[1]) if several else [wanted]
        if (labels.get(key) in values) == wish.startswith("!"):
            return False
    return True


def in_words(resources: Mapping[str, float]) -> str:
    """`2 CPU, 16 GiB memory`; memory is bytes."""
    return ", ".join(
        f"{amount / GIB:.5g} GiB {name}" if name.endswith("memory") else f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
    )


_Lack = tuple[str, str]
"""What is asked for, and what there is."""


def _lack_of_one(bundle: Bundle, nodes: Sequence[Node]) -> _Lack | None:
    """What no single node has of what shall be on one."""
    ask = bundle.resources
    selected = [node for node in nodes if not bundle.labels or _is_selected(node, bundle.labels)]
    if not selected:
        return f"a node labelled {_labels_in_words(bundle)}", _labels_there(bundle, nodes)
    if any(_fits(ask, node) for node in selected):
        return None
    most = _most(ask, selected)
    short = [name for name in sorted(ask) if ask[name] > most[name] + TOLERANCE]
    named = short or sorted(ask)
    asked, available = (in_words({n: f[n] for n in named}) for f in (ask, most))
    if not short:
        return asked, f"{available}, but not on one node"
    where = "its only node" if len(selected) == 1 else f"any of its {len(selected)} nodes"
    labelled = f" labelled {_labels_in_words(bundle)}" if len(selected) < len(nodes) else ""
    return asked, f"at most {available} on {where}{labelled}"


def _lack_of_all(pool: PoolEntry, bundles: int, nodes: Sequence[Node]) -> _Lack | None:
    """What all nodes together have too little of."""
    if pool.apart and bundles > len(nodes):
        return f"{bundles} nodes (STRICT_SPREAD)", f"{len(nodes)}"
    there = {name: sum(node.total.get(name, 0.0) for node in nodes) for name in pool.ask}
    short = [name for name in pool.ask if pool.ask[name] > there[name] + TOLERANCE]
    if not short:
        return None
    asked, available = (in_words({n: f[n] for n in short}) for f in (pool.ask, there))
    return f"{asked} in {bundles} bundles", f"{available} in all"


def _most(ask: Mapping[str, float], nodes: Sequence[Node]) -> dict[str, float]:
    return {name: max(node.total.get(name, 0.0) for node in nodes) for name in ask}


def _fits(ask: Mapping[str, float], node: Node) -> bool:
    return all(node.total.get(name, 0.0) + TOLERANCE >= amount for name, amount in ask.items())


def _is_selected(node: Node, selectors: Sequence[Mapping[str, str]]) -> bool:
    return any(matches(node.labels, selector) for selector in selectors)


def _labels_in_words(bundle: Bundle) -> str:
    alternatives = (", ".join(f"{k}={v}" for k, v in one.items()) for one in bundle.labels)
    return shown(" or ".join(alternatives), MAX_LABELS_CHARS)


def _labels_there(bundle: Bundle, nodes: Sequence[Node]) -> str:
    """What the nodes have under the keys that `bundle` asks for."""
    there = []
    for key in sorted({key for selector in bundle.labels for key in selector}):
        values = sorted({node.labels[key] for node in nodes if key in node.labels})
        there += [f"{key}={value}" for value in values] or [f"no label {key}"]
    return shown(", ".join(there), MAX_LABELS_CHARS)
