"""The disk is real; it fails in subprocesses, where a filter refuses system calls."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from thornback.cluster.errors import StoreConflict, StoreError, StoreFenced, StoreOwned
from thornback.cluster.journal import SCHEMA, Journal, Record, Write

FAIL_SYNC = Path(__file__).with_name("failing_sync.py")


def opened(directory: Path, **options: object) -> Journal:
    given = {"owner": "the test", "program_version": "0.1.0", **options}
    return Journal.open(directory, **given)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = opened(tmp_path)
    yield journal
    journal.close()


def values(journal: Journal, space: str = "s") -> dict[str, bytes]:
    return {record.key: record.value for record in journal.scan(space)}


# --- records and the log --------------------------------------------------------------------------


def test_a_batch_makes_one_number_and_its_records_carry_it(journal: Journal) -> None:
    assert journal.commit([Write("s", "a", b"1"), Write("s", "b", b"2")]) == [1]
    assert journal.commit([Write("s", "a", b"3")]) == [2]
    a, b = journal.get("s", "a"), journal.get("s", "b")
    assert (a, b) == (Record("s", "a", 2, b"3"), Record("s", "b", 1, b"2"))
    assert journal.number == 2


def test_a_record_is_deleted_and_spaces_are_apart(journal: Journal) -> None:
    journal.commit([Write("s", "a", b"1"), Write("t", "a", b"2")])
    journal.commit([Write("s", "a", None), Write("s", "never there", None)])
    assert journal.get("s", "a") is None
    assert values(journal, "t") == {"a": b"2"}


def test_writes_of_one_key_in_one_batch_apply_in_their_order(journal: Journal) -> None:
    journal.commit([Write("s", "a", b"1"), Write("s", "a", None), Write("s", "a", b"2")])
    journal.commit([Write("s", "b", b"1"), Write("s", "b", None)])
    assert values(journal) == {"a": b"2"}


def test_a_batch_of_nothing_makes_no_number(journal: Journal) -> None:
    assert journal.commit([Write("s", "a", b"1")], [], [Write("s", "b", b"2")]) == [1, 1, 2]


def test_a_batch_that_expected_another_number_is_refused_whole_and_alone(journal: Journal) -> None:
    journal.commit([Write("s", "a", b"1")])
    made, refused, after = journal.commit(
        [Write("s", "b", b"1", expect=0)],
        [Write("s", "c", b"1"), Write("s", "a", b"2", expect=0)],
        [Write("s", "a", b"3", expect=1)],
    )
    assert (made, after) == (2, 3)
    assert isinstance(refused, StoreConflict)
    assert (refused.key, refused.expected, refused.found) == ("s/a", 0, 1)
    assert values(journal) == {"a": b"3", "b": b"1"}
    assert [c.key for c in journal.read_from(1) or []] == ["b", "a"]


def test_the_log_tells_every_change_in_order(journal: Journal) -> None:
    journal.commit([Write("s", "a", b"1")])
    journal.commit([Write("s", "a", b"2"), Write("t", "b", b"3")], [Write("s", "a", None)])
    changes = journal.read_from(1)
    assert changes is not None
    assert [(c.number, c.space, c.key, c.value) for c in changes] == [
        (2, "s", "a", b"2"),
        (2, "t", "b", b"3"),
        (3, "s", "a", None),
    ]
    assert journal.read_from(3) == []


def test_an_answer_is_bounded_and_never_cuts_a_batch(journal: Journal) -> None:
    for size in (1, 1, 5, 1):
        journal.commit([Write("s", str(i), b"x") for i in range(size)])

    def numbers(after: int, limit: int) -> list[int]:
        return [c.number for c in journal.read_from(after, limit) or []]

    assert numbers(0, 2) == [1, 2]
    assert numbers(0, 6) == [1, 2]
    assert numbers(0, 7) == [1, 2, 3, 3, 3, 3, 3]
    assert numbers(2, 1) == [3, 3, 3, 3, 3]
    assert numbers(3, 1) == [4]


def test_a_log_beyond_its_bound_loses_its_oldest_batches_whole(tmp_path: Path) -> None:
    journal = opened(tmp_path, log_changes=8)
    for _ in range(6):
        journal.commit([Write("s", "a", b"x"), Write("s", "b", b"x")])
    assert journal.read_from(1) is None
    assert [c.number for c in journal.read_from(2) or []] == [3, 3, 4, 4, 5, 5, 6, 6]
    journal.commit([Write("s", str(i), b"x") for i in range(20)])
    assert journal.read_from(6) is None
    assert journal.read_from(7) == []
    journal.close()
    again = opened(tmp_path, log_changes=8)
    assert again.read_from(6) is None
    again.close()


def test_a_log_of_large_values_loses_its_oldest_batches_before_it_has_many(tmp_path: Path) -> None:
    journal = opened(tmp_path, log_bytes=800)
    for _ in range(5):
        journal.commit([Write("s", "a", b"x" * 100), Write("s", "b", b"x" * 100)])
    assert [c.number for c in journal.read_from(0) or []] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    journal.commit([Write("s", "a", None), Write("s", "b", b"x")])
    assert journal.read_from(1) is None
    assert [c.number for c in journal.read_from(2) or []] == [3, 3, 4, 4, 5, 5, 6, 6]
    journal.close()
    again = opened(tmp_path, log_bytes=800)
    again.commit([Write("s", "a", b"x" * 500)])
    assert again.read_from(3) is None
    assert [c.number for c in again.read_from(4) or []] == [5, 5, 6, 6, 7]
    again.commit([Write("s", "a", b"x" * 5000)])
    assert again.read_from(8) == []
    again.close()


@pytest.mark.parametrize("number", [-1, 2, 10**9])
def test_a_number_of_no_batch_has_no_changes_to_tell(journal: Journal, number: int) -> None:
    journal.commit([Write("s", "a", b"1")])
    assert journal.read_from(number) is None


def test_threads_that_commit_together_lose_nothing(journal: Journal) -> None:
    def work(name: str) -> None:
        for i in range(20):
            journal.commit([Write("s", f"{name}-{i}", b"x")])
            assert journal.get("s", f"{name}-{i}") is not None

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(values(journal)) == journal.number == 80


@pytest.mark.parametrize("value", [b"x", None, b"x" * 20_000], ids=["small", "none", "large"])
def test_the_wal_does_not_grow_beyond_its_bound(
    value: bytes | None, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_bytes = 512 * 1024
    monkeypatch.setattr("thornback.cluster.journal.CHECKPOINT_BYTES", bound_bytes)
    for i in range(150):
        journal.commit([Write("s", f"k{i % 20}", value)])
    assert (journal.directory / "journal.sqlite-wal").stat().st_size < 2 * bound_bytes


# --- owners ---------------------------------------------------------------------------------------


def test_a_store_keeps_its_id_and_counts_its_owners(tmp_path: Path) -> None:
    first = opened(tmp_path / "deep" / "down")
    first.commit([Write("s", "a", b"1")])
    first.close()
    second = opened(tmp_path / "deep" / "down", expected_store_id=first.store_id)
    assert (second.store_id, second.epoch, second.number) == (first.store_id, first.epoch + 1, 1)
    assert values(second) == {"a": b"1"}
    second.close()


def test_only_this_user_can_read_a_store(journal: Journal, tmp_path: Path) -> None:
    journal.commit([Write("s", "a", b"1")])
    files = list(tmp_path.iterdir())
    assert len(files) >= 3
    assert {file.stat().st_mode & 0o077 for file in files} == {0}


def test_a_second_owner_is_told_who_the_first_one_is(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(StoreOwned, match=rf"the test \(pid {os.getpid()} on .+\)") as refused:
        opened(tmp_path)
    assert refused.value.path == str(tmp_path)
    assert journal.commit([Write("s", "a", b"1")]) == [1]


def test_a_former_owner_cannot_write_even_where_the_lock_failed(tmp_path: Path) -> None:
    former = opened(tmp_path)
    former.commit([Write("s", "a", b"former")])
    (tmp_path / "owner").unlink()
    current = opened(tmp_path)
    with pytest.raises(StoreFenced) as refused:
        former.commit([Write("s", "a", b"too late")])
    assert (refused.value.mine, refused.value.current) == (former.epoch, current.epoch)
    assert current.commit([Write("s", "b", b"current")]) == [2]
    assert values(current) == {"a": b"former", "b": b"current"}
    former.close()
    current.close()


def test_a_closed_journal_takes_no_writes(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.close()
    with pytest.raises(StoreError, match="opened again"):
        journal.commit([Write("s", "a", b"1")])


def test_an_empty_directory_is_no_fresh_start_where_a_store_is_known(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no store; expected sto_known"):
        opened(tmp_path / "unmounted", expected_store_id="sto_known")
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("CREATE TABLE users (name TEXT)", "is a database of another program"),
        ("CREATE TABLE store (name TEXT)", "no such column"),
        ("DELETE FROM store", "has lost its id"),
    ],
)
def test_a_database_that_is_no_journal_is_left_as_it_is(
    tmp_path: Path, statement: str, says: str
) -> None:
    if statement.startswith("DELETE"):
        opened(tmp_path).close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    database.execute(statement)
    database.commit()
    before = list(database.iterdump())
    with pytest.raises(StoreError, match=says):
        opened(tmp_path)
    assert list(database.iterdump()) == before
    database.close()


def test_a_foreign_store_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(StoreError, match=r"holds sto_.*; expected sto_known"):
        opened(tmp_path, expected_store_id="sto_known")


def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute("UPDATE store SET schema = ?, program_version = '9.0.0'", (SCHEMA + 1,))
    database.close()
    with pytest.raises(StoreError) as refused:
        opened(tmp_path)
    assert f"schema {SCHEMA + 1}, written by version 9.0.0" in str(refused.value)
    assert f"version 0.1.0 reads up to schema {SCHEMA}" in str(refused.value)


def test_the_program_that_wrote_last_is_recorded(tmp_path: Path) -> None:
    opened(tmp_path, program_version="0.7.0").close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        assert database.execute("SELECT program_version FROM store").fetchone() == ("0.7.0",)
    database.close()


def test_a_file_that_is_no_store_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match="cannot open"):
        opened(tmp_path)
    assert (tmp_path / "journal.sqlite").read_bytes() == b"something else" * 1000


# --- a disk that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["first", "later", "group", "delete"])
def test_nothing_is_acknowledged_when_the_disk_cannot_sync(tmp_path: Path, kind: str) -> None:
    """Every kind of commit depends on a sync, for without one it fails."""
    run = subprocess.run(
        [sys.executable, FAIL_SYNC, tmp_path, kind], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["StoreError", "refuses further writes"]
    journal = opened(tmp_path)
    assert values(journal)["acknowledged"] == b"yes"
    assert journal.number in (1, 2), "what was not acknowledged is there whole, or not at all"
    assert journal.commit([Write("s", "new", b"1")]) == [journal.number]
    journal.close()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from thornback.cluster.journal import *\n"
        "journal = Journal.open(Path(sys.argv[1]), owner='x', program_version='1')\n"
        "while True: print(journal.commit([Write('s', str(journal.number), b'x')])[0], flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        acknowledged = [int(run.stdout.readline()) for _ in range(30)]
        run.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in run.stdout if line.endswith(b"\n")]
    journal = opened(tmp_path)
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert {str(n - 1) for n in acknowledged} <= values(journal).keys()
    assert len(values(journal)) == journal.number <= len(acknowledged) + 1
    journal.close()


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond this; a write that would is an error, as on a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def attempt(work: Callable[[], object]) -> bool:
    try:
        work()
    except StoreError:
        return False
    return True


def test_wherever_a_full_disk_stops_a_commit_it_is_there_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    batch = [Write("s", str(i), b"x" * 1500) for i in range(20)]
    outcomes = set()
    for size_bytes in range(0, 200_000, 8_000):
        directory = tmp_path / str(size_bytes)
        journal = opened(directory)
        journal.commit([Write("s", "acknowledged", b"yes")])
        with largest_file(size_bytes):
            done = attempt(lambda journal=journal: journal.commit(batch))
        journal.close()
        journal = opened(directory)
        kept = values(journal)
        assert kept.pop("acknowledged") == b"yes"
        assert len(kept) in ((20,) if done else (0, 20))
        assert journal.commit([Write("s", "later", b"1")]) == [journal.number]
        journal.close()
        outcomes.add(done)
    assert outcomes == {True, False}
