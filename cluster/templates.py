"""Text templates: Jinja2 in a sandbox that also bounds what a template may cost.

Used by prompts and by resource templates. The text of a template is the operator's; the values are
a caller's, and are only ever values: nothing here compiles what a caller sent. Which variables
there are, and what they mean, is known to `prompts.py` and `uri_templates.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import msgspec
from jinja2 import meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thornback.cluster.errors import InvalidParams

MAX_RENDERED_CHARS = 1_000_000
"""Longest text that one template makes."""
MAX_STEPS = 20_000
"""Items that all `range`s of one rendering yield together."""

# Each of these makes an output of any size out of one number.
_UNBOUNDED_FILTERS = ("batch", "center", "format", "indent", "slice", "wordwrap")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without the operators and filters that make much out of little."""

    # `"x" * 10**9`, `10 ** 10**9` and `"%999999999d" % 1`.
    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        sides = (left, right)
        if operator == "**" or not all(isinstance(side, int | float) for side in sides):
            raise SecurityError(f"{operator} is for numbers in templates, and ** for nothing")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        padding = {"center", "ljust", "rjust", "zfill", "expandtabs"}
        if isinstance(obj, str | bytes) and attr in padding:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Any:
        # Jinja's own wrapper guards attributes, not the width in `"{:>999999999}".format(1)`.
        if super().wrap_str_format(value) is not None:
            raise SecurityError("format is not for templates")
        return None


def _as_json(value: Any) -> str:
    """The filter `json`: a value as JSON, unlike `tojson` without escapes for HTML."""
    return msgspec.json.encode(value).decode()


def _as_text(value: Any) -> Any:
    return "" if value is None else value


def _sandbox() -> _Sandbox:
    sandbox = _Sandbox(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=_as_text,
        keep_trailing_newline=True,
        cache_size=0,
    )
    for name in _UNBOUNDED_FILTERS:
        del sandbox.filters[name]
    sandbox.filters["json"] = _as_json
    sandbox.globals = {}  # no `lipsum`, `cycler`, `joiner` or `namespace`
    return sandbox


_SANDBOX = _sandbox()
_GLOBALS = frozenset(["range"])


def misfits_of_text(source: str, variables: Collection[str]) -> list[str]:
    """What is wrong with a template, one line each; empty where nothing is.

    Args:
        source: The template.
        variables: Names that it will be given.
    """
    try:
        tree = _SANDBOX.parse(source)
        _SANDBOX.compile(tree)
    except jinja2.TemplateSyntaxError as error:
        return [f"line {error.lineno}: {error.message}"]
    unknown = meta.find_undeclared_variables(tree) - set(variables) - _GLOBALS
    have = ", ".join(sorted(variables)) or "none"
    return [f"uses {name}, which is no variable of it; it has {have}" for name in sorted(unknown)]


def render_text(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes.

    Raises:
        InvalidParams: if it would be longer than `MAX_RENDERED_CHARS`, or loop too long.
        jinja2.TemplateError: if the template is wrong about its variables; a bug of the template.
    """
    pieces: list[str] = []
    left = MAX_RENDERED_CHARS
    for piece in _compiled(source).generate(**variables, range=_Steps(MAX_STEPS)):
        left -= len(piece)
        if left < 0:
            raise InvalidParams(f"this would make a text of over {MAX_RENDERED_CHARS} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=512)
def _compiled(source: str) -> jinja2.Template:
    return _SANDBOX.from_string(source)


class _Steps:
    """The `range` of one rendering: all loops over it, nested ones too, share one budget."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def __call__(self, *bounds: int) -> Iterator[int]:
        for number in range(*bounds):
            self._left -= 1
            if self._left < 0:
                raise InvalidParams(f"this would take over {MAX_STEPS} steps")
            yield number
