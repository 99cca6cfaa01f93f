"""A gateway reads contents once; a config names its contents; both say what is missing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from thornback.cluster.catalog import (
    AccessPolicy,
    Catalog,
    Entry,
    PromptSpec,
    ResourceSpec,
    Space,
    TemplateSpec,
)
from thornback.cluster.config import parse_config
from thornback.cluster.errors import ConfigError, ContentMissing
from thornback.cluster.resources import sha256_of
from thornback.deployments.contents import ContentReader, config_entries, stale_keys


class FakeSource:
    def __init__(self, *contents: bytes) -> None:
        self.contents = {sha256_of(data): data for data in contents}
        self.asked: list[str] = []

    async def get(self, sha256: str) -> bytes | None:
        self.asked.append(sha256)
        return self.contents.get(sha256)


def resource(data: bytes, **about: Any) -> ResourceSpec:
    fields = {"uri": "a:b", "name": "b", "sha256": sha256_of(data), "size_bytes": len(data)}
    return ResourceSpec(**{**fields, **about})


def test_small_contents_are_fetched_once_and_large_ones_each_time() -> None:
    small, large = b"small", b"x" * ((1 << 20) + 1)
    source = FakeSource(small, large)
    reader = ContentReader(source)
    for _ in range(2):
        assert asyncio.run(reader.read(resource(small))) == small
        assert asyncio.run(reader.read(resource(large))) == large
    assert sorted(source.asked) == sorted([sha256_of(small), *[sha256_of(large)] * 2])


def test_what_is_kept_is_bounded_in_bytes() -> None:
    source = FakeSource(b"aaa", b"bbb", b"cccccccc")
    reader = ContentReader(source, kept_bytes=6)
    for data in (b"aaa", b"bbb", b"aaa", b"cccccccc", b"bbb"):
        assert asyncio.run(reader.read(resource(data))) == data
    assert source.asked == [sha256_of(data) for data in (b"aaa", b"bbb", b"cccccccc")]


def test_content_that_the_catalog_names_and_nobody_has_is_missing() -> None:
    with pytest.raises(ContentMissing):
        asyncio.run(ContentReader(FakeSource()).read(resource(b"gone")))


def test_a_template_makes_the_text_of_its_own_uris_only() -> None:
    spec = TemplateSpec(
        uri_template="test://template/{id}/data",
        name="data",
        text='{"id":{{ id | json }}}',
    )
    reader = ContentReader(FakeSource())
    assert reader.render(spec, "test://template/1%22/data") == '{"id":"1\\""}'
    assert reader.render(spec, "test://other/1/data") is None


def entries_of(directory: Path, **document: Any) -> tuple[list[Any], dict[str, bytes]]:
    config = parse_config({"modules": ["tools"], **document}, "test.yaml", directory)
    return config_entries(config)


def test_a_config_gives_entries_and_the_bytes_they_name(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "one.yaml").write_text(
        "{name: one, description: One., messages: [{text: '1'}]}"
    )
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    entries, contents = entries_of(
        tmp_path,
        prompts=["prompts/*.yaml"],
        resources={
            "a:text": {"name": "text", "text": "é", "principals": ["ann"]},
            "a:blob": {"name": "blob", "blob": "AAE=\n", "mime_type": "image/png"},
            "a:path": {"name": "path", "path": "picture.png"},
        },
        resource_templates={"a:/{id}": {"name": "family", "text": "{{ id }}"}},
    )
    assert [entry.key for entry in entries] == ["one", "a:text", "a:blob", "a:path", "a:/{id}"]
    assert sorted(contents.values()) == sorted(["é".encode(), b"\x00\x01", b"\x89PNG"])
    text = entries[1]
    assert (text.sha256, text.size_bytes) == (sha256_of("é".encode()), 2)
    assert text.access == AccessPolicy(("ann",))
    assert text.owner is None


def test_files_of_a_package_are_found(tmp_path: Path) -> None:
    entries, contents = entries_of(
        tmp_path,
        resources={"a:local": {"name": "local", "path": "package:thornback.configs/__init__.py"}},
    )
    assert len(entries) == len(contents) == 1


def test_everything_wrong_in_a_config_is_told_at_once_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("{name: one, messages: [{text: '1'}]}")
    with pytest.raises(ConfigError) as refused:
        entries_of(
            tmp_path,
            prompts=["broken.yaml"],
            resources={
                "no-scheme": {"name": "x", "text": ""},
                "a:gone": {"name": "x", "path": "gone.txt"},
                "a:blob": {"name": "x", "blob": "?"},
                "a:package": {"name": "x", "path": "package:no_such_package_here/x"},
            },
            resource_templates={
                "a:{": {"name": "x", "text": ""},
                "a:{id}": {"name": "x", "text": "{{ ids }}"},
            },
        )
    lines = str(refused.value).splitlines()
    assert lines[0] == "broken.yaml: one: description: Field required"
    assert lines[1] == "resources.no-scheme: is no absolute URI, as notes://readme is"
    assert lines[2] == "resources.a:gone: path: gone.txt names 0 files, and must name one"
    assert lines[3].startswith("resources.a:blob: blob: is no base64")
    assert "no package 'no_such_package_here' is installed" in lines[4]
    assert lines[5].startswith("resource_templates.a:{: ")
    assert lines[6].startswith("resource_templates.a:{id}: text: uses ids, which is no variable")


def test_prompts_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.0: nowhere/\*\.yaml names no file"):
        entries_of(tmp_path, prompts=["nowhere/*.yaml"])


def test_what_a_config_no_longer_names_is_stale_and_what_callers_put_is_not(
    tmp_path: Path,
) -> None:
    kept = resource(b"", uri="a:kept")
    entries: dict[Space, dict[str, Entry]] = {
        "resources": {
            "a:kept": kept,
            "a:old": resource(b"", uri="a:old"),
            "a:theirs": resource(b"", uri="a:theirs", owner="ann"),
        },
        "prompts": {"old": PromptSpec(name="old", description="Old.", messages=())},
    }
    catalog = Catalog("store", 1, 1, entries)
    assert stale_keys(catalog, [kept]) == [("prompts", "old"), ("resources", "a:old")]
