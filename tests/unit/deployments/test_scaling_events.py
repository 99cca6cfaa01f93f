import threading

import pytest

from thornback.cluster.errors import RegistryUnavailable
from thornback.cluster.scaling import Scaled
from thornback.deployments.scaling_events import announce, last_events

EVENT = Scaled("text", 2.0, 2, 5, load=37, target=8)


class FakeRegistry:
    """Keeps notes as the registry does."""

    def __init__(self, away: bool = False) -> None:
        self.namespace = ""
        self.notes: dict[tuple[str, str], list[bytes]] = {}
        self.away = away

    def add_note(self, space: str, key: str, value: bytes, keep: int, timeout_s: float) -> None:
        if self.away:
            raise RegistryUnavailable("its actor is gone")
        kept = self.notes.setdefault((space, key), [])
        kept.append(value)
        del kept[:-keep]

    def added_notes(self, space: str, keys: list[str]) -> list[list[bytes]]:
        return [self.notes.get((space, key), []) for key in keys]


def connected(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(namespace: str) -> str:
        registry.namespace = namespace
        return namespace

    monkeypatch.setattr("thornback.cluster.actors.connect", connect)
    monkeypatch.setattr("thornback.cluster.actors.BlockingRegistryClient", lambda _: registry)


def join_senders() -> None:
    for thread in threading.enumerate():
        if thread.name == "scaling event":
            thread.join(10)


def test_an_event_is_kept_by_the_registry_of_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry()
    connected(registry, monkeypatch)
    announce("thornback.local.text", EVENT)
    join_senders()
    assert registry.namespace == "thornback.local"
    assert last_events(registry, ["sql", "text"]) == {"sql": [], "text": [EVENT]}  # type: ignore[arg-type]


def test_events_come_in_the_order_in_which_they_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry()
    connected(registry, monkeypatch)
    earlier = Scaled("text", 1.0, 0, 2)
    for event in (EVENT, earlier):
        announce("thornback.local.text", event)
        join_senders()
    assert last_events(registry, ["text"])["text"] == [earlier, EVENT]  # type: ignore[arg-type]


def test_of_each_pool_the_last_events_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = FakeRegistry()
    connected(registry, monkeypatch)
    for number in range(25):
        announce("thornback.local.text", Scaled("text", float(number), number, number + 1))
        join_senders()
    found = last_events(registry, ["text"])["text"]  # type: ignore[arg-type]
    assert [event.at_s for event in found] == list(range(5, 25))


def test_an_event_that_the_registry_cannot_keep_stands_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connected(FakeRegistry(away=True), monkeypatch)
    with caplog.at_level("INFO", "ray.serve"):
        announce("thornback.local.text", EVENT)
        join_senders()
    told, failed = caplog.messages
    assert told == f"thornback: {EVENT}"
    assert "not kept" in failed
    assert str(EVENT) in failed
