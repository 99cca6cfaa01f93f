"""How a process finds the token of a Ray that others started."""

from pathlib import Path

from thornback.deployments.ray_driver import token_file


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
