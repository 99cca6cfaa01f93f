"""What Ray read from the environment when it was imported, where that changed since."""

from __future__ import annotations

import os


def read_again() -> None:
    """Have Ray read its settings from the environment of now."""
    from ray import _raylet
    from ray._private import ray_constants

    one_machine = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR) == "0"
    ray_constants.ENABLE_RAY_CLUSTER = not one_machine
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
