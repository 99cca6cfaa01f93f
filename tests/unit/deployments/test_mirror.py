"""The registry behind these mirrors is the real one, without its process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from thornback.cluster.catalog import Catalog, ToolSpec
from thornback.cluster.errors import RegistrationError, RegistryUnavailable
from thornback.cluster.journal import Journal
from thornback.cluster.news import News
from thornback.cluster.registry import Registry, edit_of
from thornback.deployments.mirror import LONGEST_PAUSE_S, CatalogMirror


class NearRegistry:
    """A registry in this process: absent when told so, and watched without a network."""

    def __init__(self, directory: Path, log_changes: int = 1000) -> None:
        self.directory = directory
        self.log_changes = log_changes
        self.absent = False
        self.watches: list[int] = []
        self.snapshots = 0
        self._moved = asyncio.Event()
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(
            self.directory, owner="test", program_version="0", log_changes=self.log_changes
        )
        self.registry = Registry(self.journal)

    def restart(self) -> None:
        self.journal.close()
        self.open()
        self._moved.set()

    def offer(self, *names: str) -> int:
        """Offer these tools and no others; gives the number that it made."""
        specs = [
            ToolSpec(
                name=name,
                version="1.0.0",
                description="Does it.",
                input_schema=msgspec.Raw(b'{"type":"object"}'),
                pool="text",
            )
            for name in names
        ]
        (outcome,) = self.registry.write(edit_of(*specs, pool="text"))
        assert not isinstance(outcome, RegistrationError)
        self._moved.set()
        return outcome[1]

    async def watch(self, number: int, timeout_s: float) -> News:
        self.watches.append(number)
        self._moved = asyncio.Event()
        if self.registry.version[1] == number and not self.absent:
            await self._moved.wait()
        self._refuse_if_absent()
        return self.registry.news_since(number)

    async def catalog(self) -> Catalog:
        self._refuse_if_absent()
        self.snapshots += 1
        return self.registry.catalog

    def go(self) -> None:
        """Be away, for watches that are outstanding as well."""
        self.absent = True
        self._moved.set()

    def _refuse_if_absent(self) -> None:
        if self.absent:
            raise RegistryUnavailable("killed")


class Pauses:
    """Sleep that takes no time and remembers how long it was to be."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (there is no event to tell)
            await asyncio.sleep(0)


Scenario = Callable[[NearRegistry, CatalogMirror], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def run(tmp_path: Path, pauses: Pauses) -> Iterator[Run]:
    """Runs a scenario with a registry that offers `a`, and a mirror of it."""
    opened: list[NearRegistry] = []

    def run(scenario: Scenario, *, started: bool = True, log_changes: int = 1000) -> None:
        async def main() -> None:
            registry = NearRegistry(tmp_path / "store", log_changes)
            opened.append(registry)
            registry.offer("a")
            mirror = CatalogMirror(registry, pauses)
            if started:
                await mirror.start()
            await scenario(registry, mirror)
            await mirror.stop()

        asyncio.run(main())

    yield run
    for registry in opened:
        registry.journal.close()


def test_a_started_mirror_has_the_registrys_catalog(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        assert list(mirror.catalog.tools) == ["a"]
        assert mirror.catalog.version == (1, 1)

    run(scenario)


def test_a_change_arrives_as_a_change_and_listeners_hear_before_and_after(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        heard: list[tuple[list[str], list[str]]] = []
        mirror.on_change(lambda old, new: heard.append((list(old.tools), list(new.tools))))
        catalog = await mirror.wait_for(registry.offer("a", "b"), timeout_s=10)
        assert list(catalog.tools) == ["a", "b"]
        assert heard == [(["a"], ["a", "b"])]
        assert registry.snapshots == 1

    run(scenario)


def test_one_watch_is_outstanding_at_a_time(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        for number, names in enumerate((("a", "b"), ("b",), ("b", "c")), start=2):
            await until(lambda number=number: registry.watches[-1:] == [number - 1])
            registry.offer(*names)
            await mirror.wait_for(number, timeout_s=10)
        await until(lambda: len(registry.watches) == 4)
        assert registry.watches == [1, 2, 3, 4]

    run(scenario)


def test_the_last_catalog_is_served_while_the_registry_is_away(
    run: Run, pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        registry.go()
        await until(lambda: len(pauses.taken) > 10)
        assert list(mirror.catalog.tools) == ["a"]
        registry.absent = False
        catalog = await mirror.wait_for(registry.offer("b"), timeout_s=10)
        assert list(catalog.tools) == ["b"]

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert pauses.taken[:3] == [0.05, 0.1, 0.2]
    assert max(pauses.taken) == LONGEST_PAUSE_S
    assert [r.getMessage() for r in caplog.records] == [
        "no news from the registry, the last catalog stays: The registry is not available: killed"
    ]


def test_a_restarted_registry_is_followed_and_says_nothing_new(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        heard: list[object] = []
        mirror.on_change(lambda old, new: heard.append(new))
        await until(lambda: registry.watches == [1])
        registry.restart()
        await until(lambda: mirror.catalog.version == (2, 1))
        assert (heard, registry.snapshots) == ([], 1)

    run(scenario)


def test_changes_that_the_log_has_lost_come_as_a_snapshot(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        registry.absent = True
        numbers = [registry.offer("a", f"b{i}") for i in range(20)]
        registry.absent = False
        catalog = await mirror.wait_for(numbers[-1], timeout_s=10)
        assert list(catalog.tools) == ["a", "b19"]
        assert registry.snapshots == 2

    run(scenario, log_changes=4)


def test_another_store_is_an_error_in_the_log_and_its_catalog_is_taken(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        registry.directory = tmp_path / "other"
        registry.restart()
        registry.offer("x")
        await until(lambda: list(mirror.catalog.tools) == ["x"])
        assert mirror.catalog.store_id == registry.registry.store_id

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "the registry has another store" in caplog.text


def test_a_former_owner_is_not_believed(run: Run, pauses: Pauses) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        former = registry.registry
        registry.restart()
        await until(lambda: mirror.catalog.epoch == 2)
        current, registry.registry = registry.registry, former
        registry._moved.set()
        await until(lambda: len(pauses.taken) > 0)
        assert mirror.catalog.epoch == 2
        registry.registry = current

    run(scenario)


def test_a_listener_that_fails_stops_neither_the_mirror_nor_the_others(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        heard: list[int] = []

        def fail(old: Catalog, new: Catalog) -> None:
            raise RuntimeError("a bug")

        mirror.on_change(fail)
        mirror.on_change(lambda old, new: heard.append(new.number))
        await mirror.wait_for(registry.offer("b"), timeout_s=10)
        await mirror.wait_for(registry.offer("c"), timeout_s=10)
        assert heard == [2, 3]

    run(scenario)
    assert caplog.text.count("a listener of the catalog failed") == 2


def test_a_mirror_that_hears_nothing_says_so_and_can_be_started_later(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        registry.absent = True
        with pytest.raises(RegistryUnavailable, match=r"within 0\.01 s"):
            await mirror.start(timeout_s=0.01)
        assert mirror.catalog.version == (0, 0)
        registry.absent = False
        await mirror.start()
        assert list(mirror.catalog.tools) == ["a"]

    run(scenario, started=False)


def test_a_number_that_never_comes_is_waited_for_so_long_and_no_longer(run: Run) -> None:
    async def scenario(registry: NearRegistry, mirror: CatalogMirror) -> None:
        with pytest.raises(RegistryUnavailable, match=r"within 0\.01 s"):
            await mirror.wait_for(99, timeout_s=0.01)

    run(scenario)
