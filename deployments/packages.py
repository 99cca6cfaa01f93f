"""Whether the packages that a pool asks for can be had, asked before its environment is made.

Ray makes an environment by copying the whole one it runs in and importing Ray in the copy, before
pip hears what it shall install; for a package that does not exist that takes most of a minute.
pip's own answer takes a second or two, for the named packages and for all that they in turn need,
so it is asked first, where Ray runs and with the pool's variables and options.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from thornback.cluster.errors import shown

ANSWER_TIMEOUT_S = 8.0
"""Seconds for the answer: who has none by then is left to Ray."""
CAUSE_CHARS = 300
_OURS = "THORNBACK_"


Installer = Literal["pip", "uv"]


class Packages(NamedTuple):
    """What an environment installs over what Ray's own has."""

    installer: Installer
    lines: tuple[str, ...]
    """Of a requirements file."""
    options: tuple[str, ...]
    """For the installer, as the pool's config has them."""
    variables: tuple[tuple[str, str], ...]
    """Environment variables of the pool; an index may be among them."""

    def question(self, requirements: str) -> list[str]:
        """The command that finds out whether they are to be had, and installs nothing."""
        quiet = {
            "pip": ["install", "--quiet", "--disable-pip-version-check"],
            "uv": ["pip", "install", "--quiet", "--python", sys.executable],
        }[self.installer]
        dry = ["--dry-run", *self.options, "-r", requirements]
        return [sys.executable, "-m", self.installer, *quiet, *dry]


def packages_of(runtime_env: Mapping[str, Any]) -> Packages | None:
    """The packages that can be asked for beforehand; None where there are none.

    Not those of conda or of an image, nor those whose place is known only when the environment is
    made: files of requirements, and lines that name variables.
    """
    installers: tuple[tuple[Installer, str], ...] = (("pip", "pip"), ("uv", "uv_pip"))
    for installer, key in installers:
        asked = runtime_env.get(installer)
        told: dict[str, Any] = asked if isinstance(asked, dict) else {"packages": asked}
        lines = told.get("packages")
        if not isinstance(lines, list) or not lines:
            continue
        options = tuple(told.get(f"{key}_install_options", ()))
        if any("$" in text for text in [*lines, *options]):
            return None
        env_vars = runtime_env.get("env_vars", {}).items()
        # Ours tell pools apart; without them, pools of like packages are one question.
        variables = tuple(sorted(item for item in env_vars if not item[0].startswith(_OURS)))
        return Packages(installer, tuple(lines), options, variables)
    return None


class Asked:
    """Questions to the installers of this machine, whose answers come while others work.

    Only for a Ray that runs here: on another machine there may be other indexes.
    """

    def __init__(self, environments: Iterable[Mapping[str, Any]]) -> None:
        asked = {packages for env in environments if (packages := packages_of(env))}
        self._executor = ThreadPoolExecutor(max(1, len(asked)), "packages")
        self._answers = {each: self._executor.submit(why_not_to_be_had, each) for each in asked}

    def answer(self, packages: Packages) -> Future[str | None] | None:
        """What `why_not_to_be_had` comes to; None where it was not asked."""
        return self._answers.get(packages)

    def close(self) -> None:
        """Wait for no answer that has not begun to be looked for."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def why_not_to_be_had(packages: Packages) -> str | None:
    """Ask the installer of this node; None where nothing is known against them. Blocks."""
    with tempfile.TemporaryDirectory(prefix="thornback-packages-") as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text("\n".join(packages.lines) + "\n", "utf-8")
        try:
            answer = subprocess.run(
                packages.question(str(requirements)),
                cwd=folder,
                env={**os.environ, **dict(packages.variables)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=ANSWER_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
    said = answer.stdout.decode("utf-8", "replace")
    # Ray installs uv where it is not; a node without pip cannot make the environment at all.
    unknown = answer.returncode == 0 or "No module named uv" in said
    return None if unknown else installers_reason(said)


def installers_reason(output: str) -> str:
    """The line that says why an installer gave up, of all that it or Ray around it wrote.

    Without what an index's address carries before its `@`.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if re.match(r"error\b", line, re.IGNORECASE)]
    if not errors:
        return _plain(lines[-1] if lines else "it cannot be set up")
    # pip's last error is the telling one. uv has one, and its cause in the line after.
    at = errors[-1]
    causes = [line for line in lines[at + 1 : at + 2] if line.startswith("cause: ")]
    return _plain(causes[0].removeprefix("cause: ") if causes else lines[at])


def _plain(line: str) -> str:
    without_kind = re.sub(r"^error:\s*", "", line, flags=re.IGNORECASE)
    return shown(re.sub(r"//[^/@\s]+@", "//", without_kind), CAUSE_CHARS)
