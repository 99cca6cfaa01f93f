"""What gateways and tool hosts wrote to their logs since a moment."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from thornback.deployments.log_files import log_files
from thornback.deployments.log_lines import RAY_MARKS, START


class Lines(NamedTuple):
    """New lines, by kind."""

    access: list[dict[str, Any]]
    """Access records, one for each request that a gateway answered."""
    others: list[str]


class LogTail:
    """Reads what is added to the logs of a cluster after it was made."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace
        self._positions = {path: path.stat().st_size for path in self._paths()}

    def _paths(self) -> list[Path]:
        return [file.path for file in log_files(self._folder, self._namespace, None)]

    def after(self, requests: int, timeout_s: float = 2) -> Lines:
        """The new lines, once there is one for each of so many requests.

        A line is written when its answer has been sent, which is after the client has read it.
        """
        until_s = time.monotonic() + timeout_s
        while len((lines := self.new()).access) < requests and time.monotonic() < until_s:
            time.sleep(0.05)
        return lines

    def new(self) -> Lines:
        """Every line since this was made, of replicas that came up since then too."""
        access: list[dict[str, Any]] = []
        others: list[str] = []
        for path in self._paths():
            with path.open("rb") as file:
                file.seek(self._positions.get(path, 0))
                lines = file.read().decode("utf-8", "replace").splitlines()
            for line in lines:
                said = json.loads(line) if line.startswith(START) else {}
                if "duration_ms" in said:
                    access.append(said)
                elif line and not line.startswith(RAY_MARKS):
                    others.append(line)
        return Lines(access, others)
