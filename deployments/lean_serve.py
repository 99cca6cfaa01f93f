"""Ray Serve as `up` and `status` import it: without pandas, and without its chatter.

Serve imports pandas, where it is installed, for data frames that a command never sends; that takes
longer than all the rest. In the processes of the cluster `process_start` sees to the same.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
