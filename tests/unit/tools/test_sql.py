"""`sql_query` as a model uses it; what it withstands is in `test_sql_attacks.py`."""

import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from thornback.tools import ToolFailure, ToolResult, queries, query_process, sql
from thornback.tools.definition import tool_of

from .conftest import Recorded


@pytest.fixture
def ask(shipped: None) -> Callable[..., ToolResult]:
    def run(query: str, call: Recorded | None = None, **arguments: Any) -> ToolResult:
        return sql.sql_query(query, (call or Recorded()).ctx, **arguments)

    return run


Ask = Callable[..., ToolResult]
Register = Callable[..., None]


def test_rows_come_as_csv_for_the_model_and_typed_for_programs(ask: Ask) -> None:
    result = ask("SELECT species, count(*) AS n FROM penguins GROUP BY ALL ORDER BY n")
    assert result.content == "species,n\nChinstrap,68\nGentoo,124\nAdelie,152"
    assert result.structured == {
        "columns": [{"name": "species", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
        "rows": [["Chinstrap", 68], ["Gentoo", 124], ["Adelie", 152]],
        "row_count": 3,
        "truncated": False,
    }


def test_the_structured_result_fits_the_published_schema(ask: Ask) -> None:
    schema = msgspec.json.decode(tool_of(sql.sql_query).output_schema or b"")
    structured = ask("FROM penguins").structured
    assert jsonschema_rs.validator_for(schema).is_valid(structured)


def test_more_rows_than_asked_for_are_said_to_be_there(ask: Ask) -> None:
    result = ask("FROM penguins", max_rows=3)
    assert result.structured is not None
    assert (result.structured["row_count"], result.structured["truncated"]) == (3, True)
    assert str(result.content).endswith("(first 3 rows; there are more)")


def test_exactly_as_many_rows_as_asked_for_are_not_truncated(ask: Ask) -> None:
    result = ask("SELECT * FROM range(200)", max_rows=200)
    assert result.structured is not None
    assert not result.structured["truncated"]


def test_rows_travel_before_the_query_is_done(ask: Ask) -> None:
    call = Recorded()
    arrived = threading.Event()
    call.ctx.partial = lambda *_, **__: arrived.set()  # type: ignore[method-assign]
    # DuckDB works on 2048 rows at a time; the first 4096 are quick, the others take for ever.
    slow = (
        "SELECT CASE WHEN i < 4096 THEN 0 ELSE length(repeat('x', 1000000 + i::INT)) END "
        "FROM range(1000000) t(i)"
    )

    def run() -> None:
        with pytest.raises(ToolFailure):
            ask(slow, call, max_rows=10_000)

    worker = threading.Thread(target=run)
    worker.start()
    assert arrived.wait(20)
    call.ctx.cancel()
    worker.join(20)
    assert not worker.is_alive()


def test_the_parts_sent_ahead_are_the_rows_of_the_result(ask: Ask) -> None:
    call = Recorded()
    result = ask("SELECT * FROM range(500)", call, max_rows=450)
    sent = [row for part in call.partials for row in msgspec.json.decode(part.value)["rows"]]
    assert result.structured is not None
    assert sent == result.structured["rows"]
    assert call.progress[-1].progress == 450


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT NULL", None),
        ("SELECT DATE '2024-02-29'", "2024-02-29"),
        ("SELECT 1.5::DECIMAL(9, 2)", 1.5),
        ("SELECT 3::DECIMAL(9, 2)", 3),
        ("SELECT 99999999999999999999999::DECIMAL(38, 0)", "99999999999999999999999"),
        ("SELECT 'NaN'::DOUBLE", None),
        ("SELECT 9007199254740993", "9007199254740993"),
        ("SELECT [1, 2]", [1, 2]),
        ("SELECT {'a': [DATE '2024-01-01']}", {"a": ["2024-01-01"]}),
        ("SELECT 'ab'::BLOB", "6162"),
        ("SELECT TIMESTAMPTZ '2024-01-01 00:00:00+00'", "2024-01-01T00:00:00+00:00"),
        ("SELECT INTERVAL 1 DAY", "1 day, 0:00:00"),
    ],
)
def test_each_type_has_one_form_in_json(ask: Ask, query: str, value: Any) -> None:
    result = ask(query)
    assert result.structured is not None
    assert result.structured["rows"] == [[value]]


def test_a_with_may_have_the_name_of_the_dataset_that_it_reads(ask: Ask) -> None:
    queries.close_idle()  # nothing is loaded yet
    query = "WITH penguins AS (SELECT * FROM penguins WHERE species = 'Gentoo') FROM penguins"
    assert ask(f"SELECT count(*) AS n FROM ({query})").content == "n\n124"


def test_a_dataset_without_files_is_said_to_have_none(ask: Ask, register: Register) -> None:
    register(sales="/nowhere/*.csv")
    for query in ("FROM sales", "FROM main.Sales", "DESCRIBE sales"):
        with pytest.raises(ToolFailure, match=r"^dataset sales has no files at present$"):
            ask(query)
    assert ask("WITH sales AS (SELECT 1 AS n) FROM sales").content == "n\n1"


def test_one_row_is_one_row(ask: Ask) -> None:
    call = Recorded()
    assert str(ask("FROM range(2)", call, max_rows=1).content).endswith(
        "(first row; there are more)"
    )
    assert call.progress[-1].message == "1 row"


def test_cells_that_would_break_the_csv_are_quoted(ask: Ask) -> None:
    result = ask("SELECT 'a,b', '', NULL, 'say \"x\"'")
    assert str(result.content).splitlines()[1] == '"a,b","",,"say ""x"""'


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT speces FROM penguins", 'Candidate bindings: "species"'),
        ("SELECT * FROM penguin", "did you mean penguins"),
        ("SELEC 1", "syntax error at character 1"),
        ("SELECT 'x'::INTEGER", "Conversion Error"),
    ],
)
def test_a_mistake_is_explained_so_that_a_model_can_mend_it(
    ask: Ask, query: str, says: str
) -> None:
    with pytest.raises(ToolFailure) as failed:
        ask(query)
    assert says in str(failed.value)


@pytest.mark.parametrize("query", ["SHOW TABLES", "DESCRIBE penguins", "SUMMARIZE weather"])
def test_a_model_can_find_its_way_about(ask: Ask, query: str) -> None:
    assert ask(query).structured


def test_parquet_and_json_lines_are_tables_too(
    tmp_path: Path, register: Callable[..., None], call: Recorded
) -> None:
    import duckdb

    duckdb.sql(f"COPY (SELECT 7 AS x) TO '{tmp_path / 'a.parquet'}'")
    (tmp_path / "b.jsonl").write_text('{"y": 8}\n')
    register(a=str(tmp_path / "a.parquet"), b=str(tmp_path / "*.jsonl"))
    assert sql.sql_query("SELECT x, y FROM a, b", call.ctx).content == "x,y\n7,8"


def test_a_large_dataset_is_read_where_it_lies(
    tmp_path: Path, register: Callable[..., None], call: Recorded
) -> None:
    with (tmp_path / "large.csv").open("w") as file:
        file.write("x,text\n")
        file.writelines(f"{i},{'t' * 90}\n" for i in range(100_000))
    register(large=str(tmp_path / "*.csv"))
    assert sql.sql_query("SELECT sum(x) FROM large", call.ctx).content == "sum(x)\n4999950000"


def test_new_data_is_seen_by_the_next_query(
    tmp_path: Path, register: Callable[..., None], call: Recorded
) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    register(sales=str(tmp_path / "*.csv"))
    assert sql.sql_query("SELECT sum(x) FROM sales", call.ctx).content == "sum(x)\n1"
    (tmp_path / "b.csv").write_text("x\n41\n")
    assert sql.sql_query("SELECT sum(x) FROM sales", call.ctx).content == "sum(x)\n42"


def test_a_query_process_serves_the_next_query_too(ask: Ask) -> None:
    ask("SELECT 1")
    waiting = list(queries._idle)
    ask("SELECT 2")
    assert waiting
    assert queries._idle == waiting


def test_a_row_larger_than_a_result_is_refused(ask: Ask) -> None:
    with pytest.raises(ToolFailure, match="one row alone is larger"):
        ask("SELECT repeat('x', 3000000)")


def test_a_result_ends_where_it_would_be_too_large(ask: Ask) -> None:
    result = ask("SELECT repeat('x', 300000) FROM range(10)")
    assert result.structured is not None
    assert (result.structured["row_count"], result.structured["truncated"]) == (3, True)


def test_more_queries_than_processes_wait_for_their_turn(ask: Ask) -> None:
    with ThreadPoolExecutor(queries.MAX_PROCESSES + 3) as threads:
        answers = list(threads.map(lambda i: ask(f"SELECT {i} AS i").content, range(20)))
    assert answers == [f"i\n{i}" for i in range(20)]
    assert len(queries._idle) <= queries.MAX_PROCESSES


def test_a_query_has_the_threads_of_its_pool(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    openings: list[dict[str, Any]] = []
    send = queries._QueryProcess._send

    def noted(process: queries._QueryProcess, message: dict[str, Any]) -> None:
        openings.append(message)
        send(process, message)

    monkeypatch.setattr(queries._QueryProcess, "_send", noted)
    monkeypatch.setenv("THORNBACK_THREADS", "3")
    queries.close_idle()  # those have the threads that they began with
    ask("SELECT 1")
    queries.close_idle()
    assert openings[0]["threads"] == 3
    engine = query_process.Engine({}, {}, queries.MEMORY_BYTES, threads=3)
    assert engine._connection.sql("SELECT current_setting('threads')").fetchall() == [(3,)]


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("queries", "duckdb", "data"),
        ("charts", "matplotlib", "data"),
        ("training", "sklearn", "learn"),
    ],
)
def test_a_missing_extra_is_named_by_the_import(
    monkeypatch: pytest.MonkeyPatch, module: str, missing: str, extra: str
) -> None:
    source = Path(queries.__file__).with_name(f"{module}.py")
    specification = importlib.util.spec_from_file_location(f"without_{missing}", source)
    assert specification is not None
    assert specification.loader is not None
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(ImportError, match=rf'pip install "thornback\[{extra}\]"'):
        specification.loader.exec_module(importlib.util.module_from_spec(specification))
