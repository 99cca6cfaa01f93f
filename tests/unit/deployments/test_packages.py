"""What is asked of an installer, and what is told of its answer."""

import sys
import zipfile
from pathlib import Path

import pytest

from thornback.deployments.packages import (
    Packages,
    installers_reason,
    packages_of,
    why_not_to_be_had,
)

PIP = """\
WARNING: Location 'file:///opt/pypi/simple/no-such/' is ignored
ERROR: Ignored the following versions that require a different python version: 1.0
ERROR: Could not find a version that satisfies the requirement no-such==9.9 (from versions: none)
ERROR: No matching distribution found for no-such==9.9
"""
UV = """\
Using Python 3.11.7 environment at: /env
error: No solution found when resolving dependencies
  cause: Because no-such was not found in the package registry and you require no-such==9.9, we can
"""


def test_packages_are_those_that_ray_would_install() -> None:
    plain = packages_of(
        {"pip": ["a==1", "b"], "env_vars": {"PIP_INDEX_URL": "https://i", "THORNBACK_POOL": "p"}}
    )
    assert plain == Packages("pip", ("a==1", "b"), (), (("PIP_INDEX_URL", "https://i"),))
    full = packages_of({"pip": {"packages": ["a"], "pip_install_options": ["--pre"]}})
    assert full == Packages("pip", ("a",), ("--pre",), ())
    by_uv = packages_of({"uv": {"packages": ["a"], "uv_pip_install_options": ["--offline"]}})
    assert by_uv == Packages("uv", ("a",), ("--offline",), ())


@pytest.mark.parametrize(
    "runtime_env",
    [
        {},
        {"env_vars": {"A": "1"}},
        {"conda": "name"},
        {"pip": "requirements.txt"},
        {"pip": []},
        {"pip": ["-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/requirements.txt"]},
    ],
)
def test_what_is_known_only_in_the_environment_is_not_asked(runtime_env: dict[str, object]) -> None:
    assert packages_of(runtime_env) is None


def test_a_question_installs_nothing() -> None:
    for installer in ("pip", "uv"):
        command = Packages(installer, ("a",), ("--pre",), ()).question("/tmp/r.txt")
        assert command[:3] == [sys.executable, "-m", installer]
        assert "--dry-run" in command
        assert command[-3:] == ["--pre", "-r", "/tmp/r.txt"]


@pytest.mark.parametrize(("needed", "is_there"), [("given", True), ("no-such-package-xyz", False)])
def test_what_a_package_needs_must_be_there_too(
    tmp_path: Path, needed: str, is_there: bool
) -> None:
    make_wheel(tmp_path, "given", "")
    make_wheel(tmp_path, "needy", f"Requires-Dist: {needed}\n")
    # No index of this machine's configuration either.
    variables = (("PIP_CONFIG_FILE", "/dev/null"), ("PIP_FIND_LINKS", str(tmp_path)))
    asked = Packages("pip", ("needy",), ("--no-index",), variables)
    missing = f"No matching distribution found for {needed} (from needy)"
    assert why_not_to_be_had(asked) == (None if is_there else missing)


def make_wheel(folder: Path, name: str, requirements: str) -> None:
    """A distribution of nothing, version 1."""
    about = f"{name}-1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requirements}"
    wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for file, text in {"METADATA": metadata, "WHEEL": wheel, "RECORD": ""}.items():
            archive.writestr(f"{about}/{file}", text)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (PIP, "No matching distribution found for no-such==9.9"),
        (
            UV,
            "Because no-such was not found in the package registry and you require no-such==9.9, "
            "we can",
        ),
        ("/bin/python: No module named pip\n", "/bin/python: No module named pip"),
        ("", "it cannot be set up"),
        ("ERROR: cannot read https://me:secret@host/simple", "cannot read https://host/simple"),
    ],
)
def test_one_line_says_why(output: str, reason: str) -> None:
    assert installers_reason(output) == reason
