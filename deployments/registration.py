"""From pools and their findings to the catalog: what `up` writes to the registry.

Each pool's tools go in whole or not at all, in an edit of their own, so that a pool that cannot be
registered takes no other down with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from thornback.cluster.actors import BlockingRegistryClient
from thornback.cluster.catalog import Space
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import ConfigError, RegistrationError
from thornback.cluster.principals import PrincipalEntry
from thornback.cluster.registry import edit_of
from thornback.deployments.contents import ConfigEntry, stale_keys
from thornback.deployments.discovery import (
    Discovered,
    Findings,
    catalog_entries,
    decode_findings,
    discover,
    findings_key,
)
from thornback.deployments.packages import Asked
from thornback.deployments.serve_config import PoolPlan, split_plan

_NOTES = "discovery"


class _Noted(msgspec.Struct, frozen=True):
    key: str
    findings: msgspec.Raw


def find_tools(
    registry: BlockingRegistryClient, plans: list[PoolPlan], asked: Asked | None = None
) -> Iterator[dict[str, Findings]]:
    """Begin to find what tools pools have, and tell of each as soon as it is known.

    Their environments are asked only where it is not known from before. `asked` as in `discover`.
    """
    known: dict[str, Findings] = {}
    for plan in plans:
        noted = registry.noted(_NOTES, plan.name)
        note = msgspec.json.decode(noted, type=_Noted) if noted else None
        if note is not None and note.key == findings_key(plan):
            known[plan.name] = decode_findings(bytes(note.findings))
    unknown = {plan.name: plan for plan in plans if plan.name not in known}
    begun = discover(list(unknown.values()), asked)
    return chain([known], (_noted(registry, unknown, found) for found in begun))


def _noted(
    registry: BlockingRegistryClient, plans: Mapping[str, PoolPlan], found: dict[str, Findings]
) -> dict[str, Findings]:
    """`found`, kept for the next time."""
    for name, findings in found.items():
        if not findings.broken:  # what failed may work when it is tried again
            key = findings_key(plans[name])
            note = _Noted(key, msgspec.Raw(msgspec.json.encode(findings)))
            registry.note(_NOTES, name, msgspec.json.encode(note))
    return found


def catalog_as_found(
    config: ClusterConfig,
    plans: list[PoolPlan],
    loose: list[PoolPlan],
    found: Iterable[dict[str, Findings]],
    version: str,
) -> Iterator[Discovered]:
    """What the catalog shall hold of each pool, in the order in which it is found out.

    Args:
        config: The whole config.
        plans: The pools.
        loose: Of modules that no pool names: a pool for each of their tool versions.
        found: As `find_tools` tells it.
        version: Thornback's.

    Raises:
        ConfigError: if two pools offer the same version of a tool.
    """
    named = {plan.name: plan for plan in plans}
    split = {plan.name: plan for plan in loose}
    owners: dict[str, PoolPlan] = {}
    for name, findings in chain.from_iterable(part.items() for part in found):
        parts = (
            [named[name]]
            if name in named
            else split_plan(config, split[name], findings.tools, version)
        )
        for plan in parts:
            discovered = catalog_entries(config, plan, findings)
            _claim(owners, discovered)
            yield discovered


def _claim(owners: dict[str, PoolPlan], found: Discovered) -> None:
    """Note whose each tool version is.

    Raises:
        ConfigError: naming both pools, or both modules that are in none, if another has one of
            them.
    """
    for spec in found.tools:
        owner = owners.setdefault(spec.key, found.plan)
        if owner.source != found.plan.source:
            raise ConfigError(
                f"{_named(owner)} and {_named(found.plan)} both offer {spec.name} {spec.version}; "
                "two pools may offer one tool only at different versions"
            )


def _named(plan: PoolPlan) -> str:
    """A pool, or what it was made of, as the config names it."""
    modules = ", ".join(plan.config.tools)
    return f"pools.{plan.name}" if plan.source == plan.name else f"modules ({modules})"


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
            # A tool may have been another pool's before; of this config it is nobody else's.
            moved: list[tuple[Space, str]] = [("tools", spec.key) for spec in found.tools]
            registry.write(edit_of(found.pool, *found.tools, withdraw=moved, pool=name))
        except RegistrationError as refusal:
            broken = msgspec.structs.replace(
                found.pool,
                state="broken",
                failed_module=found.pool.modules[0],
                cause=str(refusal).splitlines()[0],
                lost_tools=tuple(sorted(spec.name for spec in found.tools)),
            )
            found = found._replace(pool=broken, tools=[])
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
