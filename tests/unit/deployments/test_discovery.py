import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ray.exceptions import GetTimeoutError, RuntimeEnvSetupError, WorkerCrashedError

from thornback.cluster.catalog import Bundle, ToolSpec, content_hash_of
from thornback.cluster.config import ClusterConfig, PoolConfig, parse_config
from thornback.deployments import discovery, packages
from thornback.deployments.asks import ask_of, bundles_of
from thornback.deployments.discovery import (
    Findings,
    alike,
    catalog_entries,
    decode_findings,
    discover,
    findings_key,
    import_modules,
)
from thornback.deployments.module_source import source_of, tools_in_source
from thornback.deployments.packages import Asked, Packages
from thornback.deployments.serve_config import PoolPlan, plan_pool, split_plan

SOURCE = """\
import absent_package
import thornback.tools as t
from thornback.tools import tool

@tool
def plain(): ...

@tool(name="renamed", version="2.0.0")
async def other(): ...

@t.tool()
class Warm: ...

def helper(): ...
"""


def config_of(directory: Path, **sections: Any) -> ClusterConfig:
    pool = {"tools": ["my_tools"], **sections.pop("pool", {})}
    return parse_config({"pools": {"p": pool}, **sections}, "test", directory)


def plan_of(config: ClusterConfig) -> PoolPlan:
    return plan_pool(config, "p", config.pools["p"], version="1")


def spec_of(name: str, version: str = "1.0.0") -> ToolSpec:
    schema = msgspec.Raw(b'{"type":"object"}')
    spec = ToolSpec(
        name=name, version=version, description="d", input_schema=schema, output_schema=schema,
        pool="p",
    )  # fmt: skip
    return msgspec.structs.replace(spec, content_hash=content_hash_of(spec))


def test_tools_are_named_without_running_their_module(tmp_path: Path) -> None:
    path = tmp_path / "my_tools.py"
    path.write_text(SOURCE, "utf-8")
    assert tools_in_source(path) == ["Warm", "plain", "renamed"]
    path.write_text("def (", "utf-8")
    assert tools_in_source(path) == []


def test_a_module_is_found_beside_the_config_first_and_not_imported(tmp_path: Path) -> None:
    package = tmp_path / "deep"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit", "utf-8")
    (package / "tools.py").write_text("", "utf-8")
    found = source_of("deep.tools", tmp_path)
    assert (found.path, found.root) == (package / "tools.py", str(tmp_path))
    before = found.code_hash
    (package / "neighbour.py").write_text("a = 1", "utf-8")
    assert source_of("deep.tools", tmp_path).code_hash != before


def test_a_module_is_another_when_one_that_it_imports_from_beside_it_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "package" / "deep").mkdir(parents=True)
    (tmp_path / "direct").mkdir()
    sources = {
        "tools.py": "import os, direct\ndef f():\n    from package.deep import inner\n",
        "direct.py": "import tools, farther",
        "farther.py": "def (",
        "package/deep/inner.py": "from .. import other",
        "package/other.py": "import afar",
        "afar.py": "",
        "unrelated.py": "import tools",
        "direct/data.py": "no module while there is direct.py",
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text, "utf-8")

    changed = []
    before = source_of("tools", tmp_path).code_hash
    for name in sources:
        (tmp_path / name).write_text(sources[name] + "\n# changed", "utf-8")
        after = source_of("tools", tmp_path).code_hash
        changed += [name] if after != before else []
        before = after
    assert changed == [name for name in sources if name not in ("unrelated.py", "direct/data.py")]


def test_our_own_and_unknown_modules_need_no_directory(tmp_path: Path) -> None:
    ours = source_of("thornback.tools.benchmark", tmp_path)
    assert ours.path is not None
    assert ours.root is None
    assert source_of("no.such.module", tmp_path) == ("no.such.module", None, None, "")


def test_what_a_module_declares_survives_the_way_back() -> None:
    found = import_modules({"p": ["thornback.tools.benchmark", "no_such"], "q": ["no_such"]})
    findings = decode_findings(found["p"])
    echo = next(spec for spec in findings.tools if spec.name == "echo")
    assert echo.content_hash == content_hash_of(echo)
    assert list(findings.broken) == list(decode_findings(found["q"]).broken) == ["no_such"]


def test_a_pool_goes_into_the_catalog_whole(tmp_path: Path) -> None:
    config = config_of(tmp_path, tools={"a": {"timeout_s": 3}})
    found = catalog_entries(config, plan_of(config), Findings([spec_of("a"), spec_of("b")]))
    assert [(s.name, s.call.timeout_s) for s in found.tools] == [("a", 3), ("b", 30)]
    assert (found.pool.state, found.pool.application) == ("ready", "thornback.local.p")


def test_the_queue_of_a_pool_is_as_long_as_the_config_says(tmp_path: Path) -> None:
    config = config_of(tmp_path, pool={"max_queued_requests": 7})
    found = catalog_entries(config, plan_of(config), Findings([spec_of("a")]))
    assert found.pool.max_queued_requests == 7


def test_a_pool_that_cannot_be_imported_says_why_and_what_is_lost(tmp_path: Path) -> None:
    (tmp_path / "my_tools.py").write_text(SOURCE, "utf-8")
    config = config_of(tmp_path)
    findings = Findings([spec_of("a")], {"my_tools": "ModuleNotFoundError: absent_package"})
    found = catalog_entries(config, plan_of(config), findings)
    assert found.tools == []
    assert (found.pool.state, found.pool.failed_module) == ("broken", "my_tools")
    assert found.pool.cause == "ModuleNotFoundError: absent_package"
    assert found.pool.lost_tools == ("Warm", "plain", "renamed")


class NearRay:
    """Stands for the module: what a task comes to is told beforehand, by the pools it is for."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self.begun: list[str] = []
        self.selectors: list[dict[str, str] | None] = []
        self.cancelled: list[str] = []

    def options(self, label_selector: Any = None, **options: Any) -> types.SimpleNamespace:
        self.selectors.append(label_selector)
        return types.SimpleNamespace(remote=self.begin)

    def begin(self, asked: Any) -> str:
        task = "packages" if isinstance(asked, Packages) else "+".join(asked)
        self.begun.append(task)
        return task

    def wait(self, tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return tasks[:1], tasks[1:]

    def get(self, task: str, timeout: float) -> Any:
        answer = self._answers.get(task, {})
        if isinstance(answer, Exception):
            raise answer
        if task == "packages":
            return answer or None
        found = msgspec.json.encode(Findings([spec_of("a")]))
        return dict.fromkeys(task.split("+"), found)

    def cancel(self, task: str, force: bool) -> None:
        self.cancelled.append(task)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Look for tools where tasks come to `answers`; gives the Ray, and why each pool is broken."""

    def searched(
        pools: dict[str, dict[str, Any]],
        answers: dict[str, Any],
        asked: Asked | None = None,
        labels: dict[str, str] | None = None,
    ) -> tuple[NearRay, dict[str, dict[str, str]]]:
        near = NearRay(answers)
        begun = types.SimpleNamespace(
            remote=lambda **options: lambda function: types.SimpleNamespace(
                options=near.options
            ),
            nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}, "Labels": labels or {}}],
            wait=near.wait, get=near.get, cancel=near.cancel,
        )  # fmt: skip
        monkeypatch.setattr(discovery, "ray", begun)
        config = config_of(tmp_path)
        plans = [
            plan_pool(config, name, PoolConfig(tools=["my_tools"], **options), version="1")
            for name, options in pools.items()
        ]
        found = {
            name: each.broken for part in discover(plans, asked) for name, each in part.items()
        }
        return near, found

    return searched


def test_an_environment_that_ray_refuses_breaks_its_pool_alone(search: Callable[..., Any]) -> None:
    wrong = {"runtime_env": {"pip": ["x"], "conda": "y"}}
    near, found = search({"p": {}, "wrong": wrong}, {})
    assert (near.begun, found["p"]) == (["p"], {})
    (why,) = found["wrong"].items()
    assert why[0] == "runtime_env"
    assert "cannot be specified at the same time" in why[1]


def test_an_environment_is_not_made_for_packages_that_are_not_to_be_had(
    search: Callable[..., Any],
) -> None:
    env = {"runtime_env": {"pip": ["x==9"]}}
    near, found = search({"p": {}, "q": env, "r": env}, {"packages": "No distribution for x==9"})
    assert near.begun == ["packages", "p"]
    broken = {"runtime_env": "No distribution for x==9"}
    assert found == {"p": {}, "q": broken, "r": broken}


@pytest.mark.parametrize("why_not", ["No distribution for x==9", None])
def test_what_this_machine_was_asked_is_not_asked_of_the_cluster(
    why_not: str | None, search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env = {"runtime_env": {"pip": ["x==9"]}}
    monkeypatch.setattr(packages, "why_not_to_be_had", lambda asked: why_not)
    plan = plan_pool(config_of(tmp_path), "q", PoolConfig(tools=["my_tools"], **env), version="1")
    asked = Asked([plan.runtime_env])
    near, found = search({"p": {}, "q": env}, {}, asked)
    asked.close()
    assert near.begun == (["p"] if why_not else ["p", "q"])
    assert found == {"p": {}, "q": {"runtime_env": why_not} if why_not else {}}


@pytest.mark.parametrize("answer", [None, GetTimeoutError(), WorkerCrashedError()])
def test_where_nothing_is_known_of_packages_ray_shall_say(
    search: Callable[..., Any], answer: object
) -> None:
    failed = RuntimeEnvSetupError("Failed:\nERROR: No matching distribution found for x\n  at y")
    near, found = search({"q": {"runtime_env": {"pip": ["x"]}}}, {"packages": answer, "q": failed})
    assert near.begun == ["packages", "q"]
    assert found == {"q": {"runtime_env": "No matching distribution found for x"}}


def test_pools_of_one_process_are_imported_each_alone_where_that_fails(
    search: Callable[..., Any],
) -> None:
    answers = {"p+q": GetTimeoutError(), "q": GetTimeoutError(), "r": WorkerCrashedError()}
    slow = {"import_timeout_s": 3}
    near, found = search({"p": slow, "q": slow, "r": {"threads": 2}}, answers)
    assert near.begun == ["p+q", "r", "p", "q"]
    assert near.cancelled == ["p+q", "q"]
    assert found == {
        "p": {},
        "q": {"my_tools": "importing did not finish within 3 s (import_timeout_s)"},
        "r": {"my_tools": "the process that imported it died (WorkerCrashedError)"},
    }


def test_the_traceback_of_a_broken_module_is_for_the_operator_and_not_in_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tools.py").write_text("secret = 'x'\nraise KeyError('hunter2')\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = decode_findings(import_modules({"p": ["my_tools"]})["p"])
    config = config_of(tmp_path)
    discovered = catalog_entries(config, plan_of(config), found)
    (why,) = found.broken.values()
    assert discovered.pool.cause == why
    assert b"hunter2" not in msgspec.json.encode(discovered.pool)
    first, *rest = (discovered.report or "").splitlines()
    assert first == f"my_tools cannot be imported: {why}"
    assert "err_" in why
    assert rest[0].startswith("Traceback")
    assert rest[-1] == "KeyError: 'hunter2'"


def test_a_pool_without_tools_is_broken(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert catalog_entries(config, plan_of(config), Findings()).pool.cause == "it declares no tool"


def test_findings_are_kept_until_environment_or_code_change(tmp_path: Path) -> None:
    key = findings_key(plan_of(config_of(tmp_path)))
    assert findings_key(plan_of(config_of(tmp_path))) == key
    (tmp_path / "my_tools.py").write_text("a = 1", "utf-8")
    changed = findings_key(plan_of(config_of(tmp_path)))
    other = findings_key(plan_of(config_of(tmp_path, pool={"runtime_env": {"pip": ["x"]}})))
    assert len({key, changed, other}) == 3


def test_only_pools_of_like_environment_share_a_process(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    pools = {
        "a": {},
        "b": {"max_ongoing_requests": 3},
        "c": {"runtime_env": {"pip": ["x"]}},
        "d": {"runtime_env": {"env_vars": {"TOKEN": "x"}}},
        "e": {"threads": 2},
        "f": {"ray_actor_options": {"label_selector": {"zone": "a"}}},
    }
    plans = [
        plan_pool(config, name, PoolConfig(tools=[f"m_{name}"], **extra), version="1")
        for name, extra in pools.items()
    ]
    assert [[plan.name for plan in group] for group in alike(plans)] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
        ["f"],
    ]


def test_each_tool_version_of_a_loose_module_gets_a_pool(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    parts = split_plan(config, plan_of(config), [spec_of("a"), spec_of("a", "2.0.0")], "1")
    assert [plan.name for plan in parts] == ["a-1-0-0", "a-2-0-0"]
    findings = Findings([spec_of("a"), spec_of("a", "2.0.0")])
    found = [catalog_entries(config, plan, findings).tools for plan in parts]
    assert [[(s.version, s.pool) for s in tools] for tools in found] == [
        [("1.0.0", "a-1-0-0")],
        [("2.0.0", "a-2-0-0")],
    ]


def test_what_a_replica_asks_for_is_in_rays_words(tmp_path: Path) -> None:
    options = {"num_cpus": 2, "num_gpus": 1, "memory": 5, "resources": {"tape": 1}}
    plan = plan_of(config_of(tmp_path, pool={"ray_actor_options": options}))
    assert ask_of(plan) == {"CPU": 2, "GPU": 1, "memory": 5, "tape": 1}


def test_a_kind_of_accelerator_and_a_placement_group_are_asked_for_too(tmp_path: Path) -> None:
    options = {"num_cpus": 1, "accelerator_type": "T4"}
    bundles = [{"CPU": 1, "tape": 2}, {"CPU": 3}]
    pool = {"ray_actor_options": options, "placement_group_bundles": bundles}
    found = ask_of(plan_of(config_of(tmp_path, pool=pool)))
    assert found == {"CPU": 4, "tape": 2, "accelerator_type:T4": 0.001}


T4, ZONE, DISK = {"accelerator_type:T4": 0.001}, {"zone": "a"}, {"disk": "ssd"}


@pytest.mark.parametrize(
    ("placed", "bundles"),
    [
        (
            {"placement_group_strategy": "STRICT_PACK"},
            [Bundle({"CPU": 4, **T4}, (ZONE, DISK))],
        ),
        (
            {
                "placement_group_strategy": "STRICT_PACK",
                "placement_group_bundle_label_selector": [ZONE, DISK],
            },
            [Bundle({"CPU": 4, **T4}, ({**ZONE, **DISK},))],
        ),
        ({}, [Bundle({"CPU": 1, **T4}, (ZONE, DISK)), Bundle({"CPU": 3})]),
        (
            {"placement_group_bundle_label_selector": [DISK]},
            [Bundle({"CPU": 1, **T4}, (DISK,)), Bundle({"CPU": 3}, (DISK,))],
        ),
    ],
)
def test_bundles_that_must_share_a_node_are_one(
    placed: dict[str, Any], bundles: list[Bundle], tmp_path: Path
) -> None:
    options = {
        "num_cpus": 1,
        "accelerator_type": "T4",
        "label_selector": ZONE,
        "fallback_strategy": [{"label_selector": DISK}],
    }
    pool = {"ray_actor_options": options, "placement_group_bundles": [{"CPU": 1}, {"CPU": 3}]}
    assert list(bundles_of(plan_of(config_of(tmp_path, pool={**pool, **placed})))) == bundles


@pytest.mark.parametrize(
    ("labels", "selector"), [({"zone": "a"}, ZONE), ({"disk": "ssd"}, DISK), ({"zone": "b"}, None)]
)
def test_modules_are_imported_where_a_replica_would_be_or_anywhere_where_no_node_would_do(
    labels: dict[str, str], selector: dict[str, str] | None, search: Callable[..., Any]
) -> None:
    options = {"label_selector": ZONE, "fallback_strategy": [{"label_selector": DISK}]}
    near, found = search({"p": {"ray_actor_options": options}}, {}, labels=labels)
    assert (near.selectors, found) == ([selector], {"p": {}})
