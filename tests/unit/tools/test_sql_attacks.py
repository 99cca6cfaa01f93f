"""What a hostile query can reach: nothing but the datasets, and no more than its share.

Every attack is judged by what it did, whatever it answered: the canary was not read, nothing was
written, no path or secret was told, and it was over in time and within its memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from thornback.tools import ToolFailure, queries, query_process, sql

from .conftest import Recorded

CANARY = "canary-5f1c"
TIMEOUT_S = 0.6
SLACK_S = 5.0
"""For a loaded machine: killing takes milliseconds, being scheduled may not."""


class Yard:
    """A directory with a dataset, a canary beside it, and a record of what is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "sales.csv").write_text("id,amount\n1,10\n2,20\n")
        (directory / "canary.csv").write_text(f"secret\n{CANARY}\n")
        self.before = self._contents()

    def is_unchanged(self) -> bool:
        return self._contents() == self.before

    def _contents(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module")
def only_yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return Yard(tmp_path_factory.mktemp("yard"))


@pytest.fixture
def yard(only_yard: Yard, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setattr(sql, "QUERY_TIMEOUT_S", TIMEOUT_S)
    register(sales=f"{only_yard.directory}/sales.csv")
    return only_yard


def attack(query: str, yard: Yard) -> str:
    """Run it and check that it did no harm; what it answered."""
    query = query.replace("YARD", str(yard.directory))
    started = time.monotonic()
    try:
        result = sql.sql_query(query, Recorded().ctx)
        answer = json.dumps([result.content, result.structured], default=str)
    except ToolFailure as refusal:
        answer = f"refused: {refusal}"
    took_s = time.monotonic() - started
    assert CANARY not in answer
    assert "root:" not in answer
    assert f"{yard.directory}/sales.csv" not in answer
    assert yard.is_unchanged()
    assert took_s < TIMEOUT_S + SLACK_S
    return answer


READING_FILES = [
    "FROM read_csv('YARD/canary.csv')",
    "FROM read_csv_auto('YARD/canary.csv')",
    "FROM read_text('YARD/canary.csv')",
    "FROM read_blob('YARD/*')",
    "FROM read_json('YARD/canary.csv')",
    "FROM read_parquet('YARD/canary.csv')",
    "FROM read_duckdb('YARD/canary.csv')",
    "FROM parquet_metadata('YARD/canary.csv')",
    "FROM sniff_csv('YARD/canary.csv')",
    "FROM glob('YARD/*')",
    "FROM 'YARD/canary.csv'",
    'FROM "YARD/canary.csv"',
    "FROM '/etc/passwd'",
    "FROM '/proc/self/environ'",
    "SELECT * FROM sales WHERE 1 = (SELECT count(*) FROM read_text('YARD/canary.csv'))",
    "WITH sales AS (FROM read_text('YARD/canary.csv')) FROM sales",
    "SELECT (SELECT content FROM read_text('YARD/canary.csv'))",
    "FROM query('FROM read_text(''YARD/canary.csv'')')",
    "FROM query_table('YARD/canary.csv')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''YARD/canary.csv'')'))",
    "FROM/**/read_text/**/('YARD/canary.csv')",
    "FROM ReAd_TeXt('YARD/canary.csv')",
    "FROM \"read_text\"('YARD/canary.csv')",
    "FROM system.main.read_text('YARD/canary.csv')",
    "FROM read_text(chr(47) || 'etc' || chr(47) || 'passwd')",
    "FROM sales, LATERAL (FROM read_text('YARD/canary.csv'))",
    "SUMMARIZE FROM read_csv('YARD/canary.csv')",
    "SELECT json_serialize_plan('FROM read_text(''YARD/canary.csv'')')",
    "DESCRIBE FROM read_csv('YARD/canary.csv')",
    "SUMMARIZE 'YARD/canary.csv'",
    "DESCRIBE 'YARD/canary.csv'",
    "PIVOT (FROM read_csv('YARD/canary.csv')) ON secret",
    "FROM read_text('\uff0fetc\uff0fpasswd')",
    "FROM seq_scan('sales')",
    "SELECT * FROM sales UNION ALL FROM read_csv('YARD/canary.csv')",
]

WRITING = [
    "COPY sales TO 'YARD/out.csv'",
    "COPY (SELECT 1) TO 'YARD/sales.csv'",
    "COPY sales FROM 'YARD/canary.csv'",
    "WITH x AS (COPY (SELECT 1) TO 'YARD/sales.csv') FROM x",
    "WITH x AS (INSERT INTO sales VALUES (3, 30) RETURNING *) FROM x",
    "EXPORT DATABASE 'YARD/out'",
    "IMPORT DATABASE 'YARD/out'",
    "ATTACH 'YARD/new.db'",
    "ATTACH ':memory:' AS other",
    "CREATE TABLE t AS FROM sales",
    "CREATE VIEW v AS FROM read_text('YARD/canary.csv')",
    "CREATE MACRO m() AS TABLE FROM read_text('YARD/canary.csv')",
    "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "CREATE OR REPLACE TEMP TABLE sales AS SELECT 1",
    "INSERT INTO sales VALUES (3, 30)",
    "UPDATE sales SET amount = 0",
    "DELETE FROM sales",
    "DROP TABLE sales",
    "ALTER TABLE sales ADD COLUMN x INT",
    "CHECKPOINT",
    "VACUUM",
    "EXPLAIN ANALYZE COPY sales TO 'YARD/out.csv'",
    "SELECT 1; COPY sales TO 'YARD/out.csv'",
    "SELECT 1 /* ; */ ; -- \n COPY sales TO 'YARD/out.csv'",
    "PREPARE p AS COPY sales TO 'YARD/out.csv'",
    "BEGIN TRANSACTION",
]

OUT_OF_SCOPE = [
    "SELECT (WITH sqlite_master AS (SELECT 1) SELECT 1), * FROM sqlite_master",
    "WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a",
    "FROM sales, (WITH PG_SETTINGS AS (SELECT 1) SELECT 1), pg_settings",
    "SELECT (WITH duckdb_columns AS (SELECT 1) SELECT 1), * FROM duckdb_columns",
    "SELECT (WITH pragma_database_list AS (SELECT 1) SELECT 1), * FROM pragma_database_list",
    """SELECT (WITH "YARD/sales.csv" AS (SELECT 1) SELECT 1), * FROM "YARD/sales.csv" """,
]
"""A WITH that gives its name only to a part of the statement, which the rest reads as well."""

REACHING_OUT = [
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD 'YARD/evil.duckdb_extension'",
    "FORCE INSTALL spatial FROM community",
    "FROM read_csv('http://127.0.0.1:1/x.csv')",
    "FROM 'https://example.com/x.parquet'",
    "FROM 's3://bucket/x.parquet'",
    "ATTACH 'http://127.0.0.1:1/x.db'",
    "ATTACH 'host=127.0.0.1' AS pg (TYPE postgres)",
]

SETTINGS_AND_SECRETS = [
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "SET lock_configuration = false",
    "RESET memory_limit",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "SELECT getenv('CANARY')",
    "SELECT current_setting('allowed_paths')",
    "SELECT getvariable('x')",
    "FROM duckdb_settings()",
    "FROM duckdb_secrets()",
    "FROM duckdb_views()",
    "FROM duckdb_tables()",
    "FROM duckdb_logs()",
    "FROM information_schema.tables",
    "FROM pg_catalog.pg_views",
    "FROM sqlite_master",
    "SELECT pg_get_viewdef(1)",
    "SELECT write_log('x')",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
    "FROM enable_logging()",
    "USE system",
    "SET VARIABLE x = (SELECT content FROM read_text('YARD/canary.csv'))",
    "FROM sales AT (VERSION => 1)",
    "SELECT nextval('s')",
    "FROM test_all_types()",
    "SELECT $1",
    "\x00SELECT 1",
    "",
    ";",
    "--",
]

BOMBS = [
    "SELECT repeat('x', 4000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT sum(length(repeat('x', 100000000 + i::INT))) FROM range(1000) t(i)",
    "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)",
    "SELECT list(i) FROM range(10000000000) t(i)",
    "SELECT list_sum(range(1000000000))",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
    "SELECT * FROM range(10000000000) t(i) ORDER BY hash(i)",
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT max(i) FROM r",
    "WITH RECURSIVE r(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM r) SELECT max(s) FROM r",
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    "SELECT length(regexp_replace(repeat('a', 100000000), 'a', 'bbbbbbbbbb', 'g'))",
    "SELECT printf('%2000000000d', 1)",
    "SELECT map(range(50000000), range(50000000))",
    "SELECT pg_sleep(3600)",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "1+" * 9000 + "1",
    "SELECT 1" + " UNION ALL SELECT 1" * 1000,
]


@pytest.mark.parametrize("query", READING_FILES)
def test_no_file_but_the_datasets_can_be_read(query: str, yard: Yard) -> None:
    assert attack(query, yard).startswith("refused")


@pytest.mark.parametrize("query", OUT_OF_SCOPE)
def test_a_name_of_a_with_opens_nothing_where_it_does_not_hold(query: str, yard: Yard) -> None:
    sql.sql_query("SELECT count(*) FROM sales", Recorded().ctx)  # what is loaded can be told about
    assert attack(query, yard).startswith("refused")


@pytest.mark.parametrize("query", WRITING)
def test_nothing_can_be_written(query: str, yard: Yard) -> None:
    assert attack(query, yard).startswith("refused")


@pytest.mark.parametrize("query", REACHING_OUT)
def test_neither_network_nor_extension_can_be_reached(query: str, yard: Yard) -> None:
    assert attack(query, yard).startswith("refused")


@pytest.mark.parametrize("query", SETTINGS_AND_SECRETS)
def test_settings_and_secrets_are_out_of_reach(query: str, yard: Yard) -> None:
    assert attack(query, yard).startswith("refused")


@pytest.mark.parametrize("query", BOMBS, ids=lambda query: query[:50])
def test_a_bomb_harms_nobody_but_itself(query: str, yard: Yard) -> None:
    attack(query, yard)
    assert sql.sql_query("SELECT sum(amount) FROM sales", Recorded().ctx).content == (
        "sum(amount)\n30"
    )


def test_no_bomb_grew_beyond_its_memory(yard: Yard) -> None:
    for query in BOMBS[:3]:
        attack(query, yard)
    queries.close_idle()  # a process is counted once it has ended
    largest_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert 0 < largest_bytes < 2 * queries.MEMORY_BYTES


def test_a_query_process_has_none_of_its_hosts_environment(yard: Yard) -> None:
    sql.sql_query("SELECT 1", Recorded().ctx)
    (process, *_) = queries._idle
    environment = Path(f"/proc/{process._process.pid}/environ").read_text()
    assert CANARY in os.environ["CANARY"]
    assert CANARY not in environment


def test_a_cancelled_call_ends_its_query_at_once(yard: Yard, call: Recorded) -> None:
    call.ctx.cancel()
    with pytest.raises(ToolFailure, match="cancelled"):
        sql.sql_query("SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))", call.ctx)


HOST = """
import threading
from thornback.tools import queries, sql
from thornback.tools.datasets import Registered
from thornback.tools.testing import Recorded

process = queries._QueryProcess(Registered({}, {}))
queries._idle.append(process)
sql.sql_query("SELECT 1", Recorded(remaining_s=60))
query = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))"
print(process._process.pid, flush=True)
sql.sql_query(query, Recorded(remaining_s=60))
"""


def test_a_query_ends_with_its_host_whatever_kills_that(yard: Yard) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "THORNBACK_DATASETS": "{}"})  # fmt: skip
    assert host.stdout is not None
    query = psutil.Process(int(host.stdout.readline()))
    while query.cpu_times().user < 1:  # it is at work, deep in DuckDB
        assert host.poll() is None
    host.kill()
    host.communicate()
    psutil.wait_procs([query], timeout=SLACK_S)
    assert not query.is_running() or query.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "statement",
    [
        "FROM read_text('YARD/canary.csv')",
        "FROM glob('YARD/*')",
        "COPY (SELECT 1) TO 'YARD/out.csv'",
        "ATTACH 'YARD/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "FROM read_csv('http://127.0.0.1:1/x.csv')",
        "SET enable_external_access = true",
        "SET allowed_paths = ['YARD/canary.csv']",
        "SET memory_limit = '100GB'",
        "SET temp_directory = 'YARD'",
    ],
)
def test_duckdb_itself_is_locked_should_the_guard_ever_fail(statement: str, yard: Yard) -> None:
    import duckdb

    sales = {"format": "csv", "files": [f"{yard.directory}/sales.csv"], "size_bytes": 10}
    engine = query_process.Engine({"sales": sales}, {}, queries.MEMORY_BYTES, threads=1)
    with pytest.raises(duckdb.Error):
        engine._connection.execute(statement.replace("YARD", str(yard.directory))).fetchall()
    assert yard.is_unchanged()
