"""What tools a pool has, found by a short Ray task in the pool's own environment.

A pool may need packages that nobody else has, so only a process of its own can import it; whether
they are to be had is asked before. The task asks for no GPU, has the pool's import time limit, and
its findings are kept under a hash of what they came from, so that the next `up` does not pay again.
A pool is registered whole or not at all: one that cannot be imported becomes an entry that says
why, and takes no other pool down nor keeps it waiting.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec
import ray
from ray.exceptions import GetTimeoutError, RayError, RuntimeEnvSetupError
from ray.runtime_env import RuntimeEnv

from thornback.cluster.catalog import PoolEntry, ToolSpec
from thornback.cluster.config import ClusterConfig
from thornback.cluster.errors import shown
from thornback.cluster.settings import effective_tool
from thornback.deployments.asks import ask_of, bundles_of, selectors_of
from thornback.deployments.module_source import source_of, tools_in_source
from thornback.deployments.packages import (
    ANSWER_TIMEOUT_S,
    CAUSE_CHARS,
    Asked,
    Packages,
    installers_reason,
    packages_of,
    why_not_to_be_had,
)
from thornback.deployments.placement import Node, explain, matches
from thornback.deployments.serve_config import PoolPlan

ANSWERS_POLL_S = 0.2
"""Seconds between two looks at what installers said, while Ray is waited for too."""
TOGETHER_S = 20.0
"""Seconds that the modules of several pools may take in one process."""
ENVIRONMENT = "runtime_env"
"""What a broken pool names as its failed module where its environment could not be made."""

FINDINGS_FORMAT = 2
"""Counts the changes of what findings hold: those that were kept before are looked for again."""

_UNSEEN = ("THORNBACK_POOL", "THORNBACK_CODE")
"""Variables that tell pools apart and are nothing to a module that is imported."""

_Task: TypeAlias = "ray.ObjectRef[Any]"


class Findings(msgspec.Struct, frozen=True):
    """What importing a pool's modules came to."""

    tools: list[ToolSpec] = []
    """As their decorators declare them."""
    broken: dict[str, str] = {}
    """Each module that failed, and why."""
    tracebacks: dict[str, str] = {}
    """Of modules that failed, where there is one; for the operator alone."""


class Discovered(NamedTuple):
    """A pool as it goes into the catalog."""

    pool: PoolEntry
    tools: list[ToolSpec]
    plan: PoolPlan
    report: str | None = None
    """All that is known of what stopped a broken pool's modules; for the operator alone."""


def findings_key(plan: PoolPlan) -> str:
    """A hash of everything that the findings of a pool depend on."""
    facts = {
        "format": FINDINGS_FORMAT,
        "pool": plan.name,
        "modules": plan.config.tools,
        "runtime_env": plan.runtime_env,
        "thornback": importlib.metadata.version("thornback"),
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def discover(plans: list[PoolPlan], asked: Asked | None = None) -> Iterator[dict[str, Findings]]:
    """Begin to find the tools of pools, all at once, and tell of each as soon as it is known.

    Blocks where more is asked for; the pools' import time limits bound it. Pools of like
    environment are imported in one process, which is cheaper than one for each.

    Args:
        plans: The pools.
        asked: What this machine was asked of their packages; None: the cluster is asked.
    """
    refused = {
        plan.name: Findings(broken={ENVIRONMENT: why})
        for plan in plans
        if (why := environment_fault(plan.runtime_env))
    }
    answers: dict[Future[str | None], list[PoolPlan]] = {}
    questions: list[_Step] = []
    imports: list[_Step] = []
    for group in alike([plan for plan in plans if plan.name not in refused]):
        packages = packages_of(group[0].runtime_env)
        if packages is None:
            imports += _imports(group)
        elif asked is not None and (answer := asked.answer(packages)):
            answers[answer] = group
        else:
            questions.append(_Question(group, packages))
    # What is soonest known first: all of them compete for the node's CPUs.
    running = _begun([*questions, *imports])
    return chain([refused] if refused else [], _as_they_come(running, answers))


def _as_they_come(
    running: dict[_Task, tuple[_Step, float]], answers: dict[Future[str | None], list[PoolPlan]]
) -> Iterator[dict[str, Findings]]:
    while running or answers:
        for answer in [each for each in answers if each.done()]:
            found, further = _answered(answers.pop(answer), answer.result())
            running |= _begun(further)
            if found:
                yield found
        if not running:
            wait(answers, return_when=FIRST_COMPLETED)
            continue
        limit_s = min(deadline for _, deadline in running.values()) - time.monotonic()
        limit_s = min(limit_s, ANSWERS_POLL_S) if answers else limit_s
        done, _ = ray.wait(list(running), timeout=max(0.0, limit_s))
        now = time.monotonic()
        late = [task for task, (_, deadline) in running.items() if deadline <= now]
        for task in dict.fromkeys([*done, *late]):
            step, _ = running.pop(task)
            found, further = step.end(task)
            running |= _begun(further)
            if found:
                yield found


def _answered(
    plans: list[PoolPlan], why_not: str | None
) -> tuple[dict[str, Findings], list[_Step]]:
    """What follows from what an installer said of the packages of pools."""
    if why_not is None:
        return {}, _imports(plans)
    return {plan.name: Findings(broken={ENVIRONMENT: why_not}) for plan in plans}, []


def environment_fault(runtime_env: Mapping[str, Any]) -> str | None:
    """Why Ray would not even try to make this environment; None where it would."""
    try:
        RuntimeEnv(**runtime_env)
    except (TypeError, ValueError) as error:
        return shown(str(error), CAUSE_CHARS)
    return None


def _begun(steps: list[_Step]) -> dict[_Task, tuple[_Step, float]]:
    """The task of each step, with the moment when it is given up."""
    return {step.begin(): (step, time.monotonic() + step.limit_s) for step in steps}


def _imports(plans: list[PoolPlan]) -> list[_Step]:
    return [_Together(plans)] if len(plans) > 1 else [_Alone(plan) for plan in plans]


def alike(plans: list[PoolPlan]) -> list[list[PoolPlan]]:
    """Groups of pools whose environments differ in nothing that an import sees."""
    groups: dict[str, list[PoolPlan]] = {}
    for plan in plans:
        variables = plan.runtime_env["env_vars"]
        seen = {key: value for key, value in variables.items() if key not in _UNSEEN}
        options = plan.config.ray_actor_options
        labels = [options.label_selector, options.fallback_strategy]
        facts = [{**plan.runtime_env, "env_vars": seen}, labels]
        key = hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()
        groups.setdefault(key, []).append(plan)
    return list(groups.values())


class _Step(Protocol):
    """One task on the way to the findings of pools, and what comes after it."""

    limit_s: float

    def begin(self) -> _Task: ...

    def end(self, task: _Task) -> tuple[dict[str, Findings], list[_Step]]:
        """What the task came to, and the steps to go on with. It is done, or its time is over."""
        ...


class _Question:
    """Whether the packages that pools of like environment name are to be had at all."""

    limit_s = ANSWER_TIMEOUT_S + 2.0  # and a process to ask in

    def __init__(self, plans: list[PoolPlan], packages: Packages) -> None:
        self._plans = plans
        self._packages = packages

    def begin(self) -> _Task:
        # Not in the pools' environment: it is what shall not be made in vain.
        question = ray.remote(num_cpus=0, max_retries=0)(why_not_to_be_had)
        selector = _selector(self._plans[0])
        return question.options(label_selector=selector).remote(self._packages)

    def end(self, task: _Task) -> tuple[dict[str, Findings], list[_Step]]:
        try:
            why: str | None = ray.get(task, timeout=0)
        except (GetTimeoutError, RayError):
            ray.cancel(task, force=True)
            why = None
        return _answered(self._plans, why)


class _Together:
    """The modules of several pools, imported in one process.

    Nothing for any of them if that goes wrong: then each gets a process and a time of its own, so
    that one pool cannot take another down.
    """

    def __init__(self, plans: list[PoolPlan]) -> None:
        self._plans = plans
        self.limit_s = min(TOGETHER_S, *(plan.config.import_timeout_s for plan in plans))

    def begin(self) -> _Task:
        return _importing(self._plans)

    def end(self, task: _Task) -> tuple[dict[str, Findings], list[_Step]]:
        try:
            answers: dict[str, bytes] = ray.get(task, timeout=0)
        except (GetTimeoutError, RayError):
            ray.cancel(task, force=True)
            return {}, [_Alone(plan) for plan in self._plans]
        return {name: decode_findings(answer) for name, answer in answers.items()}, []


class _Alone:
    """The modules of one pool."""

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan
        self.limit_s = plan.config.import_timeout_s

    def begin(self) -> _Task:
        return _importing([self._plan])

    def end(self, task: _Task) -> tuple[dict[str, Findings], list[_Step]]:
        return {self._plan.name: self._findings(task)}, []

    def _findings(self, task: _Task) -> Findings:
        first = self._plan.config.tools[0]
        try:
            return decode_findings(ray.get(task, timeout=0)[self._plan.name])
        except GetTimeoutError:
            ray.cancel(task, force=True)
            why = f"importing did not finish within {self.limit_s:g} s (import_timeout_s)"
            return Findings(broken={first: why})
        except RuntimeEnvSetupError as error:
            return Findings(broken={ENVIRONMENT: installers_reason(str(error))})
        except RayError as error:
            why = f"the process that imported it died ({type(error).__name__})"
            return Findings(broken={first: why})


def _importing(plans: list[PoolPlan]) -> _Task:
    """Start the task that imports the modules of pools in their environment."""
    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(import_modules)
    first = plans[0]
    return task.options(
        name=f"thornback-discovery-{first.name}",
        runtime_env=first.runtime_env,
        label_selector=_selector(first),
    ).remote({plan.name: plan.config.tools for plan in plans})


def _selector(plan: PoolPlan) -> dict[str, str] | None:
    """The first of the pool's label selectors that selects a node; None where none does.

    Like a GPU, a label that no node has yet does not keep the pool's tools from being known.
    """
    selectors = selectors_of(plan)
    nodes = living_nodes() if selectors else []
    return next((s for s in selectors if any(matches(n.labels, s) for n in nodes)), None)


def import_modules(pools: dict[str, list[str]]) -> dict[str, bytes]:
    """Import the modules of pools and say what tools they declare; runs in their environment."""
    from thornback.deployments.tool_modules import load

    found = {}
    for pool, modules in pools.items():
        loaded = load(modules)
        tools = [tool.spec(pool) for tool in loaded.tools.values()]
        found[pool] = msgspec.json.encode(Findings(tools, loaded.broken, loaded.tracebacks))
    return found


def decode_findings(data: bytes) -> Findings:
    return msgspec.json.decode(data, type=Findings)


def pool_entry(plan: PoolPlan) -> PoolEntry:
    """A pool's entry before anything is known against it."""
    return PoolEntry(
        name=plan.name,
        application=plan.application,
        modules=tuple(plan.config.tools),
        max_queued_requests=plan.config.max_queued_requests,
        ask=ask_of(plan),
        bundles=bundles_of(plan),
        apart=plan.config.placement_group_strategy == "STRICT_SPREAD",
    )


def catalog_entries(config: ClusterConfig, plan: PoolPlan, findings: Findings) -> Discovered:
    """What the catalog shall hold of a pool; whole, or broken and without tools."""
    entry = pool_entry(plan)
    if findings.broken:
        module, cause = next(iter(findings.broken.items()))
        broken = _broken(config, plan, entry, module, cause)
        return Discovered(broken, [], plan, report_of(findings))
    tools = [
        effective_tool(config, msgspec.structs.replace(spec, pool=plan.name))
        for spec in findings.tools
        if not plan.only or spec.key in plan.only
    ]
    if not tools:
        why = "it declares no tool"
        return Discovered(_broken(config, plan, entry, plan.config.tools[0], why), [], plan)
    return Discovered(entry, tools, plan)


def report_of(findings: Findings) -> str | None:
    """Each module that failed with its traceback; None where there is none."""
    parts = [
        f"{module} cannot be imported: {findings.broken[module]}\n{traceback}"
        for module, traceback in findings.tracebacks.items()
    ]
    return "\n".join(parts) or None


def _broken(
    config: ClusterConfig, plan: PoolPlan, entry: PoolEntry, module: str, cause: str
) -> PoolEntry:
    names: list[str] = []
    for name in plan.config.tools:
        path = source_of(name, Path(config.base_dir)).path
        names += tools_in_source(path) if path is not None else []
    return msgspec.structs.replace(
        entry, state="broken", failed_module=module, cause=cause, lost_tools=tuple(sorted(names))
    )


def lacking(pool: PoolEntry, nodes: Sequence[Node]) -> str | None:
    """What a replica asks for and the cluster does not have, and what there is; None if it fits."""
    found = explain(pool, nodes)
    if found is None:
        return None
    return f"asks for {found.asked}; the cluster has {found.available}"


def living_nodes() -> list[Node]:
    """The nodes of the joined cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [Node(node["Resources"], node.get("Labels", {})) for node in nodes if node["Alive"]]
