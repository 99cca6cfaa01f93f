"""The tools of the fault tests leave the effects that those tests count."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from thornback.cluster.errors import CallCancelled
from thornback.tools import problems, tools_of
from thornback.tools.testing import Recorded

SOURCE = Path(__file__).parents[2] / "on_ray" / "effect_tools.py"


@pytest.fixture
def effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "effects"
    monkeypatch.setenv("EFFECTS_FILE", str(path))
    return path


@pytest.fixture(scope="module")
def effect_tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("effect_tools", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_whole_tools(effect_tools: ModuleType) -> None:
    found = tools_of(effect_tools)
    assert {"effect", "nap", "ticks", "die"} <= {declared.name for declared in found}
    assert [problem for declared in found for problem in problems(declared)] == []


def test_each_run_leaves_one_line(effect_tools: ModuleType, effects: Path) -> None:
    effect_tools.effect("a")
    effect_tools.repeatable_effect("b")
    assert effects.read_text().splitlines() == ["a", "b"]


def test_what_is_stopped_early_leaves_a_line(effect_tools: ModuleType, effects: Path) -> None:
    ctx = Recorded(request_id="call_1")
    stream = effect_tools.ticks(5, ctx, every_s=0)
    assert next(stream) == 0
    stream.close()
    ctx.cancel()
    with pytest.raises(CallCancelled):
        effect_tools.blocking_nap(60, ctx)
    assert effects.read_text().splitlines() == ["stopped call_1", "cancelled call_1"]
