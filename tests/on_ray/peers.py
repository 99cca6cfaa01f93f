"""Programs of others that tests run: installed once, outside the repository, by their versions."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "thornback-tests"
INSTALL_TIMEOUT_S = 300
NODE = "node@22.23.3"
"""The conformance suite needs node 22; npm has it as a package."""


def npm_folder(*packages: str) -> Path:
    """A folder with these npm packages, and node 22, under `node_modules`."""

    def install(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}', "utf-8")
        _run(folder, "npm", "install", "--no-audit", "--no-fund", NODE, *packages)

    return _made_once(("npm", *packages), install)


def node_of(folder: Path) -> str:
    """The node 22 of an `npm_folder`."""
    return str(folder / "node_modules/.bin/node")


def python_with(*packages: str) -> str:
    """The interpreter of a virtual environment that holds these packages, and not Thornback."""

    def install(folder: Path) -> None:
        _run(folder, sys.executable, "-m", "venv", ".")
        _run(folder, "bin/python", "-m", "pip", "install", "--quiet", *packages)

    return str(_made_once(("venv", *packages), install) / "bin/python")


def _made_once(parts: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    """The folder that `install` filled, now or in an earlier run; a half-filled one is redone."""
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    folder = CACHE / f"{parts[0]}-{key}"
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        complete.write_text("\n".join(parts), "utf-8")
    return folder


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
