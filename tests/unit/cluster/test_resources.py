"""Contents are returned exactly or not at all, whatever happens to the disk and the process."""

import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thornback.cluster.errors import ContentDamaged, StoreError, StoreOwned
from thornback.cluster.resources import ContentFiles, ContentStore, sha256_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ContentStore]:
    with ContentStore(tmp_path) as opened:
        yield opened


def test_what_is_put_is_got_in_chunks_or_whole(store: ContentStore) -> None:
    assert store.put([b"ab", b"", b"c"]) == store.put(b"abc") == sha256_of(b"abc")
    assert store.get(sha256_of(b"abc")) == b"abc"
    assert store.get(store.put(b"")) == b""


def test_what_was_never_put_is_not_there(store: ContentStore) -> None:
    assert store.get(sha256_of(b"x")) is None
    assert not store.holds(sha256_of(b"x"))
    assert not store.delete(sha256_of(b"x"))


@pytest.mark.parametrize("name", ["", "../../lock", "A" * 64, "0" * 63, "0" * 63 + "/", "0" * 65])
def test_a_path_is_made_from_a_hash_only(store: ContentStore, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        store.get(name)


def test_sizes_and_deletion(store: ContentStore) -> None:
    one, two = store.put(b"1"), store.put(b"22")
    assert store.sizes() == {one: 1, two: 2}
    assert store.total_bytes() == 3
    assert store.delete(one)
    assert store.get(one) is None
    assert store.sizes() == {two: 2}


def test_contents_outlive_their_store(tmp_path: Path) -> None:
    with ContentStore(tmp_path) as first:
        sha256 = first.put(b"kept")
    with ContentStore(tmp_path) as second:
        assert second.get(sha256) == b"kept"
        assert second.sizes() == {sha256: 4}


def test_one_owner_writes_and_others_read(store: ContentStore, tmp_path: Path) -> None:
    sha256 = store.put(b"shared")
    with pytest.raises(StoreOwned, match=f"process {os.getpid()}"):
        ContentStore(tmp_path)
    assert ContentFiles(tmp_path).get(sha256) == b"shared"


def test_discarded_content_leaves_nothing(store: ContentStore, tmp_path: Path) -> None:
    incoming = store.incoming()
    incoming.write(b"half")
    incoming.discard()
    assert list((tmp_path / "partial").iterdir()) == []
    assert store.sizes() == {}


def test_two_hundred_flipped_bits_never_give_wrong_bytes(
    store: ContentStore, tmp_path: Path
) -> None:
    rng = random.Random(7)
    data = rng.randbytes(5000)
    sha256 = store.put(data)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        store.path_of(sha256).write_bytes(damaged)
        with pytest.raises(ContentDamaged):
            ContentFiles(tmp_path).get(sha256)


def test_damaged_content_is_set_aside_and_then_missing(store: ContentStore, tmp_path: Path) -> None:
    sha256 = store.put(b"whole")
    store.path_of(sha256).write_bytes(b"wrong")
    with pytest.raises(ContentDamaged):
        store.get(sha256)
    assert store.get(sha256) is None
    assert store.sizes() == {}
    assert [path.read_bytes() for path in (tmp_path / "damaged").iterdir()] == [b"wrong"]


def test_a_truncated_file_is_damage_and_putting_it_again_heals(store: ContentStore) -> None:
    sha256, other = store.put(b"0123456789"), store.put(b"other")
    os.truncate(store.path_of(sha256), 4)
    assert not store.holds(sha256)
    store.put(b"0123456789")
    assert store.get(sha256) == b"0123456789"
    assert store.get(other) == b"other"


def test_a_truncated_file_is_set_aside_when_the_store_is_opened(tmp_path: Path) -> None:
    with ContentStore(tmp_path) as first:
        sha256 = first.put(b"0123456789")
        os.truncate(first.path_of(sha256), 4)
    with ContentStore(tmp_path) as second:
        assert second.sizes() == {}
        assert [p.name[:64] for p in (tmp_path / "damaged").iterdir()] == [sha256]


def test_a_reader_reports_damage_and_moves_nothing(store: ContentStore, tmp_path: Path) -> None:
    sha256 = store.put(b"whole")
    store.path_of(sha256).write_bytes(b"wrong")
    with pytest.raises(ContentDamaged):
        ContentFiles(tmp_path).get(sha256)
    assert store.path_of(sha256).exists()


def test_a_deleted_file_leaves_the_list_when_the_store_is_opened(tmp_path: Path) -> None:
    with ContentStore(tmp_path) as first:
        gone, here = first.put(b"gone"), first.put(b"here")
        first.path_of(gone).unlink()
        assert first.get(gone) is None
    with ContentStore(tmp_path) as second:
        assert second.sizes() == {here: 4}


def _garbage_in_the_header(index: Path) -> None:
    index.write_bytes(b"garbage" * 999)


def _garbage_in_the_pages(index: Path) -> None:
    data = bytearray(index.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    index.write_bytes(data)


def _strange_rows(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE Cache SET value = 'x', mode = 3")
    database.close()


@pytest.mark.parametrize(
    "damage", [Path.unlink, _garbage_in_the_header, _garbage_in_the_pages, _strange_rows]
)
def test_a_damaged_index_is_made_again_from_the_files(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with ContentStore(tmp_path) as first:
        kept = {first.put(bytes([n])): 1 for n in range(20)}
    damage(tmp_path / "index" / "cache.db")
    with ContentStore(tmp_path) as second:
        assert second.sizes() == kept
        assert second.get(second.put(b"new")) == b"new"


class Canary:
    def __init__(self, cage: Path) -> None:
        self.cage = cage

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.cage,))


@pytest.mark.parametrize("column", ["key = ?, raw = 0", "mode = 4, value = ?"])
def test_a_pickle_in_the_index_is_never_loaded(tmp_path: Path, column: str) -> None:
    with ContentStore(tmp_path / "store") as first:
        sha256 = first.put(b"kept")
    index = sqlite3.connect(tmp_path / "store" / "index" / "cache.db")
    planted = pickle.dumps(Canary(tmp_path / "sang"))
    index.execute(f"UPDATE Cache SET {column}", (planted,))
    index.commit()
    index.close()
    with ContentStore(tmp_path / "store") as second:
        assert second.sizes() == {sha256: 4}
    assert not (tmp_path / "sang").exists()


FAILING = ["open", "write", "fsync", "replace", "mkdir"]


def _fail_nth(monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> list[int]:
    """Make the `nth` call of `os.name` fail; the list counts the calls."""
    calls: list[int] = []
    real = getattr(os, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if calls[-1] == nth:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, counted)
    return calls


@pytest.mark.parametrize("name", FAILING)
def test_whichever_system_call_fails_a_put_is_whole_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for nth in range(1, 50):
        directory = tmp_path / f"{name}-{nth}"
        with ContentStore(directory) as store:
            before = store.put(b"before")
            with monkeypatch.context() as patch:
                calls = _fail_nth(patch, name, nth)
                try:
                    store.put([b"new ", b"content"])
                    acknowledged = True
                except StoreError:
                    acknowledged = False
            assert store.get(before) == b"before"
            assert store.get(sha256_of(b"new content")) in (
                (b"new content",) if acknowledged else (b"new content", None)
            )
            assert list((directory / "partial").iterdir()) == []
        with ContentStore(directory) as again:
            assert before in again.sizes()
            assert again.get(again.put(b"new content")) == b"new content"
        if nth > len(calls):
            assert acknowledged
            return
    pytest.fail("a put never came to its end")


def test_a_full_disk_is_said_and_reading_goes_on(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.put(b"before")
    with monkeypatch.context() as patch:
        _fail_nth(patch, "write", 1)
        with pytest.raises(StoreError, match="cannot write content: the disk is full"):
            store.put(b"new")
        assert store.get(before) == b"before"


def test_a_directory_that_was_never_synced_is_synced_by_the_next_put(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _fail_nth(patch, "fsync", 2)  # the first is the file's own
        with pytest.raises(StoreError):
            store.put(b"x")
    calls = _fail_nth(monkeypatch, "fsync", 0)
    store.put(b"x")
    # The file itself; the store, `files` and `ab` for the directories in them; `cd` for its name.
    assert len(calls) == 5


def test_the_way_to_a_new_store_is_synced_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    directory = tmp_path / "state" / "contents"
    with ContentStore(directory) as store:
        store.put(b"x")
    assert {tmp_path, directory.parent, directory, directory / "files"} <= synced
    assert {path.stat().st_mode & 0o077 for path in (directory.parent, directory)} == {0}


KILLED_WHILE_IT_WRITES = """
import sys
from pathlib import Path
from thornback.cluster.resources import ContentStore

store = ContentStore(Path(sys.argv[1]))
print(store.put(b"whole"), flush=True)
incoming = store.incoming()
incoming.write(b"half" * 100_000)
print("writing", flush=True)
sys.stdin.read()
"""


def test_a_writer_killed_in_the_middle_leaves_what_was_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_IT_WRITES, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        whole = writer.stdout.readline().strip()
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
    assert list((tmp_path / "partial").iterdir()) != []
    with ContentStore(tmp_path) as store:
        assert store.get(whole) == b"whole"
        assert store.sizes() == {whole: 5}
        assert list((tmp_path / "partial").iterdir()) == []


def test_a_file_renamed_but_not_listed_is_taken_in(tmp_path: Path) -> None:
    with ContentStore(tmp_path) as first:
        path = first.path_of(sha256_of(b"orphan"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"orphan")
    with ContentStore(tmp_path) as second:
        assert second.sizes() == {sha256_of(b"orphan"): 6}
