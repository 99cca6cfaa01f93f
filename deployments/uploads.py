"""`/resources/sha256/<hex>`: callers put contents, read them back and withdraw them.

Knows the rules (who owns a name, what may be named, how large) and neither HTTP nor Ray: the
gateway mounts these functions. What a caller puts is its own: others neither read it nor learn that
it is there, but for a URI that they want and that is taken; knowing a hash is no permission.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec

from thornback.cluster.catalog import AccessPolicy, Catalog, ResourceSpec, TemplateSpec
from thornback.cluster.errors import HttpRefusal, RegistrationError, RegistryUnavailable
from thornback.cluster.principals import Caller
from thornback.cluster.registry import Edit, edit_of
from thornback.cluster.resources import Stored, is_sha256
from thornback.cluster.uri_templates import is_uri, variables_in
from thornback.cluster.validation import nearest
from thornback.deployments.contents import ContentReader

MAX_UPLOAD_BYTES = 64 << 20
MAX_NAME_CHARS = 256
OWN_WRITE_S = 2.0
"""Longest wait for this gateway to have heard of what it wrote itself."""
OWN_SCHEME = "thornback:"
"""URIs of this scheme are made here, from the owner and the hash."""

_MIME_TYPE = re.compile(r"[\w.+-]{1,127}/[\w.+-]{1,127}( *; *[\w.+-]+=[\w.+-]+)*", re.ASCII)
_ABOUT = ("mime_type", "name", "public", "title", "uri")


class ContentSink(Protocol):
    """Where bytes go: `BlobClient` is one."""

    async def put_as(self, sha256: str, chunks: AsyncIterable[bytes]) -> Stored: ...


class CatalogWriter(Protocol):
    """What is needed of the registry: `RegistryClient` is one."""

    async def write(self, edit: Edit) -> tuple[int, int]: ...


class Mirror(Protocol):
    """The catalog as this gateway knows it: `mirror.CatalogMirror`."""

    @property
    def catalog(self) -> Catalog: ...

    async def wait_for(self, number: int, timeout_s: float) -> Catalog: ...


class Uploads:
    """The resources that callers put themselves."""

    def __init__(
        self,
        mirror: Mirror,
        registry: CatalogWriter,
        sink: ContentSink,
        reader: ContentReader,
        *,
        anonymous: bool,
        max_bytes: int = MAX_UPLOAD_BYTES,
    ) -> None:
        """
        Args:
            mirror: The catalog as this gateway knows it.
            registry: Where names are written.
            sink: Where contents are put.
            reader: Where contents are read.
            anonymous: Whether this cluster has no principals: what is put is then everybody's.
            max_bytes: Largest content.
        """
        self._mirror = mirror
        self._registry = registry
        self._sink = sink
        self._reader = reader
        self._anonymous = anonymous
        self.max_bytes = max_bytes

    async def upload(
        self, caller: Caller, sha256: str, about: Mapping[str, str], chunks: AsyncIterable[bytes]
    ) -> ResourceSpec:
        """Put content and name it; durable, and in the catalog, when this returns.

        Args:
            caller: Who puts it, and will own it.
            sha256: What `chunks` must hash to.
            about: `name`, `title`, `mime_type`, `uri`, `public` (`true`: for everybody).
            chunks: The bytes.

        Raises:
            HttpRefusal: 400, 403, 404, 413 or 422, with nothing kept under any name.
            StoreError: if it could not be written.
            Unavailable: if registry or store cannot be reached.
        """
        spec = self._spec(caller, sha256, about)
        stored = await self._sink.put_as(sha256, self._bounded(chunks))
        if stored.sha256 != sha256:
            raise HttpRefusal(422, f"These bytes hash to {stored.sha256}, not to {sha256}")
        spec = msgspec.structs.replace(spec, size_bytes=stored.size_bytes)
        try:
            await self._write(edit_of(spec))
        except RegistrationError:  # somebody was faster
            raise _not_yours() from None
        return spec

    async def download(self, caller: Caller, sha256: str) -> tuple[ResourceSpec, bytes]:
        """Content under a name that this caller may read.

        Raises:
            HttpRefusal: 404 if there is none, or none for this caller, which is the same answer.
        """
        readable = self._named(sha256, lambda spec: spec.access.admits(caller))
        if not readable:
            raise _no_such_content()
        return readable[0], await self._reader.read(readable[0])

    async def withdraw(self, caller: Caller, sha256: str, uri: str | None = None) -> list[str]:
        """Take the caller's own names off content; the URIs that are gone.

        Args:
            caller: Who must own them.
            sha256: The content.
            uri: The only name to take away; None: all that are the caller's.

        Raises:
            HttpRefusal: 404 if the caller owns no such name.
        """
        owned = self._named(sha256, lambda spec: spec.owner == caller.principal.name)
        gone = [spec.uri for spec in owned if uri in (None, spec.uri)]
        if not gone:
            raise _no_such_content()
        await self._write(edit_of(withdraw=[("resources", name) for name in gone]))
        return gone

    async def _write(self, edit: Edit) -> None:
        _, number = await self._registry.write(edit)
        # Who reads on through this gateway finds what was written. Written it is in any case.
        with suppress(RegistryUnavailable):
            await self._mirror.wait_for(number, OWN_WRITE_S)

    def _spec(self, caller: Caller, sha256: str, about: Mapping[str, str]) -> ResourceSpec:
        """The entry that an upload asks for; its size is not known yet."""
        _check(sha256, about)
        owner = caller.principal.name
        own_uri = _own_uri(None if self._anonymous else owner, sha256)
        uri = about.get("uri") or own_uri
        if uri != own_uri:
            self._check_name(uri, owner)
        everybody = self._anonymous or about.get("public") == "true"
        return ResourceSpec(
            uri=uri,
            name=about.get("name") or sha256[:12],
            title=about.get("title"),
            mime_type=about.get("mime_type") or "application/octet-stream",
            sha256=sha256,
            size_bytes=0,
            owner=owner,
            access=AccessPolicy(("*",) if everybody else (owner,)),
        )

    def _check_name(self, uri: str, owner: str) -> None:
        if not is_uri(uri):
            raise HttpRefusal(400, "uri must be an absolute URI, such as notes://readme")
        if uri.lower().startswith(OWN_SCHEME):
            raise HttpRefusal(400, f"URIs that begin with {OWN_SCHEME} are made by the cluster")
        catalog = self._mirror.catalog
        taken = catalog.of("resources").get(uri)
        families = catalog.of("templates").values()
        if (isinstance(taken, ResourceSpec) and taken.owner != owner) or any(
            isinstance(family, TemplateSpec) and variables_in(family.uri_template, uri) is not None
            for family in families
        ):
            raise _not_yours()

    def _named(self, sha256: str, wanted: Callable[[ResourceSpec], bool]) -> list[ResourceSpec]:
        """Resources with this content, by URI."""
        entries = self._mirror.catalog.of("resources").values()
        found = [entry for entry in entries if isinstance(entry, ResourceSpec)]
        same = (spec for spec in found if spec.sha256 == sha256 and wanted(spec))
        return sorted(same, key=lambda spec: spec.uri)

    async def _bounded(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for chunk in chunks:
            size_bytes += len(chunk)
            if size_bytes > self.max_bytes:
                raise too_large(self.max_bytes)
            yield chunk


def _check(sha256: str, about: Mapping[str, str]) -> None:
    """What is wrong with an upload whoever sends it."""
    if not is_sha256(sha256):
        raise HttpRefusal(404, "The path ends in 64 lower-case hex digits")
    for key in about:
        if key not in _ABOUT:
            near = nearest(key, _ABOUT)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(_ABOUT)}"
            raise HttpRefusal(400, f"Unknown parameter; {hint}")
    for key in ("name", "title"):
        if len(about.get(key, "")) > MAX_NAME_CHARS or not about.get(key, "").isprintable():
            raise HttpRefusal(400, f"{key} is at most {MAX_NAME_CHARS} printable characters")
    if about.get("mime_type") and not _MIME_TYPE.fullmatch(about["mime_type"]):
        raise HttpRefusal(400, "mime_type must be a MIME type, such as text/plain")
    if about.get("public", "false") not in ("true", "false"):
        raise HttpRefusal(400, "public is true or false")


def _own_uri(owner: str | None, sha256: str) -> str:
    """The URI of content without a name. The owner is a part of it: two who put the same bytes do
    not meet, and neither learns of the other."""
    return f"thornback://{owner + '/' if owner else ''}sha256/{sha256}"


def too_large(max_bytes: int) -> HttpRefusal:
    return HttpRefusal(413, f"Content may have at most {max_bytes} bytes", {"Connection": "close"})


def _not_yours() -> HttpRefusal:
    return HttpRefusal(403, "This URI is not yours to name")


def _no_such_content() -> HttpRefusal:
    return HttpRefusal(404, "No such content")
