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
    logger = logging.getLogger("ray.serve")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_not_told_by_us)
    return serve


def _is_not_told_by_us(record: logging.LogRecord) -> bool:
    """False for what Serve warns of and `up` then refuses: an address other than Serve's."""
    return "The new HTTP config is ignored" not in record.getMessage()


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
