import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thornback.tools.benchmark import CallCount


def count_in(path: Path) -> int:
    return int.from_bytes(path.read_bytes(), "little")


def test_calls_are_counted_where_others_can_read(tmp_path: Path) -> None:
    calls = CallCount(str(tmp_path))
    for _ in range(300):
        calls.add()
    assert {path.name: count_in(path) for path in tmp_path.iterdir()} == {str(os.getpid()): 300}


def test_a_fork_counts_from_nothing_in_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = CallCount(str(tmp_path))
    calls.add()
    monkeypatch.setattr(os, "getpid", lambda: 1_000_000)
    calls.add()
    calls.add()
    assert sorted(map(count_in, tmp_path.iterdir())) == [1, 2]


def test_nobody_counts_unasked() -> None:
    CallCount(None).add()


def test_calls_of_many_threads_are_all_counted(tmp_path: Path) -> None:
    calls = CallCount(str(tmp_path))
    together = threading.Barrier(32)

    def call() -> None:
        together.wait()
        for _ in range(200):
            calls.add()

    with ThreadPoolExecutor(32) as threads:
        for begun in [threads.submit(call) for _ in range(32)]:
            begun.result()
    (file,) = tmp_path.iterdir()
    assert int.from_bytes(file.read_bytes(), "little") == 32 * 200
