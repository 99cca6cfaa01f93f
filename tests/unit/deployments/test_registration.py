"""What `up` writes to the registry; the registry is the real one, without its process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from thornback.cluster.catalog import Catalog, ToolSpec, content_hash_of
from thornback.cluster.config import ClusterConfig, parse_config
from thornback.cluster.errors import ConfigError, RegistrationError
from thornback.cluster.journal import Journal
from thornback.cluster.principals import key_hash
from thornback.cluster.registry import Edit, Registry
from thornback.deployments import registration
from thornback.deployments.contents import config_entries
from thornback.deployments.discovery import Discovered, Findings, catalog_entries
from thornback.deployments.registration import (
    catalog_as_found,
    find_tools,
    register_config,
    register_pools,
)
from thornback.deployments.serve_config import PoolPlan, plan_modules, plan_pool


class NearRegistry:
    """Stands for a `BlockingRegistryClient`."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal.open(directory, owner="test", program_version="0")
        self._registry = Registry(self.journal)
        self.noted, self.note = self._registry.noted, self._registry.note

    def write(self, edit: Edit) -> tuple[int, int]:
        (outcome,) = self._registry.write(edit)
        if isinstance(outcome, RegistrationError):
            raise outcome
        return outcome

    def catalog(self) -> Catalog:
        return self._registry.catalog


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Any]:
    near = NearRegistry(tmp_path / "registry")
    yield near
    near.journal.close()


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pools whose environments were asked what tools they have."""
    names: list[str] = []

    def discover(plans: list[PoolPlan], asked: object = None) -> Iterator[dict[str, Findings]]:
        names.extend(plan.name for plan in plans)
        for plan in plans:
            if plan.config.tools == ["broken"]:
                yield {plan.name: Findings(broken={"broken": "ImportError: x"})}
            else:
                yield {plan.name: Findings([spec(plan.config.tools[0])])}

    monkeypatch.setattr(registration, "discover", discover)
    return names


def spec(name: str) -> ToolSpec:
    schema = msgspec.Raw(b'{"type":"object"}')
    made = ToolSpec(name=name, version="1.0.0", description="d", input_schema=schema, pool="")
    return msgspec.structs.replace(made, content_hash=content_hash_of(made))


def config_of(directory: Path, **sections: Any) -> ClusterConfig:
    sections.setdefault("pools", {"p": {"tools": ["first"]}})
    return parse_config(sections, "test", directory)


def plans_of(config: ClusterConfig) -> list[PoolPlan]:
    return [plan_pool(config, name, pool, version="1") for name, pool in config.pools.items()]


def found_in(config: ClusterConfig, *tools: ToolSpec) -> list[Discovered]:
    return [catalog_entries(config, plan, Findings(list(tools))) for plan in plans_of(config)]


def found_by(registry: Any, plans: list[PoolPlan]) -> dict[str, Findings]:
    """All that `find_tools` tells, in the end."""
    return {name: found for part in find_tools(registry, plans) for name, found in part.items()}


def test_what_was_found_is_not_searched_again(
    registry: Any, searched: list[str], tmp_path: Path
) -> None:
    pools = {"a": {"tools": ["first"]}, "b": {"tools": ["second"]}}
    first = found_by(registry, plans_of(config_of(tmp_path, pools=pools)))
    pools["b"]["runtime_env"] = {"pip": ["x"]}  # type: ignore[assignment]
    again = found_by(registry, plans_of(config_of(tmp_path, pools=pools)))
    assert searched == ["a", "b", "b"]
    assert [spec.name for spec in again["a"].tools] == ["first"]
    assert first == again


def test_what_could_not_be_imported_is_tried_again(
    registry: Any, searched: list[str], tmp_path: Path
) -> None:
    plans = plans_of(config_of(tmp_path, pools={"p": {"tools": ["broken"]}}))
    for _ in range(2):
        assert found_by(registry, plans)["p"].broken == {"broken": "ImportError: x"}
    assert searched == ["p", "p"]


def test_a_pool_that_the_registry_refuses_is_broken_and_takes_no_other_down(
    registry: Any, tmp_path: Path
) -> None:
    config = config_of(tmp_path, pools={"a": {"tools": ["first"]}, "b": {"tools": ["second"]}})
    unbounded = msgspec.structs.replace(spec("bad"), input_schema=msgspec.Raw(b'{"type":"array"}'))
    refused, other = (
        catalog_entries(config, plan, Findings(tools))
        for plan, tools in zip(
            plans_of(config), ([spec("good"), unbounded], [spec("fine")]), strict=True
        )
    )
    written = register_pools(registry, [refused, other])
    assert [found.pool.state for found in written] == ["broken", "ready"]
    assert list(registry.catalog().tools) == ["fine"]
    entry = registry.catalog().pool("a")
    assert (entry.failed_module, entry.lost_tools) == ("first", ("bad", "good"))
    assert "bad@1.0.0" in entry.cause


def test_a_pool_that_the_config_no_longer_has_goes_with_its_tools(
    registry: Any, tmp_path: Path
) -> None:
    register_pools(registry, found_in(config_of(tmp_path), spec("first")))
    others = config_of(tmp_path, pools={"q": {"tools": ["second"]}})
    register_pools(registry, found_in(others, spec("second")))
    catalog = registry.catalog()
    assert (list(catalog.of("pools")), list(catalog.tools)) == (["q"], ["second"])


def test_a_tool_moves_to_the_pool_that_now_has_its_module(registry: Any, tmp_path: Path) -> None:
    for pools in ({"a": {"tools": ["first"]}}, {"renamed": {"tools": ["first"]}}):
        config = config_of(tmp_path, pools=pools)
        written = register_pools(registry, found_in(config, spec("first")))
        assert [found.pool.state for found in written] == ["ready"]
        (tool,) = registry.catalog().tools["first"]
        assert tool.pool == next(iter(pools))


def test_what_is_known_is_registered_before_what_is_still_looked_for(
    registry: Any, tmp_path: Path
) -> None:
    config = config_of(tmp_path, pools={"slow": {"tools": ["a"]}, "quick": {"tools": ["b"]}})
    seen: list[list[str]] = []

    def findings() -> Iterator[dict[str, Findings]]:
        yield {"quick": Findings([spec("b")])}
        seen.append(list(registry.catalog().tools))
        yield {"slow": Findings([spec("a")])}

    register_pools(registry, catalog_as_found(config, plans_of(config), [], findings(), "1"))
    assert seen == [["b"]]
    assert sorted(registry.catalog().tools) == ["a", "b"]


def test_two_pools_may_offer_one_tool_only_at_different_versions(
    registry: Any, tmp_path: Path
) -> None:
    config = config_of(tmp_path, pools={"p": {"tools": ["a"]}, "q": {"tools": ["b"]}})
    same = spec("same")
    other = msgspec.structs.replace(same, version="2.0.0")
    for second in (other, same):
        both = [{"p": Findings([same])}, {"q": Findings([second])}]
        found = catalog_as_found(config, plans_of(config), [], both, "1")
        if second is other:
            assert len(register_pools(registry, found)) == 2
            continue
        with pytest.raises(ConfigError, match=r"pools\.p and pools\.q both offer same 1\.0\.0"):
            register_pools(registry, found)


def test_each_version_of_a_loose_module_is_a_pool(registry: Any, tmp_path: Path) -> None:
    config = parse_config({"modules": ["loose"]}, "test", tmp_path)
    loose = plan_modules(config, "1")
    findings = [{loose[0].name: Findings([spec("one"), spec("two")])}]
    written = register_pools(registry, catalog_as_found(config, [], loose, findings, "1"))
    assert [found.plan.name for found in written] == ["one-1-0-0", "two-1-0-0"]
    assert sorted(registry.catalog().tools) == ["one", "two"]


def test_two_loose_modules_may_not_offer_the_same_version_of_a_tool(
    registry: Any, tmp_path: Path
) -> None:
    config = parse_config({"modules": ["left", "right"]}, "test", tmp_path)
    loose = plan_modules(config, "1")
    both = [{plan.name: Findings([spec("same")])} for plan in loose]
    found = catalog_as_found(config, [], loose, both, "1")
    with pytest.raises(
        ConfigError, match=r"modules \(left\) and modules \(right\) both offer same"
    ):
        register_pools(registry, found)


def test_callers_are_known_as_the_config_has_them(registry: Any, tmp_path: Path) -> None:
    ann = {"key_sha256": key_hash("tbk_ann"), "tools": ["sql_*"], "tags": ["lab"]}
    bob = {"key_sha256": key_hash("tbk_bob")}
    for principals in ({"ann": ann, "bob": bob}, {"ann": ann}):
        config = config_of(tmp_path, principals=principals)
        register_config(registry, config, config_entries(config)[0])
    book = registry.catalog().principal_book
    caller = book.caller_of("Bearer tbk_ann", anonymous=False)
    assert (caller.principal.name, caller.principal.tags) == ("ann", ("lab",))
    assert [caller.may_use(name) for name in ("sql_query", "text_stats")] == [True, False]
    assert list(registry.catalog().of("principals")) == ["ann"]
