"""What `thornback init` makes works as it stands."""

import subprocess
import sys
from pathlib import Path

from thornback.deployments.cli_init import init


def test_the_tests_of_a_new_project_pass(tmp_path: Path) -> None:
    init(tmp_path / "fresh")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "fresh", capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
