"""What a person or a model reads when data does not fit its JSON Schema.

Each misfit is one line: where, what was expected, what was given, and the nearest valid name where
a name is wrong. A value is repeated, shortened, because it goes back to the caller who sent it.
Who the caller is and what happens to the call is not known here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import jsonschema_rs
from jsonschema_rs import ValidationError
from jsonschema_rs import ValidationErrorKind as Kind

from thornback.cluster.errors import shown

MAX_MISFITS = 10
MAX_UNKNOWN = 5
"""Unknown properties of one object that are named."""
MAX_EXPLAINED_VALUES = 5000
"""Values of a document whose misfits are all found: each may be one, and making one takes 30 us,
for which the event loop waits."""
MAX_LINE_CHARS = 300
MAX_VALUE_CHARS = 60
MAX_NAME_CHARS = 128
"""A longer word is nobody's misspelling, and comparing it takes the square of its length."""
MAX_NEAREST = 1000
"""Names compared with one word, at most: some 20 ms, and the event loop waits for them."""
MAX_BACKTRACKS = 100_000
"""Steps that one `pattern` may take, so that no argument can hold the gateway."""


class SchemaCheck:
    """A compiled JSON Schema 2020-12. Compiling takes milliseconds; checking, microseconds."""

    def __init__(self, schema: Any, validator: jsonschema_rs.Validator) -> None:
        self._schema = schema
        self._validator = validator
        self._has_branches = _mentions(schema, ("anyOf", "oneOf"))

    @classmethod
    def compile(cls, schema: bytes) -> SchemaCheck:
        """
        Raises:
            ValueError: if `schema` is not JSON, not a schema, or refers to a document outside
                itself: nothing is ever fetched.
        """
        try:
            document = json.loads(schema)
            validator = jsonschema_rs.Draft202012Validator(
                document,
                offline=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_BACKTRACKS),
            )
        except jsonschema_rs.ValidationError as error:
            where = f"{_path(error)}: " if error.instance_path else ""
            raise ValueError(f"not a JSON Schema: {where}{shown(error.message, 200)}") from error
        return cls(document, validator)

    def misfits(self, value: Any) -> list[str]:
        """Why `value` (decoded JSON) does not fit; empty if it does.

        At most `MAX_MISFITS` lines of `MAX_LINE_CHARS` characters, and one more that says how many
        were left out. Of a large value only the first is looked for, if that is cheap.
        """
        if self._validator.is_valid(value):
            return []
        if _is_large(value):
            return self._first_misfit(value)
        errors = self._validator.iter_errors(value)
        lines = list(islice(self._lines(errors), MAX_MISFITS))
        left_out = sum(1 for _ in islice(errors, 1000))
        if left_out:
            lines.append(f"and {'at least ' if left_out == 1000 else ''}{left_out} more")
        return lines

    def arguments(self, given: Any) -> tuple[Any, list[str]]:
        """The arguments of a call as its tool gets them, and why they do not fit; [] if they do.

        Providers' strict modes make every parameter required and have the model write null for one
        that it leaves out; where that is all that does not fit, it is read as left out.
        """
        misfits = self.misfits(given)
        if misfits and isinstance(given, dict):
            rest = {name: value for name, value in given.items() if value is not None}
            if len(rest) < len(given) and not self.misfits(rest):
                return rest, []
        return given, misfits

    def _first_misfit(self, value: Any) -> list[str]:
        if not self._has_branches:  # a branch that fails brings along every misfit below it
            try:
                self._validator.validate(value)
            except ValidationError as error:
                return [*self._lines(iter([error])), "it is too large to look for more"]
        return ["(top): something in it does not fit, and it is too large to say what"]

    def _lines(self, errors: Iterator[ValidationError]) -> Iterator[str]:
        for error in errors:
            yield shown(f"{_path(error)}: {self._why(error)}", MAX_LINE_CHARS)

    def _why(self, error: ValidationError) -> str:
        match error.kind:
            case Kind.AdditionalProperties(unexpected) | Kind.UnevaluatedProperties(unexpected):
                return self._unknown_properties(error, unexpected)
            case Kind.Required(name):
                return _missing_property(error, name)
            case Kind.AnyOf(branches) | Kind.OneOfNotValid(branches):
                return f"expected {_either(branches)}, given {_given(error.instance)}"
            case _:
                return f"expected {_expected(error)}, given {_given(error.instance)}"

    def _unknown_properties(self, error: ValidationError, unexpected: list[str]) -> str:
        known = self._properties_beside(error.schema_path)
        clauses = []
        for name in unexpected[:MAX_UNKNOWN]:
            near = nearest(name, known)
            clauses.append(
                f'unknown property "{shown(name)}"' + (f'; did you mean "{near}"?' if near else "")
            )
        if known and not any("did you mean" in clause for clause in clauses):
            clauses.append(f"expected {_any_of(known)}")
        return "; ".join(clauses)

    def _properties_beside(self, keyword_path: Sequence[str | int]) -> list[str]:
        """Names under `properties` in the schema that holds the keyword at `keyword_path`."""
        node = self._schema
        for step in keyword_path[:-1]:
            try:
                node = node[step]
            except (KeyError, IndexError, TypeError):  # the path went through a `$ref`
                return []
        properties = node.get("properties") if isinstance(node, dict) else None
        return list(properties) if isinstance(properties, dict) else []


def _is_large(value: Any) -> bool:
    """Whether there are more than `MAX_EXPLAINED_VALUES` values in it."""
    waiting, count = [value], 0
    while waiting and count <= MAX_EXPLAINED_VALUES:
        node = waiting.pop()
        if isinstance(node, (dict, list)):
            count += len(node)
            waiting += node.values() if isinstance(node, dict) else node
    return count > MAX_EXPLAINED_VALUES


def _mentions(schema: Any, keywords: Sequence[str]) -> bool:
    text = json.dumps(schema)
    return any(f'"{keyword}"' in text for keyword in keywords)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` most likely meant, or None."""
    if len(word) > MAX_NAME_CHARS:
        return None
    candidates = (name for name in known if abs(len(name) - len(word)) <= max(4, len(word) // 2))
    found = difflib.get_close_matches(word, list(islice(candidates, MAX_NEAREST)), n=1, cutoff=0.6)
    return found[0] if found else None


def _path(error: ValidationError) -> str:
    """Where: `filters[2].column`; the whole value is `(top)`."""
    path = ""
    for step in error.instance_path:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return shown(path.removeprefix(".")) or "(top)"


def _missing_property(error: ValidationError, name: str) -> str:
    near = nearest(name, error.instance if isinstance(error.instance, dict) else ())
    return f'required property "{name}" is missing' + (
        f'; did you mean it by "{shown(near)}"?' if near else ""
    )


def _expected(error: ValidationError) -> str:
    """What the keyword that failed asks for, in words."""
    say = _EXPECTED.get(type(error.kind))
    if say is None:
        return f"what {error.kind.name} allows ({shown(error.message, 120)})"
    return say(error.kind)


_EXPECTED: dict[type[Any], Callable[[Any], str]] = {
    Kind.Type: lambda kind: " or ".join(kind.types),
    Kind.Enum: lambda kind: _any_of(kind.options),
    Kind.Constant: lambda kind: _json(kind.expected_value),
    Kind.Minimum: lambda kind: f"at least {kind.limit}",
    Kind.Maximum: lambda kind: f"at most {kind.limit}",
    Kind.ExclusiveMinimum: lambda kind: f"more than {kind.limit}",
    Kind.ExclusiveMaximum: lambda kind: f"less than {kind.limit}",
    Kind.MultipleOf: lambda kind: f"a multiple of {kind.multiple_of}",
    Kind.MinLength: lambda kind: f"at least {kind.limit} characters",
    Kind.MaxLength: lambda kind: f"at most {kind.limit} characters",
    Kind.MinItems: lambda kind: f"at least {kind.limit} items",
    Kind.MaxItems: lambda kind: f"at most {kind.limit} items",
    Kind.MinProperties: lambda kind: f"at least {kind.limit} properties",
    Kind.MaxProperties: lambda kind: f"at most {kind.limit} properties",
    Kind.UniqueItems: lambda kind: "items that all differ",
    Kind.Pattern: lambda kind: f"text that matches {shown(kind.pattern)}",
    Kind.Format: lambda kind: f"text in the format {kind.format}",
    Kind.FalseSchema: lambda kind: "nothing here",
    Kind.OneOfMultipleValid: lambda kind: "a value that fits exactly one alternative",
    Kind.Not: lambda kind: "a value that the schema does not exclude",
    Kind.PropertyNames: lambda kind: f"property names with {shown(kind.error.message)}",
    Kind.BacktrackLimitExceeded: lambda kind: "text that its pattern can be tried on in time",
}


def _either(branches: list[list[ValidationError]]) -> str:
    """What each branch of `anyOf` or `oneOf` missed first, without saying a thing twice."""
    wishes = [_expected(errors[0]) for errors in branches if errors]
    return " or ".join(dict.fromkeys(wishes[:MAX_MISFITS])) or "another value"


def _any_of(options: Sequence[Any]) -> str:
    listed = ", ".join(_json(option) for option in options[:MAX_MISFITS])
    more = len(options) - MAX_MISFITS
    return f"one of {listed}" + (f" and {more} more" if more > 0 else "")


def _given(value: Any) -> str:
    """A value and its JSON type; of a large one the type and size alone."""
    if isinstance(value, dict):
        return f"object with {len(value)} properties"
    if isinstance(value, list):
        return f"array of {len(value)} items"
    if value is None or isinstance(value, bool):
        return _json(value)
    kind = "string" if isinstance(value, str) else "number"
    return f"{_json(value)} ({kind})"


def _json(value: Any) -> str:
    if isinstance(value, str):
        value = value[:MAX_VALUE_CHARS]
    return shown(json.dumps(value, ensure_ascii=False, default=str), MAX_VALUE_CHARS)
