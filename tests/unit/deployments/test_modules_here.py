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


def test_the_shipped_tools_give_no_warning() -> None:
    done = CliRunner().invoke(app, ["validate", "local", "--json"])
    assert json.loads(done.stdout) == {"valid": True, "problems": [], "warnings": []}
