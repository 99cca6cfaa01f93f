"""The official suite through HAProxy, two gateways and tool hosts.

The conformance tools are ordinary tools in pools; what the suite finds is written to the folder
that pytest names when a test fails.
"""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunningCluster
from tests.on_ray.peers import node_of, npm_folder

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
EXPECTED_FAILURES = Path(__file__).with_name("expected_failures_2025-11-25.yaml")


@pytest.mark.parametrize(
    ("revision", "options"),
    [
        ("2026-07-28", []),
        ("2025-11-25", ["--expected-failures", str(EXPECTED_FAILURES)]),
    ],
)
def test_the_official_suite_passes(
    revision: str, options: list[str], cluster: RunningCluster, tmp_path: Path
) -> None:
    folder = npm_folder(SUITE)
    suite = folder / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    # The suite wants a host called localhost for its checks of DNS rebinding.
    url = f"http://localhost:{cluster.port}/mcp"
    done = subprocess.run(
        [
            *(node_of(folder), suite, "server", "--url", url, "--requirements", revision),
            *("-o", tmp_path / "results", *options),
        ],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, f"{tmp_path}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
