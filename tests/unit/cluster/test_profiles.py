import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from thornback.cluster.config import DefaultsConfig, GatewayConfig, parse_config
from thornback.cluster.errors import ConfigError
from thornback.cluster.profiles import PROFILES, ProfileName
from thornback.cluster.serve_options import DeploymentOptions
from thornback.cluster.settings import pool_settings

MANUAL = Path(__file__).parents[3] / "docs" / "operator.md"


def config_of(**sections: Any) -> Any:
    document = {"pools": {"p": {"tools": ["m"], **sections.pop("pool", {})}}, **sections}
    return parse_config(document, "test", Path("/nowhere"))


def documented() -> dict[str, dict[str, float]]:
    """What the operator's manual says that each profile sets, by dotted name."""
    (row_of,) = (
        {row[0].strip("`"): row[1] for row in rows}
        for head, rows in tables(MANUAL.read_text("utf-8"))
        if head[:2] == ["profile", "what it sets"]
    )
    return {profile: settings_in(cell) for profile, cell in row_of.items()}


def tables(page: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The heads and rows of a page's tables."""
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        yield head, rows


def settings_in(cell: str) -> dict[str, float]:
    """`a` 1, `b`: `c` 2, `d` 3; `e` 4 sets a, b.c, b.d and e."""
    found = {}
    for part in cell.split("; "):
        section, colon, rest = part.partition("`: ")
        prefix = f"{section.strip('`')}." if colon else ""
        for key, value in re.findall(r"`([\w.]+)` ([\d.]+)", rest if colon else part):
            found[prefix + key] = float(value)
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in settings.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def test_the_manual_says_what_each_profile_sets() -> None:
    assert documented() == {
        name: flat(preset.defaults) | flat(preset.gateway, "gateway.")
        for name, preset in PROFILES.items()
    }
    assert documented()["throughput"]["gateway.gather_s"] == 0.001  # a cell is read to its end


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_only_what_a_file_could(profile: ProfileName) -> None:
    preset = PROFILES[profile]
    DefaultsConfig.model_validate(dict(preset.defaults))
    GatewayConfig.model_validate(dict(preset.gateway))
    assert preset.defaults.keys() <= DeploymentOptions.model_fields.keys()


@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_every_value_of_a_profile_reaches_pools_and_gateway(profile: ProfileName) -> None:
    config, preset = config_of(profile=profile), PROFILES[profile]
    found = {
        key: setting.value
        for key, setting in pool_settings(config, config.pools["p"]).items()
        if setting.origin == "profile"
    }
    scaling = preset.defaults.get("autoscaling_config", {})
    plain = {k: v for k, v in preset.defaults.items() if k != "autoscaling_config"}
    assert found == {**plain, **{f"autoscaling_config.{k}": v for k, v in scaling.items()}}
    assert found
    for key, value in preset.gateway.items():
        assert getattr(config.gateway, key) == value


def test_what_the_file_writes_wins_key_by_key() -> None:
    config = config_of(
        profile="latency",
        gateway={"num_replicas": 3},
        defaults={"autoscaling_config": {"min_replicas": 0}},
        pool={"autoscaling_config": {"max_replicas": 2}},
    )
    found = pool_settings(config, config.pools["p"])
    origins = {key.rpartition(".")[2]: setting.origin for key, setting in found.items()}
    assert (origins["min_replicas"], origins["max_replicas"]) == ("defaults", "pool")
    assert origins["target_ongoing_requests"] == "profile"
    assert config.gateway.num_replicas == 3


def test_a_fixed_number_of_replicas_leaves_nothing_for_a_profile_to_scale() -> None:
    config = config_of(profile="latency", pool={"num_replicas": 2})
    found = pool_settings(config, config.pools["p"])
    assert not any(key.startswith("autoscaling_config") for key in found)


def test_without_a_profile_everything_is_as_it_is_built_in() -> None:
    config = config_of()
    assert config.profile == "balanced"
    origins = {setting.origin for setting in pool_settings(config, config.pools["p"]).values()}
    assert origins == {"built-in", "pool"}


def test_an_unknown_profile_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"profile: .*'latency', 'balanced' or 'throughput'"):
        config_of(profile="fast")
