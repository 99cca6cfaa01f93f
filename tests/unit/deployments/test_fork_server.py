import os
import sys

import pytest

from thornback.deployments.environment import FORKABLE
from thornback.deployments.fork_server import Request, path_of, why_not

OWN = {
    "RAY_JOB_ID": "01000000",
    "RAY_RAYLET_PID": "7",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "PYTHONPATH": "/site",
    "HOME": "/root",
    **FORKABLE,
}


def request_of(**changes: str | None) -> Request:
    """A worker's request whose environment differs in these from the fork server's."""
    changed = {**OWN, **changes}
    environment = {name: value for name, value in changed.items() if value is not None}
    return Request(["/worker.py"], environment, "/", sys.prefix)


def test_a_worker_of_the_same_surroundings_is_forked() -> None:
    assert why_not(request_of(), OWN, sys.prefix) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": "/elsewhere", "THORNBACK_POOL": "p", "OMP_NUM_THREADS": "4"},
        {"PYTHONPATH": "/tools:/site"},
        {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"},
        {"RAY_LD_PRELOAD_ON_WORKERS": "0"},
        dict.fromkeys(FORKABLE),
    ],
)
def test_what_is_read_when_it_is_needed_may_differ(changes: dict[str, str | None]) -> None:
    assert why_not(request_of(**changes), OWN, sys.prefix) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"RAY_JOB_ID": "02000000"},
        {"RAY_RAYLET_PID": "8"},
        {"RAY_SERVE_ENABLE_HA_PROXY": None},
        {"RAY_SERVE_LOG_TO_STDERR": "1"},
        {"PYTHONHASHSEED": "0"},
        {"LD_PRELOAD": "/libjemalloc.so"},
        {"OPENBLAS_NUM_THREADS": "4"},
    ],
)
def test_what_is_read_on_import_may_not(changes: dict[str, str | None]) -> None:
    (name,) = changes
    assert why_not(request_of(**changes), OWN, sys.prefix) == f"its {name} differs"


def test_a_worker_of_another_python_is_not_forked() -> None:
    assert why_not(request_of(), OWN, "/usr") == f"it runs {sys.prefix}"


def test_the_path_of_a_copy_is_that_of_a_python_of_its_own() -> None:
    own = ["", "/site", "/usr/lib/python3.11", "/venv/site-packages"]
    assert path_of("/ray/worker.py", os.pathsep.join(["/tools", "/site"]), own, "/site") == [
        "/ray",
        "/tools",
        "/site",
        "/usr/lib/python3.11",
        "/venv/site-packages",
    ]


def test_what_was_on_the_path_for_the_fork_server_alone_is_not_on_a_copys() -> None:
    own = ["", "/mine", "/usr/lib/python3.11"]
    assert path_of("/ray/worker.py", "", own, "/mine") == ["/ray", "/usr/lib/python3.11"]
