"""What the tests of the shipped tools share: the data that ships, and a call that remembers."""

import json
from collections.abc import Callable, Iterator

import pytest

from thornback.cluster.messages import Event, Partial, Progress
from thornback.tools import ToolContext, datasets, queries


class Recorded:
    """A call and what its tool reported."""

    def __init__(self, remaining_s: float = 60.0) -> None:
        self.events: list[Event] = []
        self.ctx = ToolContext(self.events.append, remaining_s=remaining_s, progress_wanted=True)

    @property
    def partials(self) -> list[Partial]:
        return [event for event in self.events if isinstance(event, Partial)]

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]


@pytest.fixture
def call() -> Recorded:
    return Recorded()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register datasets for the test: name=reference."""

    def set_variable(**references: object) -> None:
        monkeypatch.setenv(datasets.VARIABLE, json.dumps(references))

    return set_variable


@pytest.fixture
def shipped(register: Callable[..., None]) -> None:
    register(
        penguins="package:thornback.configs/data/penguins.csv",
        weather="package:thornback.configs/data/seattle_weather.csv",
    )


@pytest.fixture(scope="session", autouse=True)
def no_query_process_is_left() -> Iterator[None]:
    yield
    queries.close_idle()
