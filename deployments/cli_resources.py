"""`thornback resources` and `thornback prompts`: contents and templates, from the command line."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from thornback.deployments.cli_arguments import arguments_of
from thornback.deployments.cli_call import open_client
from thornback.deployments.cli_output import JsonOption, hint, print_json, print_table, writing
from thornback.deployments.cli_target import KeyFileOption, NameOption, UrlOption

CHUNK_BYTES = 1024 * 1024

resources = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Put, get and list resources."
)
prompts = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List and fill prompt templates."
)


@resources.command("put")
def put(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File to put.")],
    uri: Annotated[str | None, typer.Option(help="URI to name it by; default: its hash.")] = None,
    title: Annotated[str | None, typer.Option(help="What people read in lists.")] = None,
    display_name: Annotated[
        str | None, typer.Option("--name", help="Name in lists; default: the file's.")
    ] = None,
    mime: Annotated[str | None, typer.Option(help="MIME type; default: by the suffix.")] = None,
    url: UrlOption = None,
    cluster: Annotated[str | None, typer.Option(help="Name of a cluster on this machine.")] = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a file into the cluster's content store and print its URI.

    Example: thornback resources put report.pdf --uri doc://reports/2026
    """
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    about = {
        "name": display_name or file.name,
        "mime_type": mime or mimetypes.guess_type(file.name)[0] or "application/octet-stream",
    }
    about |= {key: value for key, value in (("uri", uri), ("title", title)) if value is not None}
    with open_client(url, cluster, key_file) as client:
        answer = client.put(sha256, _chunks(file), about)
    if as_json:
        print_json(answer)
    else:
        typer.echo(answer.get("uri", sha256))


@resources.command("get")
def get(
    uri: Annotated[str, typer.Argument(help="URI of the resource.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a resource: to stdout, or with -o to a file.

    Example: thornback resources get doc://reports/2026 -o report.pdf
    """
    with open_client(url, name, key_file) as client:
        result = client.request("resources/read", {"uri": uri})
    if as_json:
        print_json(result)
        return
    content = b"".join(_bytes_of(part) for part in result["contents"])
    if output is not None:
        with writing(output):
            output.write_bytes(content)
        hint(f"wrote {len(content)} bytes to {output}")
    elif sys.stdout.isatty() and any("blob" in part for part in result["contents"]):
        raise typer.BadParameter("this is binary; name a file for it", param_hint="-o")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


@resources.command("ls")
def ls(
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the resources that you may read.

    Example: thornback resources ls
    """
    with open_client(url, name, key_file) as client:
        found = list(client.pages("resources/list", "resources"))
    if as_json:
        print_json(found)
    else:
        rows = [(r["uri"], r["name"], r.get("mimeType", ""), str(r.get("size", ""))) for r in found]
        print_table(("uri", "name", "type", "bytes"), rows)


@prompts.command("ls")
def list_prompts(
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the prompt templates that you may use.

    Example: thornback prompts ls
    """
    with open_client(url, name, key_file) as client:
        found = list(client.pages("prompts/list", "prompts"))
    if as_json:
        print_json(found)
    else:
        rows = [(p["name"], _arguments_of(p), p.get("description", "")) for p in found]
        print_table(("prompt", "arguments", "what it is"), rows)


@prompts.command("get")
def get_prompt(
    prompt: Annotated[str, typer.Argument(help="Name of the prompt.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="key=value for each argument.")
    ] = None,
    url: UrlOption = None,
    name: NameOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill a prompt template and print its messages.

    Example: thornback prompts get explain_table table=sales
    """
    words = arguments or []
    text_only = {"properties": {w.partition("=")[0]: {"type": "string"} for w in words}}
    try:
        filled = arguments_of(words, text_only, lambda path: Path(path).read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="arguments") from error
    with open_client(url, name, key_file) as client:
        result = client.request("prompts/get", {"name": prompt, "arguments": filled})
    if as_json:
        print_json(result)
        return
    for message in result["messages"]:
        content = message["content"]
        typer.echo(f"{message['role']}: {content.get('text', '(' + content['type'] + ')')}")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _bytes_of(part: dict[str, Any]) -> bytes:
    return base64.b64decode(part["blob"]) if "blob" in part else str(part["text"]).encode()


def _arguments_of(prompt: dict[str, Any]) -> str:
    arguments = prompt.get("arguments") or []
    return " ".join(a["name"] if a.get("required") else f"[{a['name']}]" for a in arguments)
