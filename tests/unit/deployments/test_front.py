import ast
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from thornback.deployments.front import front_program, uncorrected

WORDS = ["-db", "-f", "h.cfg", "-sf", "17"]
TEMPLATE = """\
global
    stats socket /s/admin.sock mode 666
    server-state-file /s/state
defaults
    errorfile 503 /serve/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{{a}}" if routes
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "'%[path]' not found. Ping"
{}listen stats
  bind *:8404
"""
WITH_GATEWAY = TEMPLATE.format(
    "backend http-thornback.local.gateway\n    server a 127.0.0.1:20050 check\n"
)
EMPTY = TEMPLATE.format("")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a front door whose watcher has nothing to do."""
    (tmp_path / "watch").write_text("", "utf-8")
    return tmp_path


def corrected(directory: Path, text: str, *, loopback_only: bool = True) -> str:
    """What is left of a rendered configuration; `echo` stands for HAProxy."""
    config, program = directory / "h.cfg", directory / "front"
    config.write_text(text, "utf-8")
    program.write_text(front_program("/bin/echo", directory, loopback_only), "utf-8")
    done = subprocess.run(
        ["sh", str(program), *WORDS], capture_output=True, check=True, text=True, cwd=directory
    )
    assert done.stdout.split() == WORDS
    return config.read_text("utf-8")


def template_of_ray() -> str:
    """The template of the Ray that is installed, read without importing all of Serve."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("serve") / "_private" / "haproxy_templates.py"
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(
            "CONFIG_TEMPLATE"
        ):
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{source} has no template")


def test_every_correction_fits_the_template_of_this_ray(tmp_path: Path) -> None:
    directory = tmp_path / "h"
    directory.mkdir()
    (directory / "watch").write_text("", "utf-8")
    found = corrected(directory, template_of_ray())
    assert "status 404 content-type text/plain" not in found
    assert found.count(f"{directory}/unavailable.http") == 3
    assert "option splice-response" in found
    assert "option splice-request" not in found
    assert "bind 127.0.0.1:{{ config.stats_port }}" in found
    assert "bind 127.0.0.1:{{ config.metrics_port }}" in found
    assert uncorrected(tmp_path) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("not found. Ping", "gone"),
        ("errorfile", "http-error"),
        ("frontend http_", "frontend web_"),
        ("acl routes path -i", "acl routes path"),
        ("if routes", "if asked_for_routes"),
    ],
)
def test_a_template_that_ours_do_not_fit_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    directory = tmp_path / "h"
    directory.mkdir()
    (directory / "watch").write_text("", "utf-8")
    corrected(directory, EMPTY.replace(old, new))
    assert uncorrected(tmp_path) is not None
    corrected(directory, EMPTY)
    assert uncorrected(tmp_path) is None


def test_without_a_gateway_the_answer_is_not_yet_and_never_404(directory: Path) -> None:
    found = corrected(directory, EMPTY)
    assert "status 404 content-type text" not in found
    assert "status 503 content-type application/json hdr Retry-After 1 string '{" in found
    assert f"    errorfile 503 {directory}/unavailable.http\n" in found


def test_nobody_is_told_which_applications_there_are(directory: Path) -> None:
    found = corrected(directory, WITH_GATEWAY)
    assert "    acl routes path,url_dec -m str -i /-/routes\n" in found
    (answer,) = [line for line in found.splitlines() if line.endswith(" if routes")]
    assert answer.split(" string ")[1] == """'{"error":"not found"}' if routes"""


@pytest.mark.parametrize("loopback_only", [True, False])
def test_side_doors_open_on_loopback_alone_where_the_cluster_does(
    directory: Path, loopback_only: bool
) -> None:
    found = corrected(directory, EMPTY, loopback_only=loopback_only)
    assert ("bind 127.0.0.1:8404" in found) is loopback_only
    assert ("bind 127.0.0.1:9101" in found) is loopback_only
    assert "    bind 127.0.0.1:8000\n" in found


def test_a_stand_in_is_told_what_the_last_one_with_a_gateway_knew(directory: Path) -> None:
    corrected(directory, EMPTY)
    assert not (directory / "standin.cfg").exists()
    corrected(directory, WITH_GATEWAY)
    standin = (directory / "standin.cfg").read_text("utf-8")
    assert "server a 127.0.0.1:20050" in standin
    assert "stats socket" not in standin, "Serve must not take the stand-in for its own"
    assert "state-file" not in standin
    assert "frontend http_frontend" in standin
    assert not {":9101", ":8404"} & set(standin.split()), "the side doors are not its own"
    assert (directory / "ready").read_text("utf-8").strip().isdigit()


def test_who_knows_no_gateway_yet_takes_no_request_from_the_stand_in(directory: Path) -> None:
    corrected(directory, WITH_GATEWAY)
    found = corrected(directory, EMPTY)
    assert f"    bind unix@{directory}/early.sock\n" in found
    assert "127.0.0.1:8000" not in found
    assert "    bind 127.0.0.1:8000\n" in corrected(directory, WITH_GATEWAY)
