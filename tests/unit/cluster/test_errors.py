"""Errors cross process boundaries: what a caller catches is what the actor raised."""

import pickle

import pytest

from thornback.cluster import errors
from thornback.cluster.errors import ThornbackError, shown

EXAMPLES: list[ThornbackError] = [
    errors.ParseError("unexpected end"),
    errors.InvalidRequest("a batch"),
    errors.UnknownMethod("tools/cal"),
    errors.InvalidParams("name is missing"),
    errors.UnknownTool("sql_qurey", "did you mean sql_query?"),
    errors.UnknownPrompt("sumarize", ""),
    errors.UnknownResource("file:///nope"),
    errors.HeaderMismatch("Mcp-Name says a, the body says b"),
    errors.MissingCapability({"elicitation": {}}),
    errors.UnsupportedVersion("1999-01-01", ["2026-07-28"]),
    errors.HttpRefusal(405, "use POST", {"Allow": "POST"}),
    errors.ToolFailure("the table has no rows"),
    errors.InvalidArguments("sql_query", ["query: expected string, given 7 (number)"]),
    errors.InvalidResult("sql_query", ["rows: expected array"]),
    errors.ResultTooLarge("sql_query", 5_000_000, 4_194_304),
    errors.ToolBug("sql_query", "err_abc"),
    errors.BatchFailed("text_embed", "err_abc"),
    errors.ToolTimeout("sql_query", 2.0),
    errors.CallCancelled("sql_query"),
    errors.Overloaded("sql", 0.5),
    errors.PoolBusy("sql", 0.5),
    errors.NoReplica("sql", "starting", 2.0),
    errors.ReplicaLost("sql", "sql_query"),
    errors.PoolInfeasible("embed", "1 GPU", "0 GPU"),
    errors.PoolBroken("mine", "my_tools", "ModuleNotFoundError: No module named 'duckdb'"),
    errors.RegistryUnavailable("it is restarting"),
    errors.ContentUnavailable("their actor is away"),
    errors.ConfigError("local.yaml: pools.sql.tols: unknown key; did you mean tools?"),
    errors.LaunchError("port 8000 is taken"),
    errors.ClusterNotRunning("nothing listens on port 8000"),
    errors.RegistrationError("sql_query 1.0.0 is offered by two pools"),
    errors.StoreError("disk full"),
    errors.StoreOwned("/state", "pid 12"),
    errors.StoreFenced(3, 4),
    errors.StoreConflict("tools/x", 1, 2),
    errors.ContentDamaged("9f86"),
    errors.ContentMissing("9f86"),
]
ABSTRACT = {errors.ThornbackError, errors.ProtocolError, errors.Unavailable}

# Read off the module: `__subclasses__()` would also find the classes that Ray derives from ours at
# run time, such as `RayTaskError(ToolTimeout)`.
TAXONOMY = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)}


def test_every_error_has_an_example() -> None:
    assert {type(error) for error in EXAMPLES} == TAXONOMY - ABSTRACT


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_survives_the_trip_between_processes(error: ThornbackError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)


def test_no_two_errors_share_a_code() -> None:
    codes = [error_type.code for error_type in TAXONOMY - ABSTRACT]
    assert sorted(codes) == sorted(set(codes))


def test_a_callers_own_text_is_repeated_in_one_printable_line() -> None:
    assert shown("a\nb\x1b[31m" + "x" * 100, limit=10).isprintable()
    assert len(shown("x" * 100, limit=10)) == 10
