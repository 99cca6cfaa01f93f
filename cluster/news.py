"""What the registry tells those who watch it: the changes since a number, or a whole catalog.

Bytes on the wire: a format number, then deflated msgpack. Entries cross as the JSON bytes that the
journal keeps, so neither side encodes them anew.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from thornback.cluster.catalog import SPACES, Catalog, Change, Entry, Space, read_entry
from thornback.cluster.errors import StoreError

FORMAT = 1
_M = TypeVar("_M", bound="News | Snapshot")


class News(msgspec.Struct, frozen=True, array_like=True):
    """What happened in a store since the number that was asked about."""

    store_id: str
    epoch: int
    number: int
    """The number that a reader has reached with these changes."""
    changes: list[Change] | None
    """Oldest first, writes whole; None: gone or unknown, take a snapshot instead."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """Every entry of a catalog, as `(space, key, value)`."""

    store_id: str
    epoch: int
    number: int
    entries: list[tuple[str, str, bytes]]

    def catalog(self) -> Catalog:
        entries: dict[Space, dict[str, Entry]] = {space: {} for space in SPACES}
        for name, key, value in self.entries:
            space = _SPACE_OF.get(name)
            if space is None:  # written by a later version of this program
                continue
            entry = read_entry(space, key, value)
            if entry is not None:
                entries[space][key] = entry
        return Catalog(self.store_id, self.epoch, self.number, entries)


_SPACE_OF: Mapping[str, Space] = {space: space for space in SPACES}
_encoder = msgspec.msgpack.Encoder()
_news_decoder = msgspec.msgpack.Decoder(News)
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(message: News | Snapshot) -> bytes:
    # Level 1: schemas shrink tenfold with it already, and a watcher waits for these bytes.
    return bytes((FORMAT,)) + zlib.compress(_encoder.encode(message), 1)


def decode_news(data: bytes) -> News:
    return _decoded(_news_decoder, data)


def decode_snapshot(data: bytes) -> Snapshot:
    return _decoded(_snapshot_decoder, data)


def _decoded(decoder: msgspec.msgpack.Decoder[_M], data: bytes) -> _M:
    """
    Raises:
        StoreError: if `data` cannot be read; a registry of another version has sent it.
    """
    if data[:1] != bytes((FORMAT,)):
        raise StoreError(
            f"the registry speaks format {data[:1].hex()}; this version knows {FORMAT:02x}"
        )
    try:
        return decoder.decode(zlib.decompress(data[1:]))
    except (zlib.error, msgspec.DecodeError) as error:
        raise unreadable(error) from None


def unreadable(why: Exception) -> StoreError:
    """What to raise about an answer of the registry that is none to this version."""
    return StoreError(f"this version cannot read what the registry answers: {why}")
