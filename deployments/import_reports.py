"""What stopped the modules of broken pools, tracebacks included: for the operator and nobody else.

`up` learns it from the processes that look for tools, which may run on any machine and end at once;
the catalog has one line of it, because callers read that. The whole is kept beside the state, in a
file for each broken pool, until an `up` finds that the pool can be imported.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from thornback.deployments.private_files import write_private

FOLDER = "imports"
SUFFIX = ".log"


def report_files(state_dir: Path) -> dict[str, Path]:
    """The file of each pool that has one."""
    found = sorted((state_dir / FOLDER).glob(f"[!.]*{SUFFIX}"))
    return {path.name.removesuffix(SUFFIX): path for path in found}


def keep_report(state_dir: Path, pool: str, report: str | None) -> None:
    """Replace what is kept of a pool; None: there is nothing to keep."""
    path = state_dir / FOLDER / f"{pool}{SUFFIX}"
    if report is None:
        path.unlink(missing_ok=True)
    else:
        write_private(path, report.encode())


def forget_others(state_dir: Path, pools: Collection[str]) -> None:
    """Remove what is kept of pools that are not among `pools`."""
    for pool in report_files(state_dir).keys() - set(pools):
        keep_report(state_dir, pool, None)
