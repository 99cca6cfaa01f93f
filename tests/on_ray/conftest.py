"""These tests start one real Ray for the whole session; they are run one session at a time."""

import gc
import warnings
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def bare_ray() -> Iterator[None]:
    """A local Ray without Serve and without a dashboard, on free ports of this machine."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    with warnings.catch_warnings():
        # Ray ends its processes and does not wait for them; Python says so when it forgets them.
        warnings.simplefilter("ignore", ResourceWarning)
        ray.shutdown()
        gc.collect()
