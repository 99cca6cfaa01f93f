"""Where a tool module's source lies, found without importing it.

`up` needs it to restart a pool whose code changed, to put a directory on the path of the pool's
replicas, and to name the tools of a module that cannot be imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple


class ModuleSource(NamedTuple):
    """A module's source on this machine."""

    module: str
    path: Path | None
    """None: not here; the pool's own environment may have it."""
    root: str | None
    """Directory that must be on the path of the pool's processes; None: found without."""
    code_hash: str
    """Over the module's file, or all of its top-level package, and over what it imports from
    beside it; empty where not found."""


def source_of(module: str, base_dir: Path) -> ModuleSource:
    """Find a module in the config's directory, then where this process would find it."""
    spec = _find(module, [str(base_dir)])
    root = str(base_dir) if spec is not None else None
    if spec is None:
        spec = _ours(module) if module.startswith("thornback.") else _find(module, sys.path)
    path = _file_of(spec)
    return ModuleSource(module, path, root, _hash_of(module, path, root))


def _find(module: str, path: list[str]) -> ModuleSpec | None:
    """As the import system looks for it, but without running the packages above it."""
    spec: ModuleSpec | None = None
    search: list[str] | None = path
    parts = module.split(".")
    for depth in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    return spec


def _ours(module: str) -> ModuleSpec | None:
    """A module of Thornback; an editable install is found by its own finder only."""
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


def _file_of(spec: ModuleSpec | None) -> Path | None:
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _hash_of(module: str, path: Path | None, root: str | None) -> str:
    if path is None:
        return ""
    depth = module.count(".") + (path.name == "__init__.py")
    if module.startswith("thornback."):
        top, files = path.parent, {path}
    elif root is None:
        top = path.parents[depth]
        files = _files_of(module.partition(".")[0], top)
    else:
        top = Path(root)
        files = _files_with_imports(module.partition(".")[0], top)
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(top)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files_with_imports(name: str, root: Path) -> set[Path]:
    """The files of a top-level module, and of all in `root` that it imports, however far."""
    waiting, seen = [name], set[str]()
    files: set[Path] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _files_of(name, root)
        files.update(found)
        waiting.extend(imported for file in found for imported in _imported(file))
    return files


def _files_of(name: str, directory: Path) -> set[Path]:
    """The files of a top-level module that is in `directory`; none where it is not."""
    package, file = directory / name, directory / f"{name}.py"
    # As Python chooses: a folder without `__init__.py` is a package where there is no such file.
    if file.is_file() and not (package / "__init__.py").is_file():
        return {file}
    # A module of a package usually imports its neighbours: a change of any is a change.
    return set(package.rglob("*.py"))


def _imported(file: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it; computed names stay unknown.

    Relative imports stay in the package, which counts as a whole.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def tools_in_source(path: Path) -> list[str]:
    """Names of the tools that a module's source declares, read without running it.

    What `@tool` and `@tool(name="...")` say; a name that is computed stays unknown.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                if name := _tool_name(decorator, node.name):
                    names.append(name)
    return sorted(names)


def _tool_name(decorator: ast.expr, declared: str) -> str | None:
    """The tool's name, where this decorator is `@tool` in one of its spellings."""
    call = decorator if isinstance(decorator, ast.Call) else None
    target = call.func if call else decorator
    spelled = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", None)
    if spelled != "tool":
        return None
    for keyword in call.keywords if call else []:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return declared
