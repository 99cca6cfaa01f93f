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


def problems_of(path: Path) -> list[str]:
    done = CliRunner().invoke(app, ["validate", str(path), "--json"])
    assert done.exit_code == 2, done.output
    problems: list[str] = json.loads(done.stdout)["problems"]
    return problems


def write(config: Path, pools: str, **modules: str) -> None:
    """A config with these pools, and modules beside it."""
    for name, text in modules.items():
        (config.parent / f"{name}.py").write_text(text, "utf-8")
    config.write_text(f"pools: {{{pools}}}\n", "utf-8")


BROKEN = {
    "declares_nothing": ("x = 1\n", "it declares no tool"),
    "says_nothing": (
        "from thornback.tools import tool\n@tool\ndef look(text: str) -> str:\n    return text\n",
        "DefinitionError: tool look: it has no docstring",
    ),
    "raises": ("\nx = 1 / 0\n", "ZeroDivisionError: division by zero (raises.py, line 2)"),
    "ends": ("import os\nos._exit(9)\n", "it ends the process (exit 9)"),
    "needs_more": (
        "import no_such_package\n",
        "ModuleNotFoundError: No module named 'no_such_package' (needs_more.py, line 1)",
    ),
    "no_such_module": (None, "ModuleNotFoundError: No module named 'no_such_module'"),
    "thornback.tools.sqll": (None, "ModuleNotFoundError: No module named"),
}


def test_what_up_would_call_broken_is_a_problem_unless_the_pool_has_its_own_packages(
    config: Path,
) -> None:
    written = {module: text for module, (text, _) in BROKEN.items() if text is not None}
    pools = {f"p{n}": module for n, module in enumerate(BROKEN)}
    write(config, ", ".join(f"{p}: {{tools: [{m}]}}" for p, m in pools.items()), **written)
    problems = problems_of(config)
    for (pool, module), problem in zip(pools.items(), problems, strict=True):
        assert problem.startswith(f"pools.{pool}.tools: {module}: {BROKEN[module][1]}")

    config.write_text(config.read_text("utf-8") + "defaults: {runtime_env: {pip: [x]}}\n", "utf-8")
    code, warnings = validated(config)
    assert code == 0
    for module, warning in zip(BROKEN, warnings, strict=True):
        assert warning.startswith(f"{module} is not checked: here, {BROKEN[module][1]}")
        assert warning.endswith("; its pool has a runtime_env of its own (pip)")


def test_beside_a_module_that_goes_wrong_the_others_are_seen(config: Path) -> None:
    (config.parent / "hurting.py").write_text("import os\nos._exit(9)\n", "utf-8")
    config.write_text(config.read_text("utf-8").replace("[tools_of", "[hurting, tools_of"), "utf-8")
    done = CliRunner().invoke(app, ["validate", str(config), "--json"])
    found = json.loads(done.stdout)
    assert found["problems"] == ["pools.p.tools: hurting: it ends the process (exit 9)"]
    assert any(line.startswith("plain_look: ") for line in found["warnings"])


def test_a_module_reads_its_pools_variables_when_it_is_imported(config: Path) -> None:
    reading = f"import os\nos.environ['ONLY_OF_A_POOL']\n{TOOLS}"
    text = "p: {tools: [reading], runtime_env: {env_vars: {ONLY_OF_A_POOL: x}}}"
    write(config, text, reading=reading)
    assert validated(config)[0] == 0
    write(config, text.replace("ONLY", "OTHER"))
    assert "KeyError: 'ONLY_OF_A_POOL'" in problems_of(config)[0]


ONE = TOOLS.partition("@tool(input_schema")[0]


def test_one_version_of_a_tool_in_two_pools_is_a_problem(config: Path) -> None:
    other = ONE.replace("@tool", "@tool(version='2.0.0')")
    write(config, "a: {tools: [one]}, b: {tools: [two]}", one=ONE, two=ONE)
    assert problems_of(config) == [
        "pools.a and pools.b both offer plain_look 1.0.0; "
        "two pools may offer one tool only at different versions"
    ]
    write(config, "a: {tools: [one]}, b: {tools: [two]}", two=other)
    assert validated(config)[0] == 0


def test_one_version_of_a_tool_in_two_modules_is_a_problem(config: Path) -> None:
    write(config, "a: {tools: [one, two]}", one=ONE, two=ONE)
    assert problems_of(config) == ["pools.a.tools: one and two both declare plain_look 1.0.0"]
    config.write_text("modules: [one, two]", "utf-8")
    (problem,) = problems_of(config)
    assert problem.startswith("modules (one) and modules (two) both offer plain_look 1.0.0")


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
