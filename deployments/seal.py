"""Seals: what clients carry for us between requests, so that any gateway can serve the next one.

Session ids, request states and cursors are made by one gateway and read by another. Each is
encrypted and authenticated (AES-256-GCM) with the cluster's key ring, and bound to what it is for
and to this cluster: a token of one kind, or of another cluster, opens as nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Purpose = Literal["session", "state", "cursor"]

PREFIX = "v1."
NONCE_BYTES = 12
MAX_TOKEN_CHARS = 64 * 1024


class BadSeal(Exception):
    """The token was not sealed by this cluster for this purpose."""


class Seals:
    """Seals and opens tokens of one cluster."""

    def __init__(
        self,
        keys: Sequence[bytes],
        audience: str,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """
        Args:
            keys: The cluster's key ring, newest first: the first one seals, each one opens.
            audience: What the tokens are for beside their purpose: the cluster's name.
            random_bytes: Source of nonces.
        """
        if not keys:
            raise ValueError("a cluster has at least one key")
        # Keys of any length; AES wants 32 bytes.
        self._ciphers = [AESGCM(hashlib.sha256(key).digest()) for key in keys]
        self._audience = audience
        self._random_bytes = random_bytes

    def seal(self, purpose: Purpose, plain: bytes) -> str:
        """A token of visible ASCII that only this cluster can open.

        Raises:
            ValueError: if it would be longer than what `open` takes.
        """
        nonce = self._random_bytes(NONCE_BYTES)
        sealed = nonce + self._ciphers[0].encrypt(nonce, plain, self._bound_to(purpose))
        token = PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError(f"{len(plain)} bytes are more than a token can carry")
        return token

    def open(self, purpose: Purpose, token: str) -> bytes:
        """What was sealed.

        Raises:
            BadSeal: for one reason that is not told: whatever is wrong, the answer is the same.
        """
        sealed = _bytes_of(token)
        nonce, box = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, box, self._bound_to(purpose))
            except (InvalidTag, ValueError):
                continue
        raise BadSeal

    def _bound_to(self, purpose: Purpose) -> bytes:
        return f"thornback {PREFIX} {purpose} {self._audience}".encode()


def _bytes_of(token: str) -> bytes:
    if not token.startswith(PREFIX) or len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise BadSeal
    text = token.removeprefix(PREFIX)
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise BadSeal from None
    # Two spellings of one token would be two keys for whoever stores it.
    if base64.urlsafe_b64encode(sealed).decode().rstrip("=") != text or len(sealed) <= NONCE_BYTES:
        raise BadSeal
    return sealed
