from pathlib import Path

import pytest

from thornback.cluster.config import load_config
from thornback.cluster.errors import ConfigError
from thornback.deployments.cli_init import init, project_name


def test_a_new_project_has_a_config_that_loads(tmp_path: Path) -> None:
    init(tmp_path / "my-tools")
    config = load_config(tmp_path / "my-tools/thornback.yaml")
    assert (config.name, config.pools["my-tools"].tools) == ("my-tools", ["my_tools"])


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thornback.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"already has thornback\.yaml; nothing was written"):
        init(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thornback.yaml"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My Tools!", "my-tools"), ("2026", "tools-2026"), ("___", "tools"), ("a" * 60, "a" * 32)],
)
def test_any_folder_gives_a_valid_name(folder: str, name: str) -> None:
    assert project_name(folder) == name
