"""Identifiers: a prefix that says what it names, and 128 bits that nobody can guess.

Ids are capabilities in places (an anonymous caller's task, a session), so they are derived from
neither time nor a counter, and they are made here and nowhere else.
"""

import secrets
from typing import Literal

Prefix = Literal["blb", "call", "err", "evt", "gwy", "req", "sto", "tsk", "val"]


def new_id(prefix: Prefix) -> str:
    """A fresh id, `<prefix>_` and 22 URL-safe characters (128 random bits)."""
    return f"{prefix}_{secrets.token_urlsafe(16)}"
