"""`wrk` as the generator of a `Load`: it spends some ten microseconds of CPU on a call."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from thornback.cluster.errors import ThornbackError
from thornback.deployments.load import Figures, Load, figures_of

SCRIPT = Path(__file__).with_name("load.lua")
CONNECT_S = 0.3
"""From the start of the process until all its connections are there."""
HOW_TO_GET_IT = (
    "wrk is not installed: it comes with most systems (`apt-get install wrk`, `brew install wrk`; "
    "https://github.com/wg/wrk)"
)


class NoLoadGenerator(ThornbackError):
    """The program that makes the load is not here, or it does not work."""

    code = "load.no_generator"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def run_wrk(
    load: Load, key: str | None = None, at: Callable[[float, float], None] | None = None
) -> Figures:
    """Run a load to its end.

    Args:
        key: Bearer key of the endpoint.
        at: Called at once, while the load runs, with the moments (of `time.monotonic`) between
            which answers count; it may wait for them, and not much longer.

    Raises:
        NoLoadGenerator: there is no wrk, or it failed.
        WrongAnswers: not every request was answered rightly.
    """
    if not has_wrk():
        raise NoLoadGenerator(HOW_TO_GET_IT)
    from_s = time.monotonic() + CONNECT_S + load.warm_up_s
    until_s = from_s + load.seconds
    environment = {**os.environ, "THORNBACK_KEY": key} if key else without_key()
    # The command line is for all to see; a key is not on it.
    process = subprocess.Popen(
        command_of(load, from_s, until_s, secrets.token_hex(4)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if at is not None:
            at(from_s, until_s)
        _wake_when_drained(process)
        said, complaint = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    lines = [line for line in said.splitlines() if line.startswith("JSON ")]
    if not lines:
        raise NoLoadGenerator(f"wrk failed: {(complaint or said).strip()}")
    return figures_of(lines[-1].removeprefix("JSON "), load.seconds)


def _wake_when_drained(process: subprocess.Popen[str]) -> None:
    """Interrupt wrk, which then tells its figures, once nothing is awaited any more.

    It ends by itself where some answer never comes.
    """
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("DRAINED"):
            process.send_signal(signal.SIGINT)
            return


def command_of(load: Load, from_s: float, until_s: float, nonce: str) -> list[str]:
    """The command line of a load whose answers count between two moments."""
    lasts_s = CONNECT_S + load.warm_up_s + load.seconds + load.drain_s
    return [
        "wrk", "-t1", f"-c{load.connections}", f"-d{math.ceil(lasts_s)}s",
        "--timeout", f"{math.ceil(lasts_s)}s", "-s", str(SCRIPT), load.url,
        "--", str(from_s), str(until_s), load.method, nonce, load.arguments, load.expected,
        str(load.padding_bytes), load.revision, *load.tools,
    ]  # fmt: skip


def without_key() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "THORNBACK_KEY"}
