"""What Ray could not do, in words: from its many exceptions and its logs to one `LaunchError`.

Ray and Serve raise dozens of classes, plain `RuntimeError` and `TimeoutError` among them, for a
part that died or was too slow. Whether Ray raised something is read from where it came from.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thornback.cluster.errors import LaunchError, ThornbackError
from thornback.deployments.dashboard import reason

RAYLET_LOGS = ("raylet.out", "raylet.err")
TAIL_BYTES = 16_384
_AGENT = re.compile(r"raylet exited immediately because|agent timed out|Timed out waiting for file")


@contextmanager
def in_words(temp_dir: str | None) -> Iterator[None]:
    """Turn what Ray raises into a `LaunchError`; a bug of ours stays what it is.

    Args:
        temp_dir: Of the Ray that this process started, whose logs say more; None for another's.
    """
    logs = None if temp_dir is None else Path(temp_dir, "session_latest", "logs")
    where = "" if logs is None else f"; its logs are in {logs}"
    try:
        yield
    except LaunchError as error:
        if why := late_agents(logs):
            raise LaunchError(f"Ray failed: {why}{where}") from error
        raise
    except ThornbackError:
        raise
    except Exception as error:
        if not _is_of_ray(error):
            raise
        said = reason(str(error)) if str(error) else "no message"
        why = late_agents(logs) or f"{type(error).__name__}: {said}"
        raise LaunchError(f"Ray failed: {why}{where}") from error


def _is_of_ray(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [type(error).__module__, *(str(f.f_globals.get("__name__")) for f in frames)]
    return any(module == "ray" or module.startswith("ray.") for module in modules)


def late_agents(logs: Path | None) -> str | None:
    """What it means where the raylet ended itself because its agents were late; None if not."""
    for name in RAYLET_LOGS if logs is not None else ():
        assert logs is not None
        if _AGENT.search(_tail(logs / name)):
            return (
                "this machine was too busy to start it: Ray's node ends itself when its agents "
                "need more than some seconds to come up; try again with less running beside it"
            )
    return None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
