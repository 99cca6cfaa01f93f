"""The Python environment of the peers: made once from `peers/requirements.txt`, apart from ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).with_name("peers")
REQUIREMENTS = PEERS / "requirements.txt"


def peer_python() -> Path:
    """The interpreter of the peers; the first time this installs their packages, from PyPI alone.

    Raises:
        subprocess.CalledProcessError: they cannot be installed; the installer has said why.
    """
    home = environment_path(REQUIREMENTS.read_bytes(), _cache())
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    print(f"installing the peers in {home}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)  # one that was begun and not finished
    venv.create(home, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # A mirror that this machine is set up with stands for PyPI; anything beside it does not.
    subprocess.run(
        [*install, "--no-deps", "--only-binary", ":all:", "-r", str(REQUIREMENTS)], check=True
    )
    (home / "complete").touch()
    return python


def environment_path(requirements: bytes, cache: Path) -> Path:
    """Where the environment with these packages lies, for this Python."""
    tag = f"{sys.implementation.cache_tag}\n".encode()
    return cache / f"peers-{hashlib.sha256(tag + requirements).hexdigest()[:12]}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "thornback-benchmarks"
