"""Who calls: principals, their keys, and what each may use.

A caller is named by its bearer key and by nothing else. The registry holds, for each principal of
the config, the SHA-256 of the key; keys themselves are nowhere but with their owners. What a
principal may not use answers exactly like what does not exist.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from thornback.cluster.errors import HttpRefusal

ANONYMOUS = "anonymous"
DEFAULT_TENANT = "default"
KEY_PREFIX = "tbk_"


class Principal(msgspec.Struct, frozen=True, array_like=True):
    """Who a call is for; the first part of every owner check, cache key, limit and fair share."""

    tenant: str
    name: str
    tags: tuple[str, ...] = ()


class PrincipalEntry(msgspec.Struct, frozen=True):
    """One principal as the catalog holds it."""

    name: str
    key_sha256: str
    """Lower-case hex of the SHA-256 of the bearer key."""
    tools: tuple[str, ...] = ("*",)
    """Shell patterns of the tool names that this principal may use."""
    tags: tuple[str, ...] = ()


class Caller(msgspec.Struct, frozen=True):
    """A principal and what it may use."""

    principal: Principal
    tools: tuple[str, ...] = ("*",)

    def may_use(self, tool: str) -> bool:
        """Whether one of this caller's patterns names `tool`."""
        return "*" in self.tools or any(fnmatchcase(tool, pattern) for pattern in self.tools)


EVERYBODY = Caller(Principal(DEFAULT_TENANT, ANONYMOUS))


class PrincipalBook:
    """From the `Authorization` header of a request to its caller; immutable."""

    def __init__(self, entries: Iterable[PrincipalEntry]) -> None:
        # A look-up by hash: its time tells about the SHA-256 of a guess, hence nothing about a key.
        self._by_key = {
            entry.key_sha256: Caller(Principal(DEFAULT_TENANT, entry.name, entry.tags), entry.tools)
            for entry in entries
        }

    def caller_of(self, authorization: str | None, *, anonymous: bool) -> Caller:
        """The caller that this `Authorization` header names.

        Args:
            authorization: The header's value, None where there is none.
            anonymous: Whether this cluster has no principals, so that everybody is `anonymous` and
                the header is ignored. Said by the gateway's own config and never concluded from an
                empty book: a gateway that has not heard from the registry must not open the door.

        Raises:
            HttpRefusal: 401 with `WWW-Authenticate`, with one constant text for every reason.
        """
        if anonymous:
            return EVERYBODY
        scheme, _, key = (authorization or "").partition(" ")
        caller = self._by_key.get(key_hash(key.strip()))
        if scheme.lower() != "bearer" or caller is None:
            # RFC 6750 section 3.1: no error code when the request carries no credentials at all.
            challenge = 'Bearer realm="thornback"'
            if authorization:
                challenge += ', error="invalid_token"'
            raise HttpRefusal(
                401, "A valid bearer key is required", {"WWW-Authenticate": challenge}
            )
        return caller


def new_key() -> str:
    """A fresh bearer key: `tbk_` and 43 URL-safe characters (256 random bits)."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """What the config and the catalog hold of a key: lower-case hex of its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
