import array
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thornback.deployments import process_start
from thornback.deployments.process_start import (
    FORK_SOCKET,
    FORKED,
    WORKERS,
    ask_for_a_fork,
    command_of,
)

Heard = list[tuple[dict[str, Any], list[int]]]


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[Heard]:
    """A server that answers one request: what it said, and the streams that came with it."""
    heard: Heard = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                head, control, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(12))
                (length,) = struct.unpack("!I", head)
                body = b""
                while len(body) < length:
                    body += connection.recv(length)
                streams = array.array("i", control[0][2])
                for stream in streams:
                    os.close(stream)
                heard.append((json.loads(body), list(streams)))
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield heard
        thread.join(10)


def test_a_worker_says_what_it_would_have_been(tmp_path: Path) -> None:
    with answering(tmp_path / "s", FORKED) as heard:
        assert ask_for_a_fork(str(tmp_path / "s"), ["/worker.py", "--id=1"])
    ((said, streams),) = heard
    assert said == {
        "command": ["/worker.py", "--id=1"],
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "prefix": sys.prefix,
    }
    assert len(streams) == 3


def test_a_worker_that_is_refused_starts_by_itself(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b""):
        assert not ask_for_a_fork(str(tmp_path / "s"), ["/worker.py"])


def test_a_worker_starts_by_itself_where_nobody_listens(tmp_path: Path) -> None:
    assert not ask_for_a_fork(str(tmp_path / "nothing"), ["/worker.py"])


def test_a_command_is_found_behind_pythons_own_options() -> None:
    assert command_of(["python", "-u", "-B", "/worker.py", "-x"]) == ["/worker.py", "-x"]
    assert command_of(["python", "-c", "pass"]) == ["pass"]
    assert command_of(["python"]) == []


def started(tmp_path: Path, script: str, **environment: str) -> str:
    """What a Python prints whose `sitecustomize` is ours."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    copy = site / "sitecustomize.py"
    copy.write_bytes(Path(process_start.__file__).read_bytes())
    path = os.pathsep.join([str(site), environment.pop("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-u", script],
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_a_worker_whose_copy_was_made_runs_no_more_code(tmp_path: Path) -> None:
    script = tmp_path.joinpath(*WORKERS[1].strip("/").split("/"))
    script.parent.mkdir(parents=True)
    script.write_text("print('ran')", "utf-8")
    assert started(tmp_path, str(script)) == "ran\n"
    with answering(tmp_path / FORK_SOCKET, FORKED) as heard:
        assert started(tmp_path, str(script)) == ""
    assert heard[0][0]["command"] == [str(script)]


def test_another_program_never_asks(tmp_path: Path) -> None:
    script = tmp_path / "tool.py"
    script.write_text("print('ran')", "utf-8")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / FORK_SOCKET))
        listener.listen()
        assert started(tmp_path, str(script)) == "ran\n"
        listener.setblocking(False)
        try:
            listener.accept()
        except BlockingIOError:
            return
    raise AssertionError("it asked")


def test_a_sitecustomize_of_somebody_else_runs_too(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text("print('theirs')", "utf-8")
    script = tmp_path / "tool.py"
    script.write_text("print('ran')", "utf-8")
    assert started(tmp_path, str(script), PYTHONPATH=str(tmp_path / "theirs")) == "theirs\nran\n"


def test_pandas_is_kept_from_serve_alone(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("", "utf-8")
    (tmp_path / "tool.py").write_text(
        "import sys, types\n"
        "import pandas\n"
        "del sys.modules['pandas']\n"
        "serve = sys.modules['ray.serve._private.utils'] = types.ModuleType('utils')\n"
        "try:\n"
        "    import pandas\n"
        "except ImportError:\n"
        "    print('none')\n"
        "serve.serve_encoders = {}\n"
        "import pandas\n"
        "print('some')\n",
        "utf-8",
    )
    assert started(tmp_path, str(tmp_path / "tool.py")) == "none\nsome\n"
