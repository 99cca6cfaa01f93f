from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import msgspec
import pytest
import ray

from thornback.deployments.log_files import Ask, FileLines, Found
from thornback.deployments.node_logs import HEAD, Positions, RayNodes, _read_there

ASK = Ask("thornback.lab")
FAR = "b9" * 28
FOUND = Found([FileLines("sql", "/logs/worker-1.out", ["said"])], {"/logs/worker-1.out": 5})


def node(name: str, *, alive: bool = True, head: bool = False) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {HEAD: 1.0} if head else {"CPU": 2.0}}


class Answers(RayNodes):
    """Nodes of which some do not answer, or not well; no task is sent."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, but_head: bool = True, **answers: Any
    ) -> None:
        self.told: list[str] = []
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        nodes = [node("head", head=True), node("dead", alive=False), *map(node, answers)]
        answers = {"head": FOUND, **answers}

        def wait(asked: list[str], **_: Any) -> tuple[list[str], list[str]]:
            late = [each for each in asked if answers[each] is None]
            return [each for each in asked if each not in late], late

        def get(asked: str) -> bytes:
            if isinstance(answers[asked], Exception):
                raise answers[asked]
            return msgspec.msgpack.encode(answers[asked])

        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "wait", wait)
        monkeypatch.setattr(ray, "get", get)
        monkeypatch.setattr(ray, "cancel", lambda asked, force: self.cancelled.append(asked))
        super().__init__(self.told.append, but_head=but_head)

    def _send(self, node: str, ask: Ask, positions: Positions | None) -> str:
        self.asked.append(node)
        return node


def test_every_living_machine_but_this_one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Answers(monkeypatch, far=FOUND)
    assert nodes.look(ASK) == {"far": FOUND}
    assert nodes.asked == ["far"]


def test_where_nothing_is_known_of_this_machine_the_head_is_asked_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Answers(monkeypatch, but_head=False, far=FOUND)
    assert nodes.look(ASK).keys() == {"head", "far"}


def test_a_machine_that_does_not_answer_is_named_once_and_the_others_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Answers(monkeypatch, far=FOUND, slow=None, broken=OSError("secret"))
    for _ in range(2):
        assert nodes.look(ASK) == {"far": FOUND}
    assert sorted(nodes.told) == [
        "node broken does not show its logs: OSError",
        "node slow does not show its logs: no answer within 30 s",
    ]
    assert nodes.cancelled == ["slow", "slow"]


def test_a_cluster_of_one_machine_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Answers(monkeypatch)
    assert nodes.look(ASK) == {}
    assert nodes.asked == []


class Inline:
    """Stands for a remote function: runs where it is called, and its reference is the answer."""

    def options(self, **_: Any) -> Self:
        return self

    def remote(self, asked: bytes) -> bytes:
        return _read_there(asked)


def test_a_machine_that_is_asked_again_tells_what_came_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "worker-1-01-10.out"
    log.write_text(":actor_name:ServeReplica:thornback.lab.sql:ToolHost\nfirst\n")
    here = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr(ray._private.worker, "_global_node", here)
    monkeypatch.setattr(ray, "nodes", lambda: [node(FAR)])
    monkeypatch.setattr(ray, "wait", lambda asked, **_: (asked, []))
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    nodes = RayNodes(lambda _: None, but_head=True)
    nodes._task = Inline()
    first = nodes.look(ASK)[FAR]
    assert [file.lines for file in first.files] == [["first"]]
    with log.open("a") as file:
        file.write("second\n")
    (later,) = nodes.look(ASK, {FAR: first.positions})[FAR].files
    assert later.lines == ["second"]
    (whole,) = nodes.look(ASK, {})[FAR].files  # of a machine that joined meanwhile
    assert whole.lines == ["first", "second"]
