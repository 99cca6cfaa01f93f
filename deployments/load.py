"""`Load`: what a benchmark sends to an MCP endpoint; `Figures`: what came back, and how fast.

Plain data and arithmetic. Who sends is `load_wrk.py`, or `load_python.py` where there is no wrk.
Every request carries a text of its own, and an answer counts only if it holds what was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from thornback.cluster.errors import ThornbackError
from thornback.cluster.revisions import MODERN

FRESH = "@"
"""Stands in `Load.arguments` and `Load.expected` for the text of a request."""


class WrongAnswers(ThornbackError):
    """Some answers were wrong or missing: such figures mean nothing."""

    code = "load.wrong_answers"

    def __init__(self, wrong: int, unanswered: int, socket_errors: int, example: str) -> None:
        super().__init__(wrong, unanswered, socket_errors, example)
        self.wrong = wrong
        self.unanswered = unanswered
        self.socket_errors = socket_errors
        self.example = example

    def __str__(self) -> str:
        found = (
            f"{self.wrong} wrong answers, {self.unanswered} requests without one, "
            f"{self.socket_errors} broken connections"
        )
        return f"{found}; the first wrong one: {self.example}" if self.example else found


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """So many clients, each with one request at a time."""

    url: str
    """Of the endpoint."""
    tools: tuple[str, ...] = ("echo",)
    """Called in turn."""
    revision: str = MODERN.name
    """In an older one requests say no more of themselves than a header, and open no session."""
    method: str = "tools/call"
    """Another one is sent without parameters, and `tools` says only what its figures are called."""
    arguments: str = '{"text":"@"}'
    """Arguments of each call: a JSON object with `@` where the fresh text belongs."""
    expected: str = "@"
    """What each answer must hold, with `@` for the text."""
    padding_bytes: int = 0
    """So many letters `x` must follow that at once."""
    connections: int = 1
    warm_up_s: float = 0.0
    seconds: float = 10.0
    """What is answered in these counts, after the warm-up."""
    drain_s: float = 30.0
    """How long the last answers may take; the load is over as soon as they are there."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one load met."""

    answered: int
    """Right answers, those of the warm-up and of the end included."""
    seconds: float
    """How long what follows was counted."""
    latency_us: dict[str, dict[int, int]]
    """By tool: how many answers took how many microseconds, to three digits."""

    @property
    def calls(self) -> int:
        """Answers within `seconds`."""
        return sum(sum(times.values()) for times in self.latency_us.values())

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.seconds

    def latency_ms(self, percent: float, tool: str | None = None) -> float:
        """The latency that so many percent of the answers did not exceed, in ms."""
        chosen = self.latency_us.values() if tool is None else [self.latency_us[tool]]
        merged: Counter[int] = Counter()
        for times in chosen:
            merged.update(times)
        return percentile(merged, percent) / 1000


class _Told(msgspec.Struct):
    """The line that `load.lua` writes."""

    answered: int
    unanswered: int
    wrong: int
    socket_errors: int
    first_wrong: str
    latency_us: dict[str, dict[int, int]]


def figures_of(line: str | bytes, seconds: float) -> Figures:
    """The figures of what a load generator says of itself, a JSON object.

    Raises:
        WrongAnswers: not every request was answered rightly, or there was none.
    """
    told = msgspec.json.decode(line, type=_Told)
    if told.wrong or told.unanswered or told.socket_errors or not told.answered:
        raise WrongAnswers(told.wrong, told.unanswered, told.socket_errors, told.first_wrong)
    return Figures(answered=told.answered, seconds=seconds, latency_us=told.latency_us)


def percentile(times: Mapping[int, int], percent: float) -> int:
    """The smallest time that at least so many percent of the counted ones do not exceed; 0: none.

    Args:
        times: How often each time was seen.
    """
    needed = sum(times.values()) * percent / 100
    seen = 0
    for time in sorted(times):
        seen += times[time]
        if seen >= needed:
            return time
    return 0
