"""From pools and their findings to the catalog: what `up` writes to the registry.

Each pool's tools go in whole or not at all, in an edit of their own, so that a pool that cannot be
registered takes no other down with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from thornback.cluster.actors import BlockingRegistryClient
from thornback.cluster.catalog import Space
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import RegistrationError
from thornback.cluster.principals import PrincipalEntry
from thornback.cluster.registry import edit_of
from thornback.deployments.contents import ConfigEntry, stale_keys
from thornback.deployments.discovery import (
    Discovered,
    Findings,
    decode_findings,
    discover,
    findings_key,
)
from thornback.deployments.serve_config import PoolPlan

_NOTES = "discovery"


class _Noted(msgspec.Struct, frozen=True):
    key: str
    findings: msgspec.Raw


def find_tools(registry: BlockingRegistryClient, plans: list[PoolPlan]) -> dict[str, Findings]:
    """What tools each pool has; asked of the pools' environments only where it is not known."""
    known: dict[str, Findings] = {}
    for plan in plans:
        noted = registry.noted(_NOTES, plan.name)
        note = msgspec.json.decode(noted, type=_Noted) if noted else None
        if note is not None and note.key == findings_key(plan):
            known[plan.name] = decode_findings(bytes(note.findings))
    unknown = [plan for plan in plans if plan.name not in known]
    found = discover(unknown)
    for plan in unknown:
        findings = found[plan.name]
        if not findings.broken:  # what failed may work when it is tried again
            note = _Noted(findings_key(plan), msgspec.Raw(msgspec.json.encode(findings)))
            registry.note(_NOTES, plan.name, msgspec.json.encode(note))
    return known | found


def register_pools(
    registry: BlockingRegistryClient, discovered: Iterable[Discovered]
) -> list[Discovered]:
    """Write every pool, and withdraw those that the config no longer has.

    Returns:
        The pools as they went in: one that was refused is there as broken.
    """
    written = []
    for found in discovered:
        name = found.pool.name
        try:
            registry.write(edit_of(found.pool, *found.tools, pool=name))
        except RegistrationError as refusal:
            broken = msgspec.structs.replace(
                found.pool,
                state="broken",
                failed_module=found.pool.modules[0],
                cause=str(refusal).splitlines()[0],
                lost_tools=tuple(sorted(spec.name for spec in found.tools)),
            )
            found = Discovered(broken, [])
            registry.write(edit_of(broken, pool=name))
        written.append(found)
    wanted = {found.pool.name for found in written}
    for name in sorted(registry.catalog().of("pools").keys() - wanted):
        registry.write(edit_of(withdraw=[("pools", name)], pool=name))
    return written


def register_config(
    registry: BlockingRegistryClient, config: ClusterConfig, entries: list[ConfigEntry]
) -> None:
    """Write what the config itself offers: principals, and the entries of its contents.

    Those that it offered before and does not any more are withdrawn.
    """
    principals = [
        PrincipalEntry(name, one.key_sha256, tuple(one.tools), tuple(one.tags))
        for name, one in config.principals.items()
    ]
    catalog = registry.catalog()
    gone: list[tuple[Space, str]] = [
        ("principals", name) for name in sorted(catalog.of("principals"))
        if name not in config.principals
    ]  # fmt: skip
    gone += stale_keys(catalog, entries)
    registry.write(edit_of(*principals, *entries, withdraw=gone))
