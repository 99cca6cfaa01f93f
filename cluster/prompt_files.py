"""Prompts as YAML files hold them.

One prompt, or a list of them, a file. The models here are the files' grammar, where an unknown key
is an error that names the nearest one; what they become is a `PromptSpec`, and what is wrong with
that in itself is for `prompts.py` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, StringConstraints, ValidationError, model_validator

from thornback.cluster.catalog import (
    AccessPolicy,
    PromptArgument,
    PromptAsk,
    PromptMessage,
    PromptSpec,
)
from thornback.cluster.config import read_yaml
from thornback.cluster.config_model import ConfigModel, misfits
from thornback.cluster.errors import ConfigError, shown
from thornback.cluster.prompts import Value, misfits_of_prompt

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ArgumentConfig(ConfigModel):
    name: Identifier
    description: str = ""
    required: bool = False
    type: Literal["string", "integer", "number", "boolean"] = "string"
    values: list[Value] = []
    """What completion offers, and all that is accepted."""
    default: Value | None = None


class AskConfig(ConfigModel):
    name: Identifier
    message: Annotated[str, StringConstraints(min_length=1)]
    form: dict[str, Any] = Field(alias="schema")
    """The `requestedSchema` of the elicitation."""


class MessageConfig(ConfigModel):
    role: Literal["user", "assistant"] = "user"
    text: str | None = None
    image: str | None = None
    """URI of a resource that is an image."""
    resource: str | None = None
    """URI of a resource to embed."""

    @model_validator(mode="after")
    def _one_content(self) -> MessageConfig:
        if sum(part is not None for part in (self.text, self.image, self.resource)) != 1:
            raise ValueError("give exactly one of text, image and resource")
        return self


class PromptConfig(ConfigModel):
    """One prompt as a file holds it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    version: str = "1.0.0"
    title: str | None = None
    description: Annotated[str, StringConstraints(min_length=1)]
    arguments: list[ArgumentConfig] = []
    asks: list[AskConfig] = []
    messages: Annotated[list[MessageConfig], Field(min_length=1)]
    principals: list[str] = ["*"]
    """Patterns of the principals that may use it; `tag:PATTERN` matches tags."""

    def spec(self) -> PromptSpec:
        return PromptSpec(
            name=self.name,
            version=self.version,
            title=self.title,
            description=self.description,
            arguments=tuple(
                PromptArgument(
                    name=argument.name,
                    description=argument.description,
                    required=argument.required,
                    type=argument.type,
                    values=tuple(_on_the_wire(value) for value in argument.values),
                    default=None if argument.default is None else _on_the_wire(argument.default),
                )
                for argument in self.arguments
            ),
            asks=tuple(
                PromptAsk(ask.name, ask.message, msgspec.Raw(msgspec.json.encode(ask.form)))
                for ask in self.asks
            ),
            messages=tuple(PromptMessage(**message.model_dump()) for message in self.messages),
            access=AccessPolicy(tuple(self.principals)),
        )


def load_prompts(paths: Iterable[Path]) -> list[PromptSpec]:
    """The prompts of YAML files, each of which holds one or a list of them; by name.

    Raises:
        ConfigError: with a line for everything that is wrong, naming file, prompt and key.
    """
    found: dict[str, tuple[Path, PromptSpec]] = {}
    wrong: list[str] = []
    for path in paths:
        try:
            document = read_yaml(path)
        except ConfigError as error:
            wrong.append(str(error))
            continue
        for number, entry in enumerate(document if isinstance(document, list) else [document], 1):
            where = f"{path.name}: {_name_of(entry) or f'prompt {number}'}"
            try:
                spec = PromptConfig.model_validate(entry).spec()
            except ValidationError as error:
                wrong += [f"{where}: {line}" for line in misfits(error, PromptConfig)]
                continue
            wrong += [f"{where}: {line}" for line in misfits_of_prompt(spec)]
            if spec.name in found:
                wrong.append(f"{where}: is in {found[spec.name][0].name} already")
            found[spec.name] = path, spec
    if wrong:
        raise ConfigError("\n".join(wrong))
    return [found[name][1] for name in sorted(found)]


def _name_of(entry: Any) -> str | None:
    name = entry.get("name") if isinstance(entry, dict) else None
    return shown(name) if isinstance(name, str) else None


def _on_the_wire(value: Value) -> str:
    """A YAML scalar as a client would send it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
