import msgspec
import pytest

from thornback.cluster.catalog import (
    AccessPolicy,
    Annotations,
    Catalog,
    Change,
    PromptMessage,
    PromptSpec,
    ToolSpec,
    content_hash_of,
    decode_entry,
    encode_entry,
)
from thornback.cluster.news import Snapshot
from thornback.cluster.principals import EVERYBODY, Caller, Principal, PrincipalEntry, key_hash

SCHEMA = msgspec.Raw(b'{ "type": "object" }')


def tool(name: str, version: str = "1.0.0", **fields: object) -> ToolSpec:
    given = {"description": "Does it.", "input_schema": SCHEMA, "pool": "text", **fields}
    return ToolSpec(name=name, version=version, **given)  # type: ignore[arg-type]


def catalog_of(*specs: ToolSpec) -> Catalog:
    return Catalog("sto_1", 1, 1, {"tools": {spec.key: spec for spec in specs}})


def put(spec: ToolSpec, number: int = 2) -> Change:
    return Change(number, "tools", spec.key, encode_entry(spec))


def names(catalog: Catalog, caller: Caller = EVERYBODY) -> list[str]:
    return [spec.name for spec in catalog.listed_tools(caller)]


def test_an_entry_comes_back_with_its_schema_byte_for_byte() -> None:
    spec = tool("reverse", annotations=Annotations(read_only=True), tags=("text",))
    again = decode_entry("tools", encode_entry(spec))
    assert isinstance(again, ToolSpec)
    assert again == spec
    assert bytes(again.input_schema) == b'{ "type": "object" }'


def test_fields_of_a_later_version_are_ignored() -> None:
    value = encode_entry(tool("reverse"))[:-1] + b',"colour":"blue"}'
    assert decode_entry("tools", value) == tool("reverse")


def test_what_is_no_entry_is_told_apart() -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        decode_entry("tools", b"{}")


def test_lists_are_by_name_whatever_order_the_tools_came_in() -> None:
    assert names(catalog_of(tool("b"), tool("c"), tool("a"))) == ["a", "b", "c"]


def test_the_newest_stable_version_answers_who_names_none() -> None:
    catalog = catalog_of(tool("t", "1.9.0"), tool("t", "1.10.0"), tool("t", "2.0.0-rc.1"))
    found = catalog.tool("t", EVERYBODY)
    assert found is not None
    assert found.version == "1.10.0"
    assert [spec.version for spec in catalog.tools["t"]] == ["2.0.0-rc.1", "1.10.0", "1.9.0"]


def test_the_version_that_a_caller_names_answers_or_none_does() -> None:
    catalog = catalog_of(tool("a", "1.0.0"), tool("a", "1.2.0"))
    assert catalog.tool("a", EVERYBODY, "1.0.0") == tool("a", "1.0.0")
    assert catalog.tool("a", EVERYBODY, "1.1.0") is None


def test_a_prerelease_answers_where_there_is_nothing_else() -> None:
    found = catalog_of(tool("t", "0.1.0-rc.1")).tool("t", EVERYBODY)
    assert found is not None
    assert found.version == "0.1.0-rc.1"


def test_versions_that_semver_calls_equal_have_one_order_everywhere() -> None:
    one, two = tool("t", "1.0.0+a"), tool("t", "1.0.0+b")
    assert catalog_of(one, two).tools == catalog_of(two, one).tools


def test_an_unlisted_tool_is_found_and_in_no_list() -> None:
    catalog = catalog_of(tool("hidden", visibility="unlisted"))
    assert catalog.tool("hidden", EVERYBODY) is not None
    assert names(catalog) == []


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [(("*",), ["sql_query", "text_embed"]), (("sql_*",), ["sql_query"]), ((), [])],
)
def test_a_caller_sees_what_its_patterns_name(allowed: tuple[str, ...], seen: list[str]) -> None:
    caller = Caller(Principal("default", "agent"), allowed)
    assert names(catalog_of(tool("sql_query"), tool("text_embed")), caller) == seen


def test_a_tool_may_admit_by_name_or_by_tag_and_is_otherwise_unknown() -> None:
    spec = tool("t", access=AccessPolicy(("research-*", "tag:lab")))
    catalog = catalog_of(spec)
    by_name = Caller(Principal("default", "research-7"))
    by_tag = Caller(Principal("default", "x", ("lab",)))
    assert catalog.tool("t", by_name) == catalog.tool("t", by_tag) == spec
    assert catalog.tool("t", Caller(Principal("default", "sales"))) is None


def agent(name: str, *tools: str, tags: tuple[str, ...] = ()) -> Caller:
    return Caller(Principal("default", name, tags), tools or ("*",))


def test_callers_with_equal_rights_see_the_same_tools_whatever_their_names() -> None:
    catalog = catalog_of(
        tool("a"),
        tool("b", access=AccessPolicy(("boss", "*"))),
        tool("c", access=AccessPolicy(("research-*",))),
        tool("d", access=AccessPolicy(("tag:lab",))),
        tool("d", "2.0.0", access=AccessPolicy(("research-1",))),
    )
    boss, clerk = agent("boss"), agent("clerk", "*", "a")
    assert catalog.tool_rights(boss) == catalog.tool_rights(clerk)
    assert names(catalog, boss) == names(catalog, clerk) == ["a", "b"]
    narrow, reordered = agent("x", "a*", "b*"), agent("y", "b*", "a*")
    assert catalog.tool_rights(narrow) == catalog.tool_rights(reordered)
    one, two = agent("research-1", tags=("lab",)), agent("research-2", tags=("lab",))
    different = [boss, narrow, one, two, agent("research-2"), agent("x", tags=("lab",))]
    assert len({catalog.tool_rights(caller) for caller in different}) == len(different)


def test_rights_follow_the_tools_policies() -> None:
    before = catalog_of(tool("a"))
    boss, clerk = agent("boss"), agent("clerk")
    assert before.tool_rights(boss) == before.tool_rights(clerk)
    after = before.changed(1, [put(tool("a", access=AccessPolicy(("boss",))))])
    assert after.tool_rights(boss) != after.tool_rights(clerk)


def test_prompts_that_a_caller_may_not_see_are_not_there() -> None:
    open_to_all = PromptSpec(name="b", description="B.", messages=(PromptMessage(text="b"),))
    closed = PromptSpec(
        name="a", description="A.", messages=(), access=AccessPolicy(principals=("boss",))
    )
    catalog = Catalog("s", 1, 1, {"prompts": {"a": closed, "b": open_to_all}})
    assert catalog.visible("prompts", EVERYBODY) == [open_to_all]
    assert catalog.get("prompts", "a", EVERYBODY) is None
    assert catalog.get("prompts", "a", Caller(Principal("default", "boss"))) is closed


def test_a_change_makes_another_catalog_and_leaves_the_old_one() -> None:
    before = catalog_of(tool("a"), tool("b"))
    after = before.changed(2, [put(tool("c"), 4), Change(5, "tools", "a@1.0.0", None)])
    assert (names(before), before.version) == (["a", "b"], (1, 1))
    assert (names(after), after.version) == (["b", "c"], (2, 5))
    assert after.of("prompts") is before.of("prompts")


def test_a_change_in_a_space_of_a_later_version_is_counted_and_ignored() -> None:
    after = catalog_of(tool("a")).changed(1, [Change(9, "rollouts", "a", b"{}")])
    assert (names(after), after.number) == (["a"], 9)


def written_later(key: str) -> bytes:
    """An entry with a field in a form that this version does not know."""
    return encode_entry(tool(key)).replace(b'"text"', b'{"any_of":["text"]}')


def test_a_change_that_cannot_be_read_takes_its_entry_away_and_leaves_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    new = Change(2, "tools", "a@1.0.0", written_later("a"))
    after = catalog_of(tool("a"), tool("b")).changed(1, [new, put(tool("c"), 3)])
    assert (names(after), after.number) == (["b", "c"], 3)
    assert [record.getMessage() for record in caplog.records] == [
        "tools a@1.0.0 is left out of the catalog: Expected `str`, got `object` - at `$.pool`"
    ]


def test_an_entry_of_a_snapshot_that_cannot_be_read_leaves_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries = [
        ("tools", "a@1.0.0", written_later("a")),
        ("tools", "b@1.0.0", encode_entry(tool("b"))),
        ("prompts", "p", b"no JSON"),
    ]
    catalog = Snapshot("sto_1", 1, 7, entries).catalog()
    assert (names(catalog), catalog.number) == (["b"], 7)
    assert caplog.text.count("is left out of the catalog") == 2


@pytest.mark.parametrize(
    "changes",
    [
        [put(tool("a", "2.0.0"))],
        [put(tool("a", description="Other."))],
        [put(tool("0"))],
        [Change(2, "tools", "a@1.0.0", None)],
        [Change(2, "tools", "b@1.0.0", None), Change(2, "tools", "b@1.1.0", None)],
        [put(tool("c")), Change(3, "tools", "c@1.0.0", None)],
        [Change(2, "tools", "none@1.0.0", None)],
        [],
    ],
)
def test_tools_carried_over_a_change_are_what_a_fresh_catalog_finds(changes: list[Change]) -> None:
    before = catalog_of(tool("b"), tool("b", "1.1.0"), tool("a"))
    assert list(before.tools) == ["a", "b"]
    after = before.changed(1, changes)
    fresh = Catalog("sto_1", 1, 2, {"tools": after.of("tools")})
    assert list(after.tools.items()) == list(fresh.tools.items())


def test_callers_stay_known_over_a_change_of_tools_and_change_with_principals() -> None:
    entry = PrincipalEntry("agent", key_hash("tbk_secret"))
    before = Catalog("s", 1, 1, {"principals": {"agent": entry}})
    book = before.principal_book
    assert before.changed(1, [put(tool("a"))]).principal_book is book
    after = before.changed(1, [Change(2, "principals", "agent", None)])
    assert after.principal_book is not book


def test_the_content_hash_tells_what_a_client_relies_on_and_nothing_else() -> None:
    spec = tool("t")
    assert content_hash_of(spec) == content_hash_of(tool("t", pool="other", version="2.0.0"))
    others = [
        tool("u"),
        tool("t", description="Other."),
        tool("t", input_schema=msgspec.Raw(b'{"type": "object"}')),
        tool("t", output_schema=SCHEMA),
    ]
    assert len({content_hash_of(s) for s in [spec, *others]}) == 5


def test_an_empty_catalog_is_older_than_any_other() -> None:
    assert Catalog.empty().version < catalog_of().version
    assert names(Catalog.empty()) == []
