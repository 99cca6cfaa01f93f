import pytest

from thornback.deployments import load_wrk
from thornback.deployments.load import Load
from thornback.deployments.load_wrk import NoLoadGenerator, command_of, run_wrk

LOAD = Load(url="http://here/mcp", connections=64, warm_up_s=5, seconds=20, drain_s=2)


def test_wrk_runs_until_the_last_answer_may_have_come() -> None:
    command = command_of(LOAD, 105.3, 125.3, "abcd")
    assert command[:4] == ["wrk", "-t1", "-c64", "-d28s"]


def test_the_script_is_told_when_to_count_and_what_to_ask() -> None:
    command = command_of(LOAD, 105.3, 125.3, "abcd")
    words = command[command.index("--") + 1 :]
    assert words == [
        "105.3", "125.3", "tools/call", "abcd", '{"text":"@"}', "@", "0", "2026-07-28", "echo",
    ]  # fmt: skip


def test_who_has_no_wrk_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_wrk, "has_wrk", lambda: False)
    with pytest.raises(NoLoadGenerator, match="apt-get install wrk"):
        run_wrk(LOAD)


def test_a_key_is_not_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def popen(command: list[str], *, env: dict[str, str], **_: object) -> None:
        seen.update(command=command, env=env)
        raise InterruptedError

    monkeypatch.setattr(load_wrk, "has_wrk", lambda: True)
    monkeypatch.setattr(load_wrk.subprocess, "Popen", popen)
    with pytest.raises(InterruptedError):
        run_wrk(LOAD, key="tbk_secret")
    assert seen["env"]["THORNBACK_KEY"] == "tbk_secret"
    assert "tbk_secret" not in " ".join(seen["command"])
