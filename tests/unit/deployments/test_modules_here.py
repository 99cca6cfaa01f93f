import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thornback.deployments.cli import app

TOOLS = """
from thornback.tools import tool

print("imported")

@tool
def plain_look(text: str, depth: int = 1) -> str:
    \"\"\"Look at a text.

    Args:
        text: The text.
    \"\"\"
    return text

@tool(input_schema={"type": "object", "properties": {"x": {"oneOf": [{"type": "integer"}]}}})
def by_hand(x: int) -> int:
    \"\"\"Count.\"\"\"
    return x
"""


@pytest.fixture
def config(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A config beside a module of its own, whose name no other test has imported."""
    module = f"tools_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(TOOLS, "utf-8")
    path = tmp_path / "c.yaml"
    path.write_text(f"pools: {{p: {{tools: [{module}]}}}}\n", "utf-8")
    return path


def validated(path: Path) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["validate", str(path), "--json"])
    found = json.loads(done.stdout)
    assert found["problems"] == []
    return done.exit_code, found["warnings"]


def test_what_models_read_badly_is_a_warning(config: Path) -> None:
    code, warnings = validated(config)
    assert code == 0
    assert any(line.startswith("plain_look: ") and "depth" in line for line in warnings)
    assert any(line.startswith("by_hand: ") and "oneOf" in line for line in warnings)


def test_a_module_that_is_not_here_is_said_and_no_problem(config: Path) -> None:
    config.write_text("pools: {gpu: {tools: [no_such_module_here]}}\n", "utf-8")
    code, warnings = validated(config)
    assert code == 0
    assert [line.partition(":")[0] for line in warnings] == ["no_such_module_here is not checked"]


BROKEN = {
    "declares_nothing": ("x = 1\n", "declares_nothing: declares no tool"),
    "says_nothing": (
        "from thornback.tools import tool\n@tool\ndef look(text: str) -> str:\n    return text\n",
        "says_nothing: DefinitionError: tool look: it has no docstring",
    ),
    "thornback.tools.sqll": (None, "thornback.tools.sqll: ModuleNotFoundError: No module named"),
}


@pytest.mark.parametrize("module", BROKEN)
def test_what_up_would_call_broken_is_a_problem_unless_the_pool_has_its_own_packages(
    module: str, config: Path
) -> None:
    text, line = BROKEN[module]
    if text is not None:
        (config.parent / f"{module}.py").write_text(text, "utf-8")
    config.write_text(f"pools: {{p: {{tools: [{module}]}}}}\n", "utf-8")
    done = CliRunner().invoke(app, ["validate", str(config)])
    assert done.exit_code == 2
    assert done.output.startswith(f"thornback: {line}")
    config.write_text(f"pools: {{p: {{tools: [{module}], runtime_env: {{pip: [x]}}}}}}\n", "utf-8")
    code, (warning,) = validated(config)
    assert (code, warning.partition(" is not checked")[0]) == (0, module)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os\nos._exit(9)\n", "it ends the process (exit 9)"),
        ("\nx = 1 / 0\n", "ZeroDivisionError: division by zero (hurting.py, line 2)"),
    ],
)
def test_a_module_that_goes_wrong_is_one_line_and_the_others_are_seen(
    text: str, why: str, config: Path
) -> None:
    (config.parent / "hurting.py").write_text(text, "utf-8")
    config.write_text(config.read_text("utf-8").replace("[tools_of", "[hurting, tools_of"), "utf-8")
    code, warnings = validated(config)
    assert code == 0
    assert f"hurting is not checked: here, {why}" in warnings
    assert any(line.startswith("plain_look: ") for line in warnings)


def test_settings_of_a_tool_that_nobody_declares_are_a_warning(config: Path) -> None:
    text = config.read_text("utf-8") + "tools: {plain_lok: {timeout_s: 3}}\n"
    config.write_text(text, "utf-8")
    expected = "tools.plain_lok: no module of this config declares this tool"
    assert expected in validated(config)[1]


def test_batch_settings_of_a_tool_that_takes_one_call_at_a_time_are_a_warning(config: Path) -> None:
    text = config.read_text("utf-8") + "tools: {plain_look: {batch: {max_batch_size: 8}}}\n"
    config.write_text(text, "utf-8")
    expected = "tools.plain_look.batch: plain_look is no batch tool, and takes one call at a time"
    assert expected in validated(config)[1]


def test_a_dataset_that_has_no_file_here_is_a_warning(config: Path) -> None:
    (config.parent / "here.csv").write_text("x\n1\n", "utf-8")
    text = (
        'datasets: {h: here.csv, x: nothere/*.csv, y: "package:nopkg/x.csv", z: "http://a/b.csv"}\n'
    )
    config.write_text(config.read_text("utf-8") + text, "utf-8")
    code, warnings = validated(config)
    assert code == 0
    assert [line for line in warnings if line.startswith("datasets.")] == [
        "datasets.x: nothere/*.csv: no file on this machine has this path",
        "datasets.y: package:nopkg/x.csv: no package 'nopkg' is installed",
        "datasets.z: http://a/b.csv: no file on this machine has this path",
    ]


def test_a_schema_by_hand_may_have_several_lines() -> None:
    assert validated(Path("conformance"))[0] == 0


def test_the_shipped_tools_give_no_warning() -> None:
    done = CliRunner().invoke(app, ["validate", "local", "--json"])
    assert json.loads(done.stdout) == {"valid": True, "problems": [], "warnings": []}
