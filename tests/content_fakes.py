"""A stand-in for everything below `Uploads`: contents, registry and catalog."""

from collections.abc import AsyncIterable

from thornback.cluster.catalog import Catalog, Entry, ResourceSpec, decode_entry
from thornback.cluster.errors import RegistrationError
from thornback.cluster.registry import Edit
from thornback.cluster.resources import Stored, sha256_of


class FakeCluster:
    """Store and registry in one, in memory."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.entries: dict[str, Entry] = {}
        self.families: dict[str, Entry] = {}
        self.refuses = False

    async def put_as(self, sha256: str, chunks: AsyncIterable[bytes]) -> Stored:
        data = b"".join([chunk async for chunk in chunks])
        if sha256_of(data) == sha256:
            self.contents[sha256] = data
        return Stored(sha256_of(data), len(data))

    async def get(self, sha256: str) -> bytes | None:
        return self.contents.get(sha256)

    async def write(self, edit: Edit) -> tuple[int, int]:
        if self.refuses:
            raise RegistrationError("the URI belongs to somebody else")
        for space, value in edit.put:
            entry = decode_entry(space, value)
            assert isinstance(entry, ResourceSpec)
            self.entries[entry.uri] = entry
        for _, key in edit.withdraw:
            del self.entries[key]
        return 1, 1

    async def wait_for(self, number: int, timeout_s: float) -> Catalog:
        return self.catalog

    @property
    def catalog(self) -> Catalog:
        return Catalog("s", 1, 1, {"resources": self.entries, "templates": self.families})
