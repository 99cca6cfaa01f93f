"""Contents in a gateway, and contents in a config.

`ContentReader` turns a resource of the catalog into its bytes and a template's URI into its text;
who may ask for which is decided before, on the catalog. `config_entries` turns the prompts,
resources and templates of a config file into entries and the bytes that they name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import cachetools

from thornback.cluster.catalog import (
    AccessPolicy,
    Catalog,
    PromptSpec,
    ResourceSpec,
    Space,
    TemplateSpec,
)
from thornback.cluster.config import ClusterConfig, ResourceConfig
from thornback.cluster.errors import ConfigError, ContentMissing
from thornback.cluster.prompt_files import load_prompts
from thornback.cluster.resources import sha256_of
from thornback.cluster.templates import misfits_of_text, render_text
from thornback.cluster.uri_templates import (
    is_uri,
    misfits_of_template,
    variables_in,
    variables_of,
)
from thornback.tools.datasets import PACKAGE_PREFIX, resolve

KEPT_BYTES = 32 << 20
"""Content that one gateway keeps in its own memory."""
KEPT_ENTRY_BYTES = 1 << 20
"""Largest content that is kept there."""

ConfigEntry = PromptSpec | ResourceSpec | TemplateSpec


class ContentSource(Protocol):
    """Where bytes come from: `BlobClient` is one."""

    async def get(self, sha256: str) -> bytes | None: ...


class ContentReader:
    """Reads what the catalog names; small contents stay in memory, least recently used go."""

    def __init__(self, source: ContentSource, kept_bytes: int = KEPT_BYTES) -> None:
        self._source = source
        self._kept: cachetools.LRUCache[str, bytes] = cachetools.LRUCache(kept_bytes, getsizeof=len)

    async def read(self, spec: ResourceSpec) -> bytes:
        """
        Raises:
            ContentMissing: if the store does not have what the catalog names.
            ContentDamaged: if what it has are other bytes.
            ContentUnavailable: if it cannot be reached.
        """
        data = self._kept.get(spec.sha256)
        if data is not None:
            return data
        data = await self._source.get(spec.sha256)
        if data is None:
            raise ContentMissing(spec.sha256)
        if len(data) <= min(KEPT_ENTRY_BYTES, self._kept.maxsize):
            self._kept[spec.sha256] = data
        return data

    def render(self, spec: TemplateSpec, uri: str) -> str | None:
        """The text of a URI of this family; None for a URI of none.

        Raises:
            InvalidParams: if the text would be too long.
        """
        variables = variables_in(spec.uri_template, uri)
        return None if variables is None else render_text(spec.text, variables)


def config_entries(config: ClusterConfig) -> tuple[list[ConfigEntry], dict[str, bytes]]:
    """What a config offers beside its tools, and the contents to put first, by their hash.

    Raises:
        ConfigError: with a line for everything that is wrong, naming file or key.
    """
    wrong: list[str] = []
    contents: dict[str, bytes] = {}
    entries: list[ConfigEntry] = []
    try:
        entries += load_prompts(_prompt_files(config))
    except ConfigError as error:
        wrong.append(str(error))
    for uri, resource in config.resources.items():
        key = f"resources.{uri}"
        if not is_uri(uri):
            wrong.append(f"{key}: is no absolute URI, as notes://readme is")
        try:
            data = _bytes_of(config, resource)
        except ConfigError as error:
            wrong.append(f"{key}: {error}")
            continue
        spec = _resource(uri, resource, data)
        contents[spec.sha256] = data
        entries.append(spec)
    for uri_template, template in config.resource_templates.items():
        lines = list(_misfits_of_family(uri_template, template.text))
        wrong += [f"resource_templates.{uri_template}: {line}" for line in lines]
        entries.append(
            TemplateSpec(
                uri_template=uri_template,
                name=template.name,
                title=template.title,
                description=template.description,
                mime_type=template.mime_type,
                text=template.text,
                access=AccessPolicy(tuple(template.principals)),
            )
        )
    if wrong:
        raise ConfigError("\n".join(wrong))
    return entries, contents


def stale_keys(catalog: Catalog, entries: Iterable[ConfigEntry]) -> list[tuple[Space, str]]:
    """What the operator's config offered before and does not any more; sorted.

    Resources that have an owner were put by a caller and are no part of a config.
    """
    spaces: dict[type, Space] = {
        PromptSpec: "prompts",
        ResourceSpec: "resources",
        TemplateSpec: "templates",
    }
    stays = {(spaces[type(entry)], entry.key) for entry in entries}
    return sorted(
        (space, key)
        for space in spaces.values()
        for key, entry in catalog.of(space).items()
        if (space, key) not in stays and getattr(entry, "owner", None) is None
    )


def _prompt_files(config: ClusterConfig) -> Iterator[Path]:
    for number, reference in enumerate(config.prompts):
        found = _files(config, reference, f"prompts.{number}")
        if not found:
            raise ConfigError(f"prompts.{number}: {reference} names no file")
        yield from found


def _files(config: ClusterConfig, reference: str, key: str) -> list[Path]:
    """The files of a path, a glob or `package:PACKAGE/PATH`, from the config's directory."""
    if not reference.startswith(PACKAGE_PREFIX):
        reference = str(Path(config.base_dir, Path(reference).expanduser()))
    try:
        return [path for path in resolve(reference) if path.is_file()]
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _bytes_of(config: ClusterConfig, resource: ResourceConfig) -> bytes:
    if resource.text is not None:
        return resource.text.encode("utf-8")
    if resource.blob is not None:
        try:
            return base64.b64decode("".join(resource.blob.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"blob: is no base64: {error}") from error
    reference = resource.path or ""
    found = _files(config, reference, "path")
    if len(found) != 1:
        raise ConfigError(f"path: {reference} names {len(found)} files, and must name one")
    try:
        return found[0].read_bytes()
    except OSError as error:
        raise ConfigError(f"path: {reference}: {error.strerror}") from error


def _resource(uri: str, resource: ResourceConfig, data: bytes) -> ResourceSpec:
    return ResourceSpec(
        uri=uri,
        name=resource.name,
        title=resource.title,
        description=resource.description,
        mime_type=resource.mime_type,
        sha256=sha256_of(data),
        size_bytes=len(data),
        access=AccessPolicy(tuple(resource.principals)),
    )


def _misfits_of_family(uri_template: str, text: str) -> Iterator[str]:
    wrong = misfits_of_template(uri_template)
    yield from wrong
    if not wrong:
        for line in misfits_of_text(text, variables_of(uri_template)):
            yield f"text: {line}"
