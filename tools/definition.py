"""`@tool`: from a typed Python function to something MCP can list and a host can run.

Types make the schemas, the docstring the description, and the decorator says what only the author
knows. What is decorated stays what it was, so that a unit test calls it as the plain function or
class it is. Running it is `runner.py`.
"""

from __future__ import annotations

import inspect
import re
import threading
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast, overload

import msgspec
import semver
from pydantic import PydanticUserError

from thornback.cluster.catalog import (
    AccessPolicy,
    Annotations,
    Batch,
    CallPolicy,
    ToolSpec,
    content_hash_of,
)
from thornback.tools.batching import item_signature
from thornback.tools.context import ToolContext
from thornback.tools.docstrings import read_docstrings
from thornback.tools.results import is_content
from thornback.tools.schemas import (
    X_MCP_HEADER,
    Arguments,
    Returns,
    arguments_of,
    members,
    published,
    returns_of,
    written_problems,
    written_schema,
)

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["plain", "async", "generator", "async generator"]
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What every model provider accepts as the name of a tool."""
_MARK = "__thornback_tool__"


class DefinitionError(TypeError):
    """What was decorated cannot be a tool. The text is about code, and safe to show to anybody."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tool:
    """A declared tool: what the catalog says about it, and what runs it."""

    name: str
    version: str
    title: str | None
    description: str
    input_schema: bytes
    """As published, byte for byte."""
    output_schema: bytes | None
    """As published; None where results are content or of unknown type."""
    annotations: Annotations
    timeout_s: float | None
    """What the author thinks a call may take; None leaves it to the config."""
    batch: Batch | None
    """For a batch tool, how its author would collect calls; None: it takes one call at a time."""
    access: AccessPolicy
    owner: str | None
    tags: tuple[str, ...]
    visibility: Literal["listed", "unlisted"]
    stated: tuple[str, ...]
    """As in `ToolSpec`."""
    signature: str
    module: str
    target: Callable[..., Any]
    """What was decorated: a function, or a class with `__call__`."""
    kind: Kind
    context_parameter: str | None
    """Name of the parameter of type `ToolContext`."""
    arguments: Arguments
    returns: Returns
    items: Returns | None
    """For generators: what one item is."""
    returns_items: bool
    """Whether the result is the list of all items, and not what the generator returns."""
    problems: tuple[str, ...]
    _instance: list[Callable[..., Any]] = field(default_factory=list, repr=False)
    _instance_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def is_warm(self) -> bool:
        """Whether `warm` has nothing left to do."""
        return bool(self._instance) or not inspect.isclass(self.target)

    def warm(self) -> Callable[..., Any]:
        """What to call: the function, or this process's one instance of the class.

        The first time, a class is instantiated, which may take long and raise anything. Called by
        several threads at once, all get the same instance.
        """
        if not inspect.isclass(self.target):
            return self.target
        with self._instance_lock:
            if not self._instance:
                self._instance.append(cast(Callable[..., Any], self.target()))
            return self._instance[0]

    def close(self) -> None:
        """Close this process's instance of the class, if there is one and it has `close`."""
        with self._instance_lock:
            for instance in self._instance:
                if callable(close := getattr(instance, "close", None)):
                    close()
            self._instance.clear()

    def spec(self, pool: str) -> ToolSpec:
        """The catalog entry of this tool in a pool."""
        output = None if self.output_schema is None else msgspec.Raw(self.output_schema)
        spec = ToolSpec(
            name=self.name,
            version=self.version,
            description=self.description,
            title=self.title,
            signature=self.signature,
            module=self.module,
            input_schema=msgspec.Raw(self.input_schema),
            output_schema=output,
            annotations=self.annotations,
            access=self.access,
            call=CallPolicy() if self.timeout_s is None else CallPolicy(timeout_s=self.timeout_s),
            batch=self.batch,
            pool=pool,
            owner=self.owner,
            tags=self.tags,
            visibility=self.visibility,
            stated=self.stated,
        )
        return msgspec.structs.replace(spec, content_hash=content_hash_of(spec))


@overload
def tool(target: F, /) -> F: ...


@overload
def tool(
    *,
    name: str | None = None,
    version: str = "1.0.0",
    title: str | None = None,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
    timeout_s: float | None = None,
    batch: Batch | None = None,
    input_schema: str | Mapping[str, Any] | None = None,
    output_schema: str | Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    owner: str | None = None,
    visibility: Literal["listed", "unlisted"] | None = None,
    principals: Sequence[str] | None = None,
) -> Callable[[F], F]: ...


def tool(
    target: F | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    title: str | None = None,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
    open_world: bool | None = None,
    timeout_s: float | None = None,
    batch: Batch | None = None,
    input_schema: str | Mapping[str, Any] | None = None,
    output_schema: str | Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    owner: str | None = None,
    visibility: Literal["listed", "unlisted"] | None = None,
    principals: Sequence[str] | None = None,
) -> F | Callable[[F], F]:
    """Declare a function, generator or class with `__call__` to be a tool.

    The docstring is the description that the model chooses by; its `Args` section (or
    `Annotated[..., Field(description=...)]`) describes the parameters; annotations make the
    schemas. A class is made once a replica, without arguments, and keeps its state between calls,
    which may overlap. What is decorated is returned unchanged.

    Args:
        name: Name in the catalog; None: the function's, or a class's in snake_case.
        version: Semantic version. Versions of one tool live in different pools.
        title: Name for people.
        read_only: Whether calls change nothing.
        destructive: Whether calls may destroy something.
        idempotent: Whether a call may be repeated without further effect: then it is retried when
            its replica dies.
        open_world: Whether calls reach beyond the cluster.
        timeout_s: Seconds a call may take; None: what the config's `defaults` say, else 30.
        batch: One invocation runs many calls, from any callers: each parameter is a list with one
            element a call, and so is what is returned. The schemas are those of one call.
        input_schema: JSON Schema written by hand; text is published byte for byte.
        output_schema: The same for results, which then must be objects.
        tags: Free words for lists and searches.
        owner: Who answers for it.
        visibility: None: listed. An unlisted tool is called by those who know its name.
        principals: Shell patterns of who may use it; `tag:PATTERN` matches tags. None: everybody.

    Raises:
        DefinitionError: if it cannot be a tool; the message says what to change.
    """

    settings = {
        "title": title,
        "read_only": read_only,
        "destructive": destructive,
        "idempotent": idempotent,
        "open_world": open_world,
        "timeout_s": timeout_s,
        "tags": tags,
        "owner": owner,
        "visibility": visibility,
        "principals": principals,
    }

    def declare(target: F) -> F:
        label = getattr(target, "__name__", type(target).__name__)
        try:
            declared = _declared(
                target,
                name=name,
                version=version,
                title=title,
                annotations=Annotations(read_only, destructive, idempotent, open_world),
                timeout_s=timeout_s,
                batch=batch,
                input_schema=input_schema,
                output_schema=output_schema,
                tags=tuple(tags or ()),
                owner=owner,
                visibility=visibility or "listed",
                access=AccessPolicy() if principals is None else AccessPolicy(tuple(principals)),
                stated=tuple(key for key, value in settings.items() if value is not None),
            )
        except (TypeError, PydanticUserError) as error:  # pydantic's: a type without a schema
            why = str(error).partition("\n\nFor further information")[0]
            raise DefinitionError(f"tool {label}: {why}") from error
        setattr(target, _MARK, declared)
        return target

    return declare if target is None else declare(target)


def tool_of(target: object) -> Tool:
    """The tool that a decorated function or class is.

    Raises:
        TypeError: if it is not decorated.
    """
    declared = getattr(target, _MARK, None)
    if not isinstance(declared, Tool) or declared.target is not target:  # not: a subclass
        raise TypeError(f"{target!r} is not a tool: decorate it with @tool")
    return declared


def tools_of(module: types.ModuleType) -> list[Tool]:
    """Every tool of a module, by name: what it declares, and what its `__all__` names.

    What it merely imports from elsewhere is not its own, unless from a module below it.

    Raises:
        DefinitionError: if two of them have the same name and version.
    """
    found: dict[tuple[str, str], Tool] = {}
    exported = set(getattr(module, "__all__", ()))
    for name, value in vars(module).items():
        declared = getattr(value, _MARK, None)
        if not isinstance(declared, Tool) or declared.target is not value:
            continue
        own = f"{declared.module}.".startswith(f"{module.__name__}.")
        if not own and name not in exported:
            continue
        other = found.setdefault((declared.name, declared.version), declared)
        if other is not declared:
            raise DefinitionError(
                f"{module.__name__} has two tools {declared.name} {declared.version}: "
                f"{other.target.__qualname__} and {declared.target.__qualname__}"
            )
    return [found[key] for key in sorted(found)]


def problems(tool: Tool) -> list[str]:
    """What works and could be better for the models that will read it; one line each."""
    return [f"{tool.name}: {problem}" for problem in tool.problems]


def _declared(
    target: Callable[..., Any],
    *,
    name: str | None,
    version: str,
    timeout_s: float | None,
    batch: Batch | None,
    input_schema: str | Mapping[str, Any] | None,
    output_schema: str | Mapping[str, Any] | None,
    **facts: Any,
) -> Tool:
    function = _function_of(target)
    name = name or _name_of(target)
    if not NAME.fullmatch(name):
        raise TypeError(f"the name {name!r} is not 1 to 64 of a-z, A-Z, 0-9, _ and -")
    if not semver.Version.is_valid(version):
        raise TypeError(f"the version {version!r} is not a semantic version such as 1.0.0")
    if timeout_s is not None and not 0 < timeout_s < float("inf"):
        raise TypeError(f"timeout_s is {timeout_s} and must be positive")
    signature = _signature_of(function, is_method=inspect.isclass(target))
    kind = _kind_of(function)
    if batch is not None:
        if kind not in ("plain", "async"):
            raise TypeError("a generator cannot be a batch tool: return a list")
        signature = item_signature(signature)
    context = _context_parameter(signature)
    docstrings = [target.__doc__, function.__doc__] if inspect.isclass(target) else [target.__doc__]
    description, documented = read_docstrings(docstrings)
    arguments = arguments_of(signature, context, open_ended=input_schema is not None)
    if input_schema is None:
        document, found = arguments.schema(documented)
        published_input = published(document)
    else:
        published_input = written_schema(input_schema, "input_schema")
        found = written_problems(msgspec.json.decode(published_input))
    _check_headers(published_input)
    returns, items = _returns(kind, signature.return_annotation)
    if output_schema is not None:
        returns = Returns(None, written_schema(output_schema, "output_schema"), wraps=False)
    return Tool(
        name=name,
        version=version,
        description=description,
        input_schema=published_input,
        output_schema=returns.schema,
        timeout_s=timeout_s,
        batch=batch,
        signature=f"{name}{_shown(signature, context)}",
        module=target.__module__,
        target=target,
        kind=kind,
        context_parameter=context,
        arguments=arguments,
        returns=returns,
        items=items,
        returns_items=items is not None and not _has_result(signature.return_annotation),
        problems=tuple(found),
        **facts,
    )


def _name_of(target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", "")
    if inspect.isclass(target):
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return name


def _function_of(target: Callable[..., Any]) -> Callable[..., Any]:
    """The function that takes the arguments: the target, or the `__call__` of a class."""
    if inspect.isfunction(target):
        return target
    if not inspect.isclass(target):
        raise TypeError(f"a {type(target).__name__} cannot be a tool: decorate a function or class")
    call = inspect.getattr_static(target, "__call__", None)
    if not inspect.isfunction(call):
        raise TypeError("the class has no method __call__")
    for parameter in inspect.signature(target).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise TypeError(f"__init__ needs {parameter.name}: it is called without arguments")
    return call


def _signature_of(function: Callable[..., Any], is_method: bool) -> inspect.Signature:
    """The signature with evaluated annotations, without `self`."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise TypeError(
            f"an annotation names {error.name}, which the module does not have at run time: "
            "import it outside of TYPE_CHECKING, and define it at the top of the module"
        ) from error
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[1:] if is_method else parameters)


def _context_parameter(signature: inspect.Signature) -> str | None:
    names = [
        name
        for name, parameter in signature.parameters.items()
        if any(
            inspect.isclass(m) and issubclass(m, ToolContext) for m in members(parameter.annotation)
        )
    ]
    if len(names) > 1:
        raise TypeError(f"{' and '.join(names)} are both the ToolContext")
    return names[0] if names else None


def _check_headers(schema: bytes) -> None:
    if X_MCP_HEADER.encode() not in schema:
        return
    # Importing the SDK takes seconds; few tools need it.
    from mcp.shared.inbound import find_invalid_x_mcp_header

    if reason := find_invalid_x_mcp_header(msgspec.json.decode(schema)):
        raise TypeError(reason)


def _kind_of(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.iscoroutinefunction(function):
        return "async"
    return "generator" if inspect.isgeneratorfunction(function) else "plain"


_ITERATORS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)


def _returns(kind: Kind, annotation: Any) -> tuple[Returns, Returns | None]:
    """What the tool returns, and for generators what an item is."""
    if kind in ("plain", "async"):
        return _value_returns(annotation), None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) not in _ITERATORS:
        arguments = ()
    item = arguments[0] if arguments else Any
    if _has_result(annotation):
        return _value_returns(arguments[2]), _value_returns(item)
    if item is Any or is_content(item):
        return _value_returns(Any), _value_returns(item)
    return _value_returns(types.GenericAlias(list, (item,))), _value_returns(item)


def _has_result(annotation: Any) -> bool:
    """Whether a generator says what it returns: `Generator[Yield, Send, Return]`."""
    arguments = typing.get_args(annotation)
    is_generator = typing.get_origin(annotation) is Generator and len(arguments) == 3
    return is_generator and arguments[2] not in (None, type(None))


def _value_returns(annotation: Any) -> Returns:
    return returns_of(Any if is_content(annotation) else annotation)


def _shown(signature: inspect.Signature, context: str | None) -> str:
    """The signature for people, without what is injected."""
    visible = [
        parameter.replace(annotation=_bare(parameter.annotation))
        for name, parameter in signature.parameters.items()
        if name != context
    ]
    returned = _bare(signature.return_annotation)
    return str(signature.replace(parameters=visible, return_annotation=returned))


def _bare(annotation: Any) -> Any:
    annotated = typing.get_origin(annotation) is Annotated
    return typing.get_args(annotation)[0] if annotated else annotation
