"""How a process finds the token of a Ray that others started."""

import os
from pathlib import Path

import pytest

from thornback.deployments.cluster_file import ClusterFile
from thornback.deployments.ray_driver import announce, token_file


def test_the_token_of_rays_own_commands_is_found(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert token_file(home) is None
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret", "utf-8")
    assert token_file(home) == str(token)
    assert token_file({**home, "RAY_AUTH_TOKEN_PATH": "/etc/ray/token"}) == "/etc/ray/token"


def test_no_file_is_needed_where_the_environment_says_how(tmp_path: Path) -> None:
    path = {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": "/etc/ray/token"}
    assert token_file({**path, "RAY_AUTH_MODE": "disabled"}) is None
    assert token_file({**path, "RAY_AUTH_TOKEN": "secret"}) is None


@pytest.mark.parametrize(
    ("environment", "token_path", "mode"),
    [
        ({}, None, "disabled"),
        ({}, "/t", "token"),
        ({"RAY_AUTH_TOKEN": "secret"}, None, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/t"}, None, None),
    ],
)
def test_a_token_of_another_ray_is_not_taken_for_one_that_wants_none(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    token_path: str | None,
    mode: str | None,
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    announce(
        ClusterFile(
            name="guest",
            url="http://127.0.0.1:8000/mcp",
            address="10.0.0.1:6379",
            dashboard_url="",
            namespace="thornback.guest",
            state_dir="/state",
            token_path=token_path,
        )
    )
    assert environment.get("RAY_AUTH_MODE") == mode
