"""What every config model is made from: its base, its numbers, and what is said of what misfits.

Pydantic's own messages repeat the offending value, which may be a secret, and know no neighbours
of an unknown key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

CUTOFF = 0.6
"""Likeness from which on a key may have been meant by another."""


class ConfigModel(BaseModel):
    """Base of every config model: a misspelt key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError(
            "number_needed",
            "a number is needed, not true or false (which yes, no, on and off are in YAML)",
        )
    return value


NUMBER = BeforeValidator(_no_truth)
"""For every number of a config: Python, and so pydantic, takes True for 1. Text is taken, because a
value from the environment is text."""

NOT_A_KEY = "not a key"
"""Marks a field that the loader sets, and a file does not."""

PositiveInt = Annotated[int, Field(gt=0), NUMBER]
NonNegativeInt = Annotated[int, Field(ge=0), NUMBER]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]


def did_you_mean(key: str, valid: Iterable[str]) -> str:
    """The end of a line about a key that is unknown: the nearest valid one, or nothing."""
    near = difflib.get_close_matches(key, valid, n=1, cutoff=CUTOFF)
    return f"; did you mean {near[0]}?" if near else ""


def misfits(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each misfit: `path.to.key: what is wrong`, with the nearest valid key."""
    lines = []
    for misfit in error.errors(include_url=False, include_input=False, include_context=False):
        location = [str(part) for part in misfit["loc"] if part != "[key]"]
        path = ".".join(location)
        why = misfit["msg"].removeprefix("Value error, ")
        if misfit["type"] == "extra_forbidden":
            why = f"unknown key{_advice(location, model)}"
        lines.append(f"{path}: {why}" if path else why)
    return lines


def _advice(location: list[str], model: type[BaseModel]) -> str:
    """What to write instead of the unknown key at `location`.

    A key of just this name is meant wherever it belongs; else the one that is most like it, here or
    in a mapping below.
    """
    *parents, key = location
    here = _model_at(model, parents)
    if here is None:
        return ""
    below = list(_paths(here))
    near = max(below, key=lambda path: _likeness(key, path))
    if near[-1] != key and (homes := [path[:-1] for path in _paths(model) if path[-1] == key]):
        return f"; it belongs {' or '.join(_home_in_words(home) for home in homes)}"
    if _likeness(key, near) >= CUTOFF:
        return f"; did you mean {'.'.join(near)}?"
    return f"; valid are {', '.join(sorted(path[0] for path in below if len(path) == 1))}"


def _likeness(key: str, path: tuple[str, ...]) -> float:
    """How like a key is to the last of a path, 0 to 1; what is deeper must be more like it."""
    return difflib.SequenceMatcher(None, key, path[-1]).ratio() - 0.02 * (len(path) - 1)


def _home_in_words(home: tuple[str, ...]) -> str:
    return f"under {'.'.join(home)}" if home else "at the top"


def _paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key under `model`; `NAME` and `N` stand for what the user chooses."""
    for key, field in model.model_fields.items():
        if NOT_A_KEY in field.metadata:
            continue
        yield (*above, key)
        nested, step = _nested(field.annotation)
        if nested is not None:
            yield from _paths(nested, (*above, key, *step))


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    """The model of the mapping at `location` under `model`; None where anything goes."""
    rest = list(location)
    while rest:
        field = model.model_fields.get(rest.pop(0))
        nested, step = _nested(field.annotation) if field else (None, ())
        if nested is None:
            return None
        model = nested
        del rest[: len(step)]
    return model


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, tuple[str, ...]]:
    """The model inside an annotation, and the step to it that the user chooses, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ()
    step = {dict: ("NAME",), list: ("N",)}.get(get_origin(annotation), ())
    for argument in get_args(annotation):
        nested, deeper = _nested(argument)
        if nested is not None:
            return nested, (*step, *deeper)
    return None, ()
