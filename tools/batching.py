"""Batch tools: written for lists, called with one value each.

`@tool(batch=Batch(...))` marks a function whose every parameter is a list with one element for each
call of the batch, in the same order, and that returns such a list. What is published is the
signature of ONE call: `text: list[str]` is a parameter `text` of type string. Here is what leads
from the one to the other; collecting calls is the host's, running them `runner.py`'s.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Union

from thornback.tools.schemas import members


class BatchBroken(Exception):
    """One invocation for several calls failed as a whole; nobody can say because of which."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def item_signature(signature: inspect.Signature) -> inspect.Signature:
    """The signature of one call, from that of a function that takes lists of them.

    A result may be an exception in place of a value; those types are left out.

    Raises:
        TypeError: if a parameter or the result is not such a list; says what to write.
    """
    parameters = [_item_parameter(parameter) for parameter in signature.parameters.values()]
    if not parameters:
        raise TypeError("it takes no parameter: a batch tool could not tell how many calls it runs")
    returned = signature.return_annotation
    if returned not in (signature.empty, Any):
        item = _element(returned)
        if item is None:
            raise TypeError(
                f"it returns {_name(returned)}: a batch tool returns list[...], with one result "
                "for each call"
            )
        returned = _without_failures(item)
    return signature.replace(parameters=parameters, return_annotation=returned)


def columns_of(calls: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list for each parameter, from each call's arguments by name."""
    return {name: [call[name] for call in calls] for name in calls[0]}


def results_of(returned: Any, calls: int) -> list[Any]:
    """Each call's result, in order; an exception among them is that call's failure.

    Raises:
        TypeError: if it is not one result for each call. Arrays count by their first axis.
    """
    if isinstance(returned, (str, bytes, Mapping)) or not hasattr(returned, "__len__"):
        raise TypeError(f"a batch tool returns a list, not {type(returned).__name__}")
    if len(returned) != calls:
        raise TypeError(f"it returned {len(returned)} results for {calls} calls")
    return list(returned)


def _item_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    name, annotation = parameter.name, parameter.annotation
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"parameter {parameter} cannot be given by name: make it a plain one")
    if annotation is parameter.empty:
        raise TypeError(f"parameter {name} has no type: annotate it list[...]")
    item = _element(annotation)
    if item is None:
        raise TypeError(
            f"parameter {name} is {_name(annotation)}: in a batch tool it holds the values of all "
            "calls; annotate it list[...] (descriptions, bounds and defaults go inside, as in "
            'list[Annotated[str, Field(default="en")]])'
        )
    if parameter.default is not parameter.empty:
        raise TypeError(
            f"parameter {name} has a default, which would be one for all calls; write that of one "
            f"call in its type: {name}: list[Annotated[..., Field(default=...)]]"
        )
    return parameter.replace(annotation=item)


def _element(annotation: Any) -> Any:
    """T of `list[T]` and `Sequence[T]`; None for anything else."""
    if typing.get_origin(annotation) not in (list, Sequence):
        return None
    (element,) = typing.get_args(annotation)
    return element


def _without_failures(annotation: Any) -> Any:
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    kept = tuple(m for m in typing.get_args(annotation) if not _is_failure(m))
    return Union[kept] if kept else Any  # noqa: UP007 (made at run time)


def _is_failure(annotation: Any) -> bool:
    return all(inspect.isclass(m) and issubclass(m, BaseException) for m in members(annotation))


def _name(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)
