"""What `thornback init` makes works as it stands, and what it says to do next can be done."""

import subprocess
from pathlib import Path

import yaml

from tests.conftest import DOWN_TIMEOUT_S, UP_TIMEOUT_S, RunningCluster, free_port


def test_what_init_says_to_do_next_can_be_done(cluster: RunningCluster, tmp_path: Path) -> None:
    made = cluster.thornback("init", "fresh", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    steps = made.stderr.partition("Next:\n")[2]
    # Its own words, on a port that is free.
    path = tmp_path / "fresh/thornback.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    path.write_text(yaml.safe_dump({**config, "gateway": {"port": free_port()}}), "utf-8")
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", steps],
            cwd=tmp_path,
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S + DOWN_TIMEOUT_S,
        )
    finally:
        cluster.thornback("down", "fresh")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "2 passed" in said
    assert "pots" in done.stdout.splitlines()
