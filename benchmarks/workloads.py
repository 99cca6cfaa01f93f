"""Every workload, by its name on the command line."""

from __future__ import annotations

from benchmarks.call_workloads import CALL_WORKLOADS
from benchmarks.pool_workloads import POOL_WORKLOADS

WORKLOADS = CALL_WORKLOADS | POOL_WORKLOADS
