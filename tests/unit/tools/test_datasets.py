"""From the names in the environment to files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from thornback.tools import ToolFailure, datasets

Register = Callable[..., None]


def test_a_glob_is_all_its_files_in_order(tmp_path: Path, register: Register) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("x\n1\n")
    register(sales=str(tmp_path / "*.csv"))
    sales = datasets.dataset("sales")
    assert [Path(file.path).name for file in sales.files] == ["a.csv", "b.csv"]
    assert sales.format == "csv"


def test_a_package_reference_is_found_wherever_the_package_is_installed(shipped: None) -> None:
    (file,) = datasets.dataset("penguins").files
    assert Path(file.path).is_absolute()
    assert Path(file.path).read_text("utf-8").startswith("species,island")


def test_every_shipped_file_is_named_with_its_licence() -> None:
    files = datasets.resolve("package:thornback.configs/data/*.csv")
    readme = datasets.resolve("package:thornback.configs/data/README.md")[0].read_text("utf-8")
    assert files
    assert all(f"`{file.name}`" in readme for file in files)


def test_an_unknown_dataset_is_answered_with_the_nearest_and_all(shipped: None) -> None:
    with pytest.raises(ToolFailure, match=r"did you mean penguins\? there are penguins, weather"):
        datasets.dataset("pinguins")


def test_a_cluster_without_datasets_says_so(register: Register) -> None:
    register()
    with pytest.raises(ToolFailure, match="this cluster has no datasets"):
        datasets.dataset("sales")


@pytest.mark.parametrize("reference", ["/nowhere/*.csv", "package:no_such_package/x.csv"])
def test_a_dataset_without_files_is_not_listed_and_tells_no_path(
    reference: str, register: Register
) -> None:
    register(sales=reference)
    assert datasets.registered().here == {}
    with pytest.raises(ToolFailure) as refused:
        datasets.dataset("sales")
    assert "nowhere" not in str(refused.value)
    assert "no_such_package" not in str(refused.value)


def test_files_of_different_formats_are_not_one_table(tmp_path: Path, register: Register) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.json").write_text('{"x": 1}')
    register(mixed=[str(tmp_path / "a.csv"), str(tmp_path / "b.json")])
    with pytest.raises(ToolFailure, match="not all CSV"):
        datasets.dataset("mixed")


def test_a_changed_file_is_another_dataset(tmp_path: Path, register: Register) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x\n1\n")
    register(sales=str(path))
    before = datasets.dataset("sales")
    path.write_text("x\n1\n2\n")
    assert datasets.dataset("sales") != before
