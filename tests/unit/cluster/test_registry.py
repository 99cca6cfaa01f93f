import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from thornback.cluster.catalog import (
    ENTRY_TYPES,
    AccessPolicy,
    Annotations,
    Batch,
    CallPolicy,
    Entry,
    Lifecycle,
    PoolEntry,
    PromptMessage,
    PromptSpec,
    ResourceSpec,
    TemplateSpec,
    ToolSpec,
    content_hash_of,
    encode_entry,
)
from thornback.cluster.errors import RegistrationError, StoreError
from thornback.cluster.journal import Journal, Record, Write
from thornback.cluster.news import News, decode_news, decode_snapshot, encode
from thornback.cluster.principals import PrincipalEntry, key_hash
from thornback.cluster.registry import (
    MAX_ENTRY_BYTES,
    Edit,
    Registry,
    decode_edit,
    edit_of,
    encode_edit,
)
from thornback.cluster.schema_rules import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, schema_fault

OBJECT = {"type": "object"}


def tool(
    name: str, pool: str = "text", version: str = "1.0.0", schema: object = OBJECT, **fields: object
) -> ToolSpec:
    given = {"description": "Does it.", "input_schema": msgspec.Raw(json.dumps(schema)), **fields}
    return ToolSpec(name=name, version=version, pool=pool, **given)  # type: ignore[arg-type]


def opened(directory: Path, log_changes: int = 20_000) -> tuple[Registry, Journal]:
    journal = Journal.open(
        directory, owner="the test", program_version="0.1.0", log_changes=log_changes
    )
    return Registry(journal), journal


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry, journal = opened(tmp_path)
    yield registry
    journal.close()


def write(registry: Registry, edit: Edit) -> tuple[int, int]:
    """The version that the edit made; raises what refused it."""
    (outcome,) = registry.write(edit)
    if isinstance(outcome, RegistrationError):
        raise outcome
    return outcome


def offered(registry: Registry) -> list[str]:
    return sorted(registry.catalog.of("tools"))


ENTRIES: list[Entry] = [
    tool("reverse"),
    PromptSpec(name="greet", description="Greets.", messages=(PromptMessage(text="Hi"),)),
    ResourceSpec(uri="data://a", name="a", sha256="0" * 64, size_bytes=1),
    TemplateSpec(uri_template="data://{x}", name="x", text="{{ x }}"),
    PoolEntry(name="text", application="thornback.local.text", modules=("m",)),
    PrincipalEntry("agent", key_hash("tbk_1")),
]


def test_every_kind_of_entry_is_kept_over_a_restart(tmp_path: Path) -> None:
    registry, journal = opened(tmp_path)
    assert write(registry, edit_of(*ENTRIES)) == (1, 1)
    before = registry.catalog
    journal.close()
    registry, journal = opened(tmp_path)
    assert registry.version == (2, 1)
    for space in ENTRY_TYPES:
        assert registry.catalog.of(space) == before.of(space)
        assert len(registry.catalog.of(space)) == 1
    journal.close()


def test_every_fact_of_a_tool_is_kept(tmp_path: Path) -> None:
    whole = ToolSpec(
        name="reverse",
        version="1.2.0-rc.1",
        description="Turns a text round.",
        title="Reverse",
        signature="reverse(text: str) -> str",
        module="my.tools",
        input_schema=msgspec.Raw(b'{"type": "object",  "x-mine": 1.0}'),
        output_schema=msgspec.Raw(b'{"type": "object"}'),
        annotations=Annotations(
            read_only=True, destructive=False, idempotent=True, open_world=False
        ),
        access=AccessPolicy(("tag:lab",)),
        call=CallPolicy(timeout_s=2, queue_timeout_s=3, max_attempts=1, max_result_bytes=4),
        batch=Batch(max_batch_size=8, batch_wait_timeout_s=0.5, max_concurrent_batches=2),
        pool="text",
        owner="ann",
        tags=("words",),
        visibility="unlisted",
        lifecycle=Lifecycle("deprecated", sunset="2027-01-01", successor="mirror"),
        stated=("title",),
    )
    whole = msgspec.structs.replace(whole, content_hash=content_hash_of(whole))
    plain = tool("plain")
    fields = ToolSpec.__struct_fields__
    assert [name for name in fields if getattr(whole, name) == getattr(plain, name)] == ["pool"]
    registry, journal = opened(tmp_path)
    write(registry, edit_of(whole))
    journal.close()
    registry, journal = opened(tmp_path)
    assert registry.catalog.of("tools")[whole.key] == whole
    journal.close()


def test_a_write_makes_a_number_and_one_that_changes_nothing_makes_none(
    registry: Registry,
) -> None:
    edit = edit_of(tool("reverse"), withdraw=[("tools", "never@1.0.0")], pool="text")
    assert [write(registry, edit) for _ in range(2)] == [(1, 1), (1, 1)]
    assert write(registry, edit_of(tool("reverse", description="Anew."))) == (1, 2)
    assert write(registry, edit_of(withdraw=[("tools", "reverse@1.0.0")])) == (1, 3)
    assert write(registry, edit_of(withdraw=[("tools", "reverse@1.0.0")])) == (1, 3)
    assert offered(registry) == []


def test_edits_written_together_are_judged_one_after_the_other(registry: Registry) -> None:
    outcomes = registry.write(
        edit_of(tool("a")),
        edit_of(tool("a", pool="sql")),
        edit_of(withdraw=[("tools", "a@1.0.0")]),
        edit_of(tool("a", pool="sql")),
        edit_of(tool("a", pool="sql")),
    )
    assert [o if isinstance(o, tuple) else type(o) for o in outcomes] == [
        (1, 1),
        RegistrationError,
        (1, 2),
        (1, 3),
        (1, 3),
    ]


def test_a_pool_that_registers_replaces_all_its_tools_and_no_others(registry: Registry) -> None:
    write(registry, edit_of(tool("a"), tool("b"), pool="text"))
    write(registry, edit_of(tool("q", pool="sql"), pool="sql"))
    write(registry, edit_of(tool("b", description="Anew."), tool("c"), pool="text"))
    assert offered(registry) == ["b@1.0.0", "c@1.0.0", "q@1.0.0"]
    write(registry, edit_of(pool="text"))
    assert offered(registry) == ["q@1.0.0"]


def test_one_tool_of_a_pool_is_replaced_alone_where_no_pool_is_named(registry: Registry) -> None:
    write(registry, edit_of(tool("a"), tool("b"), pool="text"))
    write(registry, edit_of(tool("b", description="Anew.")))
    assert offered(registry) == ["a@1.0.0", "b@1.0.0"]


def test_two_pools_offer_one_tool_at_different_versions_only(registry: Registry) -> None:
    write(registry, edit_of(tool("a", "text"), pool="text"))
    write(registry, edit_of(tool("a", "next", "2.0.0"), pool="next"))
    with pytest.raises(RegistrationError, match=r"a@1\.0\.0 is offered by pool text and by pool b"):
        write(registry, edit_of(tool("a", "b"), tool("other", "b"), pool="b"))
    with pytest.raises(RegistrationError, match=r"n@1\.0\.0 is offered by pool x and by pool y"):
        write(registry, edit_of(tool("n", "x"), tool("n", "y")))
    assert offered(registry) == ["a@1.0.0", "a@2.0.0"]


def test_a_refused_edit_leaves_nothing_and_names_every_fault(registry: Registry) -> None:
    good, bad = tool("good"), [tool(f"b d{i}", version="one") for i in range(20)]
    with pytest.raises(RegistrationError) as refused:
        write(registry, edit_of(good, *bad, withdraw=[("tools", "x@1.0.0")]))
    lines = str(refused.value).splitlines()
    assert lines[0] == "tool b d0@one: a name is 1 to 64 of a-z, A-Z, 0-9, _ and -"
    assert lines[-1] == "... and 30 more"
    assert (registry.version, offered(registry)) == ((1, 0), [])


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (tool(""), "1 to 64"),
        (tool("a" * 65), "1 to 64"),
        (tool("naïve"), "1 to 64"),
        (tool("a\nb"), "1 to 64"),
        (tool("a", version="1.0"), "'1.0' is not a semantic version"),
        (tool("a", version="01.0.0"), "not a semantic version"),
        (tool("a", pool=""), "names no pool"),
        (tool("a", schema={"type": "array"}), "input schema: must have"),
        (tool("a", output_schema=msgspec.Raw(b'{"type": 1}')), "output schema: not a valid"),
        (tool("a", content_hash="0" * 64), "content_hash"),
        (PromptSpec(name="a b", description="", messages=()), "1 to 64"),
        (ResourceSpec(uri="", name="a", sha256="0" * 64, size_bytes=1), "printable"),
        (ResourceSpec(uri="x" * 2049, name="a", sha256="0" * 64, size_bytes=1), "printable"),
        (ResourceSpec(uri="a", name="a", sha256="0" * 63, size_bytes=1), "64 lower-case hex"),
        (PrincipalEntry("a", "secret"), "64 lower-case hex"),
        (PoolEntry(name="a/b", application="x", modules=()), "1 to 64"),
    ],
)
def test_an_entry_that_no_client_could_use_is_refused(
    registry: Registry, entry: Entry, fault: str
) -> None:
    with pytest.raises(RegistrationError, match=fault):
        write(registry, edit_of(entry))


def test_the_longest_name_and_a_full_version_are_fine(registry: Registry) -> None:
    spec = tool(
        "a" * 64, version="1.0.0-rc.1+build.5", output_schema=msgspec.Raw(b'{"type":"null"}')
    )
    write(registry, edit_of(msgspec.structs.replace(spec, content_hash=content_hash_of(spec))))


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (edit_of(tool("a"), tool("a", description="Other.")), "twice in one edit"),
        (edit_of(tool("a", pool="sql"), pool="text"), "of pool sql, in an edit of pool text"),
        (Edit(put=[("tools", b"{}")]), "not an entry of tools"),
        (Edit(put=[("tools", b'{"a":' * 100_000)]), "not an entry of tools"),
        (Edit(put=[("tools", b" " * (MAX_ENTRY_BYTES + 1))]), "are allowed"),
    ],
)
def test_an_edit_that_contradicts_itself_is_refused(
    registry: Registry, edit: Edit, fault: str
) -> None:
    with pytest.raises(RegistrationError, match=fault):
        write(registry, edit)


def test_principals_never_share_a_key(registry: Registry) -> None:
    one, two = PrincipalEntry("one", key_hash("k")), PrincipalEntry("two", key_hash("k"))
    with pytest.raises(RegistrationError, match="principals one and two have the same key"):
        write(registry, edit_of(one, two))
    write(registry, edit_of(one))
    with pytest.raises(RegistrationError, match="principals one and two have the same key"):
        write(registry, edit_of(two))
    write(registry, edit_of(two, withdraw=[("principals", "one")]))
    assert list(registry.catalog.of("principals")) == ["two"]


def test_an_edit_crosses_as_bytes_and_rubbish_is_refused() -> None:
    edit = edit_of(*ENTRIES, withdraw=[("tools", "x@1.0.0")], pool="text")
    assert decode_edit(encode_edit(edit)) == edit
    for rubbish in (b"", b"\xff", msgspec.msgpack.encode({"put": [["nowhere", b""]]})):
        with pytest.raises(RegistrationError, match="not an edit"):
            decode_edit(rubbish)


# --- schemas --------------------------------------------------------------------------------------


def nested(levels: int) -> bytes:
    return b'{"type":"object","properties":' + b'{"a":' * levels + b"{}" + b"}" * (levels + 1)


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b'{"type":"object","maximum":NaN}', "not JSON"),
        (b'{"type":"object","properties":{"a":{"type":"strin"}}}', "at /properties/a/type"),
        (b'{"type":"object","properties":{"a":{"pattern":"("}}}', "regex"),
        (b'{"type":"object","properties":{"a":{"$ref":"#/$defs/none"}}}', "does not exist"),
        (b'{"type":"object","$schema":"http://x.example/mine"}', "not a valid schema"),
        (b'{"type":"object","properties":{"a":{"$ref":"http://x.example/a"}}}', "points outside"),
        (b'{"type":"object","allOf":[{"$ref":"file:///etc/passwd"}]}', "points outside"),
        (b'{"type":"object","$dynamicRef":"other.json"}', "points outside"),
        (b'{"type":"object","properties":{"default":{"$ref":"http://x.example/a"}}}', "disabled"),
        (nested(MAX_SCHEMA_DEPTH), "deeper than"),
        (nested(40_000), "deeper than"),
        (b'{"type":"object","title":"' + b"x" * MAX_SCHEMA_BYTES + b'"}', "bytes, and"),
    ],
)
def test_a_schema_that_is_invalid_unbounded_or_incomplete_is_refused(
    schema: bytes, fault: str
) -> None:
    assert fault in (schema_fault(schema, of_object=True) or "nothing found")


@pytest.mark.parametrize(
    "schema",
    [
        b'{"type":"object"}',
        nested(MAX_SCHEMA_DEPTH - 3),
        b'{"type":"object","$schema":"http://json-schema.org/draft-07/schema#"}',
        b'{"type":"object","properties":{"n":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"null"}}}',
        b'{"type":"object","properties":{"$ref":{"type":"string","default":"http://x.example"}}}',
        b'{"type":"object","default":{"$ref":"http://x.example/a"}}',
    ],
)
def test_a_schema_that_is_complete_in_itself_is_fine(schema: bytes) -> None:
    assert schema_fault(schema, of_object=True) is None


def test_a_result_may_be_of_any_type() -> None:
    assert schema_fault(b'{"type":"array"}', of_object=False) is None


# --- what watchers hear ---------------------------------------------------------------------------


def test_a_watcher_that_applies_the_news_has_the_registrys_catalog(registry: Registry) -> None:
    mirror = registry.catalog
    write(registry, edit_of(tool("a"), tool("b"), pool="text"))
    write(registry, edit_of(tool("c"), withdraw=[("tools", "a@1.0.0")]))
    news = registry.news_since(mirror.number)
    assert news.changes is not None
    mirror = mirror.changed(news.epoch, news.changes)
    assert mirror.version == registry.version == (1, 2)
    assert mirror.of("tools") == registry.catalog.of("tools")


def test_only_changes_travel(registry: Registry) -> None:
    write(registry, edit_of(*(tool(f"t{i}") for i in range(500)), pool="text"))
    write(registry, edit_of(tool("t7", description="Anew.")))
    assert 10 * len(encode(registry.news_since(1))) < len(encode(registry.snapshot()))


def test_a_watcher_who_is_up_to_date_hears_where_it_is(registry: Registry) -> None:
    write(registry, edit_of(tool("a")))
    assert registry.news_since(1) == News(registry.store_id, 1, 1, [])


@pytest.mark.parametrize("number", [0, -1, 10])
def test_a_number_that_the_log_has_not_calls_for_a_snapshot(tmp_path: Path, number: int) -> None:
    registry, journal = opened(tmp_path, log_changes=4)
    for i in range(6):
        write(registry, edit_of(tool(f"t{i}")))
    assert registry.news_since(number).changes is None
    journal.close()


def test_many_changes_come_in_several_answers(registry: Registry) -> None:
    for i in range(5):
        write(registry, edit_of(*(tool(f"t{i}-{n}") for n in range(400))))
    answers, number = [], 0
    while (news := registry.news_since(number)).number > number:
        number = news.number
        answers.append(len(news.changes or []))
    assert (number, sum(answers)) == (5, 2000)
    assert max(answers) <= 1000


def test_news_and_snapshots_cross_as_bytes(registry: Registry) -> None:
    write(registry, edit_of(*ENTRIES))
    news, snapshot = registry.news_since(0), registry.snapshot()
    assert decode_news(encode(news)) == news
    assert decode_snapshot(encode(snapshot)) == snapshot
    assert snapshot.catalog().of("tools") == registry.catalog.of("tools")


def test_an_answer_in_a_later_format_is_told_apart(registry: Registry) -> None:
    with pytest.raises(StoreError, match="speaks format 02; this version knows 01"):
        decode_news(b"\x02" + encode(registry.news_since(0))[1:])


# --- beside the catalog ---------------------------------------------------------------------------


def test_a_pools_hosts_are_told_of_its_tools_and_of_nothing_else(registry: Registry) -> None:
    write(registry, edit_of(tool("a"), tool("b"), tool("c", pool="sql"), *ENTRIES[1:]))
    assert sorted(registry.tools_of("text")) == [encode_entry(tool("a")), encode_entry(tool("b"))]
    assert registry.tools_of("none") == []


def test_a_store_with_a_damaged_tool_is_an_error_of_the_store(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, owner="the test", program_version="0.1.0")
    journal.commit([Write("tools", "a@1.0.0", b"\x00rubbish")])
    with pytest.raises(StoreError, match=f"{tmp_path} holds a tool that is none"):
        Registry(journal)
    journal.close()


def test_notes_are_durable_and_watchers_hear_nothing_of_them(tmp_path: Path) -> None:
    registry, journal = opened(tmp_path)
    write(registry, edit_of(tool("a")))
    registry.note("probes", "abc", b"1")
    registry.note("probes", "gone", b"2")
    registry.note("probes", "gone", None)
    assert registry.version == (1, 1)
    assert write(registry, edit_of(tool("b")))[1] > 2
    (change,) = registry.news_since(1).changes or []
    assert change.key == "b@1.0.0"
    registry.note("probes", "last", b"3")
    number = registry.version[1]
    journal.close()
    registry, journal = opened(tmp_path)
    assert registry.version == (2, number)
    assert [registry.noted("probes", key) for key in ("abc", "gone", "none")] == [b"1", None, None]
    journal.close()


def test_a_list_of_notes_keeps_its_last_and_takes_a_repeated_one_once(tmp_path: Path) -> None:
    registry, journal = opened(tmp_path)
    for value in (b"1", b"2", b"2", b'{"three": 3}'):
        registry.add_note("scaling", "text", value, keep=2)
    journal.close()
    registry, journal = opened(tmp_path)
    assert registry.added_notes("scaling", "text") == [b"2", b'{"three": 3}']
    assert registry.added_notes("scaling", "none") == []
    journal.close()


def test_two_who_add_a_note_at_once_both_keep_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Journal.get
    others = iter([b"2"])

    def get_and_be_overtaken(journal: Journal, space: str, key: str) -> Record | None:
        record = read(journal, space, key)
        for value in others:
            registry.add_note("scaling", "text", value, keep=9)
        return record

    monkeypatch.setattr(Journal, "get", get_and_be_overtaken)
    registry.add_note("scaling", "text", b"1", keep=9)
    assert registry.added_notes("scaling", "text") == [b"2", b"1"]


def test_a_long_run_of_notes_hides_no_change(registry: Registry) -> None:
    write(registry, edit_of(tool("a")))
    for i in range(1200):
        registry.note("probes", str(i), b"1")
    write(registry, edit_of(tool("b")))
    assert [c.key for c in registry.news_since(1).changes or []] == ["b@1.0.0"]


def test_the_keys_are_made_once_and_are_in_nothing_that_is_published(tmp_path: Path) -> None:
    registry, journal = opened(tmp_path)
    (key,) = registry.keys()
    assert len(key) == 32
    write(registry, edit_of(tool("a")))
    for message in (registry.snapshot(), registry.news_since(0)):
        assert key not in msgspec.msgpack.encode(message)
    journal.close()
    registry, journal = opened(tmp_path)
    assert registry.keys() == [key]
    journal.close()


def test_a_note_is_no_entry_even_under_the_name_of_a_space(registry: Registry) -> None:
    registry.note("tools", "a@1.0.0", encode_entry(tool("a")))
    assert offered(registry) == []
