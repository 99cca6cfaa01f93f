"""`thornback tools` and `thornback call`: what an agent sees, from the command line."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thornback.cluster.errors import UnknownTool
from thornback.deployments.cli_arguments import arguments_of
from thornback.deployments.cli_output import (
    EXIT_SAID_NO,
    JsonOption,
    ProgressLine,
    hint,
    print_json,
    print_table,
    writing,
)
from thornback.deployments.cli_target import KeyFileOption, NameOption, UrlOption, key_of, url_of

if TYPE_CHECKING:
    from thornback.deployments.mcp_client import McpClient


def open_client(
    url: str | None, name: str | None, key_file: Path | None, revision: str | None = None
) -> McpClient:
    """
    Args:
        revision: None: the newest.
    """
    # Not at the top: it brings httpx, which `thornback --help` can do without.
    from thornback.deployments.mcp_client import PROTOCOL_VERSION, McpClient

    return McpClient(url_of(url, name), key_of(key_file), revision=revision or PROTOCOL_VERSION)


def tools(
    tool: Annotated[str | None, typer.Argument(help="Show this tool with its parameters.")] = None,
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tools that you may use, or show one with its parameters.

    Example: thornback tools sql_query
    """
    with open_client(url, name, key_file) as client:
        found = list(client.pages("tools/list", "tools"))
    if tool is not None:
        one = tool_named(tool, found)
        print_json(one) if as_json else _show_tool(one)
    elif as_json:
        print_json(found)
    else:
        rows = [(t["name"], str(t.get("title") or ""), _first_line(t)) for t in found]
        print_table(("tool", "title", "what it does"), rows)


def call(
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value for each argument (key=@FILE reads it from a file), one JSON object, "
            "or - for a JSON object on stdin.",
            metavar="JSON|-|key=value",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print partial results as they come.")
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="Seconds to wait, then cancel.")
    ] = None,
    save: Annotated[Path, typer.Option(help="Folder for images and audio.")] = Path("."),
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a tool and print what it answers; Ctrl-C cancels the call.

    Exits with 1 where the tool or the cluster says no.

    Example: thornback call sql_query sql="SELECT 42 AS answer"
    """
    with open_client(url, name, key_file) as client:
        params = {"name": tool, "arguments": _arguments(client, tool, arguments or [])}
        show_item = typer.echo if stream and not as_json else None
        with ProgressLine(tool, show_item) as line:
            result = client.request("tools/call", params, notify=line.notify, timeout_s=timeout_s)
    if as_json:
        print_json(result)
    else:
        _show_result(tool, result, save, text=not line.items_shown)
    if result.get("isError"):
        raise typer.Exit(EXIT_SAID_NO)


def tool_named(tool: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of `tool` in a list of tools.

    Raises:
        UnknownTool: with the nearest name.
    """
    import difflib

    by_name: dict[str, dict[str, Any]] = {t["name"]: t for t in found}
    if tool in by_name:
        return by_name[tool]
    near = difflib.get_close_matches(tool, by_name, n=1, cutoff=0.5)
    raise UnknownTool(tool, f"did you mean {near[0]}?" if near else "`thornback tools` lists them")


def _arguments(client: McpClient, tool: str, words: list[str]) -> dict[str, Any]:
    if not words:
        return {}
    if words == ["-"] or (len(words) == 1 and words[0].lstrip().startswith("{")):
        return _json_object(sys.stdin.read() if words == ["-"] else words[0])
    try:
        found = arguments_of(words, _schema_of(client, tool), _read_text)
        json.dumps(found, allow_nan=False)
        return found
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(str(error), param_hint="arguments") from error


def _schema_of(client: McpClient, tool: str) -> dict[str, Any]:
    """The input schema of `tool`; `{}` where the list does not have it.

    What is not listed may still be called, and why it is gone is for the cluster to say.
    """
    listed = client.pages("tools/list", "tools")
    return next((entry["inputSchema"] for entry in listed if entry["name"] == tool), {})


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # Python reads NaN and Infinity; JSON has neither
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="arguments") from error
    if not isinstance(value, dict):
        raise typer.BadParameter("the arguments are one JSON object", param_hint="arguments")
    return value


def _read_text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text") from error


def _show_tool(entry: dict[str, Any]) -> None:
    typer.echo(entry["name"] + (f"  ({entry['title']})" if entry.get("title") else ""))
    typer.echo(f"\n{entry.get('description', '').strip()}\n")
    schema = entry["inputSchema"]
    required = schema.get("required", [])
    rows = [
        (key, _type_name(one), "required" if key in required else _default(one), _about(one))
        for key, one in schema.get("properties", {}).items()
    ]
    if rows:
        print_table(("parameter", "type", "", "what it is"), rows)
    words = " ".join(f"{key}=…" for key in schema.get("properties", {}) if key in required)
    typer.echo(f"\nthornback call {entry['name']} {words}".rstrip())


def _show_result(tool: str, result: dict[str, Any], save: Path, *, text: bool) -> None:
    """Print the contents; errors on stderr. `text`: whether texts are still to be printed."""
    is_error = bool(result.get("isError"))
    for block in result.get("content", []):
        kind = block.get("type")
        if kind == "text" and (text or is_error):
            typer.echo(block["text"], err=is_error)
        elif kind in ("image", "audio"):
            with writing(save):
                hint(f"saved {_save(tool, block, save)}")
        elif kind == "resource_link":
            typer.echo(block["uri"])
        elif kind == "resource":
            inner = block["resource"]
            typer.echo(inner["text"] if "text" in inner else inner["uri"])


def _save(tool: str, block: dict[str, Any], folder: Path) -> Path:
    """Write an image or audio block to a new file; never over an old one."""
    suffix = mimetypes.guess_extension(block.get("mimeType", "")) or ".bin"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{tool}-{number}{suffix}"
        try:
            with path.open("xb") as file:
                file.write(base64.b64decode(block["data"]))
        except FileExistsError:
            number += 1
        else:
            return path


def _first_line(entry: dict[str, Any]) -> str:
    return next(iter(str(entry.get("description") or "").strip().splitlines()), "")


def _type_name(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    named = schema.get("type", "any")
    if named == "array":
        return f"array of {_type_name(schema.get('items', {}))}"
    return named if isinstance(named, str) else " | ".join(named)


def _default(schema: Any) -> str:
    has_one = isinstance(schema, dict) and "default" in schema
    return f"default {json.dumps(schema['default'])}" if has_one else "optional"


def _about(schema: Any) -> str:
    return str(schema.get("description", "")) if isinstance(schema, dict) else ""
