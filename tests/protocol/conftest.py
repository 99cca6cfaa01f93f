"""Holds the tests of this directory to `requirements.yaml`, in both directions."""

from pathlib import Path

import pytest
import yaml

from tests.protocol import tools_under_test
from tests.protocol.gateways import Client, Cluster, offered

HERE = Path(__file__).parent
REQUIREMENTS = yaml.safe_load((HERE / "requirements.yaml").read_text("utf-8"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = [item for item in items if HERE in item.path.parents]
    proved = {mark.args[0] for item in tests for mark in item.iter_markers("requirement")}
    if stray := proved - REQUIREMENTS.keys():
        raise pytest.UsageError(f"not in requirements.yaml: {sorted(stray)}")
    if loose := [t.nodeid for t in tests if not t.get_closest_marker("requirement")]:
        raise pytest.UsageError(f"a protocol test that proves no requirement: {loose}")
    # A run of one file proves little, and should not be blamed for it.
    if {t.path for t in tests} != set(HERE.glob("test_*.py")) or config.option.keyword:
        return
    owed = {name for name, entry in REQUIREMENTS.items() if "deferred" not in entry}
    if owed != proved:
        raise pytest.UsageError(
            f"unproved: {sorted(owed - proved)}; no longer deferred: {sorted(proved - owed)}"
        )


@pytest.fixture
def cluster() -> Cluster:
    """One without principals, that offers one of everything."""
    return Cluster([tools_under_test], offered())


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.gateway()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
