"""Every block of the README and of the guides runs, in the order of the page."""

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from tests.conftest import DOWN_TIMEOUT_S, ROOT, THORNBACK, UP_TIMEOUT_S, RunningCluster
from tests.docs.blocks import Block, Runner, blocks_of
from thornback.cluster.config import load_config
from thornback.deployments.modules_here import tools_here, warnings_of
from thornback.deployments.ports import listen_error

PAGES = ("README.md", "docs/author.md", "docs/operator.md", "docs/agents.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, cluster: RunningCluster, tmp_path: Path) -> None:
    runner = Runner(cluster, tmp_path)
    try:
        for block in blocks_of(page):
            runner.run(block)
    finally:
        runner.end_others()


def readme_block(word: str) -> Block:
    return next(block for block in blocks_of("README.md") if block.word == word)


# The README's `install` and `test` blocks run in parts: one that installs would change the
# environment that it runs in, and one that runs all tests would run itself; `.ci/run` does that.
@pytest.mark.parametrize("word", ["install", "test"])
def test_the_extra_that_a_command_installs_exists(word: str) -> None:
    (extra,) = re.findall(r'pip install -e "\.\[(\w+)\]"', readme_block(word).text)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert extra in pyproject["project"]["optional-dependencies"]


@pytest.mark.parametrize("word", ["install", "test"])
def test_what_a_command_installs_is_what_the_tests_run_in(word: str, tmp_path: Path) -> None:
    words = shlex.split(readme_block(word).text.partition(" && ")[0])
    assert words[:2] == ["pip", "install"]
    report = tmp_path / "report.json"
    dry = ["--dry-run", "--quiet", "--disable-pip-version-check", "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", *words, *dry], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    missing = json.loads(report.read_text("utf-8"))["install"]
    # What is editable is always made anew.
    assert [package["metadata"]["name"] for package in missing] == ["thornback"]


def test_the_first_command_brings_up_a_cluster(tmp_path: Path) -> None:
    port = 8000
    if error := listen_error(port, "127.0.0.1"):
        pytest.skip(f"the page's port is taken here: {error}")
    words = shlex.split(readme_block("install").text.partition(" && ")[2])
    assert words == ["thornback", "up"]
    first = RunningCluster("local", port, tmp_path)
    up = subprocess.Popen(
        [THORNBACK, *words[1:]], env=first.environment, stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(UP_TIMEOUT_S, first.kill)
    watchdog.start()
    try:
        assert up.stdout is not None
        assert next(up.stdout) == f"local is ready: {first.url}\n"
        assert first.thornback("tools").returncode == 0
        up.terminate()
        up.communicate(timeout=DOWN_TIMEOUT_S)
        assert first.processes() == []
    finally:
        watchdog.cancel()
        first.kill()
        up.wait()


def test_the_first_tool_has_seven_lines_and_validate_has_nothing_to_say(
    tmp_path: Path,
) -> None:
    for name in ("my_tools.py", "mine.yaml"):
        (tmp_path / name).write_text(readme_block(name).text, "utf-8")
    config = load_config(tmp_path / "mine.yaml")
    found = tools_here(config)
    assert [tool.name for _, tool in found.tools] == ["reverse"]
    assert warnings_of(config, found) == []
    written = [line for line in readme_block("my_tools.py").text.splitlines() if line.strip()]
    assert len(written) == 7


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = readme_block("test").text.rpartition("&& ")[2].strip()
    assert command in (ROOT / ".ci/run").read_text("utf-8")


@pytest.mark.parametrize("page", [*PAGES, "docs/decisions.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target
