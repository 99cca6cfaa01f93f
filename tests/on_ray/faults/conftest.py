"""The cluster of these tests: started before the first, hurt by many, ended after the last."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import brought_up, free_port
from tests.on_ray.faults.hurt_cluster import HurtCluster


@pytest.fixture(scope="package")
def hurt() -> Iterator[HurtCluster]:
    """The cluster. Each test leaves it whole."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-hurt-"))
    running = HurtCluster(f"hurt-{port}", port, home)
    with brought_up(running):
        yield running
