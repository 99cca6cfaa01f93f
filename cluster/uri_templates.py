"""Families of URIs: from a URI to the variables of an RFC 6570 template that it fits.

The matching is the SDK's (levels 1 to 3, linear time); this module adds what a value may not be,
however it was encoded, and opens nothing. Importing the SDK takes two seconds, which a config
without templates does not pay: it is imported where the first template is parsed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.shared.uri_template import UriTemplate

MAX_URI_CHARS = 2048

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-Z\[\]_a-z~]+")
"""RFC 3986: a scheme, and then only characters that a URI may hold (and `%`)."""


def is_uri(text: str) -> bool:
    """Whether `text` can name a resource: absolute, ASCII, and not longer than we keep."""
    return len(text) <= MAX_URI_CHARS and _URI.fullmatch(text) is not None


def misfits_of_template(uri_template: str) -> list[str]:
    """What is wrong with a URI template, one line each; empty where nothing is."""
    try:
        parsed = _parsed(uri_template)
    except ValueError as error:
        return [str(error)]
    if not parsed.variable_names:
        return ["has no variable; a URI without one is a resource"]
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri_template):
        return ["has no scheme, as in notes://{title}"]
    return []


def variables_of(uri_template: str) -> list[str]:
    """Names of its variables, in their order."""
    return list(_parsed(uri_template).variable_names)


def variables_in(uri_template: str, uri: str) -> dict[str, str | list[str]] | None:
    """The decoded variables of `uri`, or None where it is no URI of this family.

    None also where a value climbs out of a directory, is an absolute path or holds a NUL, in
    whatever encoding: a template whose text becomes part of a path must not be led astray by it.
    Variables of a query that are absent are empty.
    """
    if not is_uri(uri):
        return None
    template = _parsed(uri_template)
    found = template.match(uri, max_uri_length=MAX_URI_CHARS)
    if found is None or any(_is_trick(value) for value in found.values()):
        return None
    return {name: found.get(name, "") for name in template.variable_names}


def _is_trick(value: Any) -> bool:
    from mcp.shared.path_security import contains_path_traversal, is_absolute_path

    values = value if isinstance(value, list) else [value]
    return any("\0" in v or contains_path_traversal(v) or is_absolute_path(v) for v in values)


@lru_cache(maxsize=1024)
def _parsed(uri_template: str) -> UriTemplate:
    from mcp.shared.uri_template import UriTemplate

    return UriTemplate.parse(uri_template)
