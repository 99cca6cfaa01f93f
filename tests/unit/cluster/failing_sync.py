"""Run by `test_journal.py`: a commit in a process whose kernel refuses every sync with EIO.

A seccomp filter stands between SQLite and the disk, so nothing of SQLite or of ours is replaced.
"""

import ctypes
import errno
import platform
import struct
import sys
from pathlib import Path

from thornback.cluster.errors import StoreError
from thornback.cluster.journal import Journal, Write

# Numbers of fsync and fdatasync, from the kernel's tables of each machine.
SYNCS = {"x86_64": (74, 75), "aarch64": (82, 83)}[platform.machine()]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load the call's number, compare, answer
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def fail_syncs() -> None:
    """From here on, and until this process ends, every sync is an I/O error."""
    steps = [
        (LOAD, 0, 0, 0),
        (EQUAL, 1, 0, SYNCS[0]),
        (EQUAL, 0, 1, SYNCS[1]),
        (RETURN, 0, 0, ERRNO | errno.EIO),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(code))
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or kernel.prctl(
        PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


def outcome(journal: Journal, *batches: list[Write]) -> str:
    try:
        journal.commit(*batches)
    except StoreError as e:
        return "refuses further writes" if "opened again" in str(e) else type(e).__name__
    return "acknowledged"


WRITE = [Write("s", "lost", b"x" * 3000)]
KINDS: dict[str, list[list[Write]]] = {
    "first": [WRITE],
    "later": [WRITE],
    "group": [WRITE, []],
    "delete": [[Write("s", "never there", None)]],
}


def main(directory: Path, kind: str) -> None:
    journal = Journal.open(directory, owner="the test", program_version="0.1.0")
    journal.commit([Write("s", "acknowledged", b"yes")])
    if kind == "first":
        journal.close()
        journal = Journal.open(directory, owner="the test", program_version="0.1.0")
    fail_syncs()
    print(outcome(journal, *KINDS[kind]))
    print(outcome(journal, [Write("s", "more", b"x")]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
