"""Ray Serve imported without pandas: half the CPU time of every one of its processes.

Serve imports pandas, where it is installed, for one line of its JSON encoder for data frames, which
nothing of ours uses. That is seconds for the controller, the front door, each build and each
replica. Here Serve is told that there is no pandas, and only while it asks; tools import it freely.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thornback.deployments.private_files import write_private

# Python runs a module of this name on its path when it starts. Somebody else's may stand behind.
_SITE = '''\
import importlib.machinery
import os
import sys


class WithoutPandasForServe:
    """Says no to `import pandas` in `ray.serve._private.utils`, which is ready to hear it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        serve = sys.modules.get("ray.serve._private.utils")
        if name == "pandas" and serve is not None and not hasattr(serve, "serve_encoders"):
            raise ModuleNotFoundError("not for Ray Serve's own use", name=name)
        return None


sys.meta_path.insert(0, WithoutPandasForServe)
here = os.path.dirname(__file__)
others = [entry for entry in sys.path if entry != here]
other = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
if other is not None and other.loader is not None:
    other.loader.exec_module(sys.modules["sitecustomize"])
'''


def write_site(directory: Path) -> None:
    """Write what a process with `directory` on its `PYTHONPATH` runs when it starts."""
    write_private(directory / "sitecustomize.py", _SITE.encode())


def import_serve() -> Any:
    """`ray.serve`, in a process that speaks to a person and not into a log."""
    with _without_pandas():
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve


@contextmanager
def _without_pandas() -> Iterator[None]:
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pandas"]
