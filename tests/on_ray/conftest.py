"""These tests start one real Ray for the whole session; they are run one session at a time."""

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def bare_ray() -> Iterator[None]:
    """A local Ray without Serve and without a dashboard, on free ports of this machine."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
