"""The cluster of these tests: started before the first, hurt by many, ended after the last."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import brought_up, free_port
from tests.on_ray.faults.hurt_cluster import HurtCluster
from tests.otlp import Collector, collecting


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    """Where the cluster sends its traces."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="package")
def hurt(collector: Collector) -> Iterator[HurtCluster]:
    """The cluster. Each test leaves it whole."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="thornback-hurt-"))
    running = HurtCluster(f"hurt-{port}", port, home, collector.url)
    with brought_up(running):
        yield running


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """What a shell runs in the background ignores Ctrl-C, and so does all that it starts."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
