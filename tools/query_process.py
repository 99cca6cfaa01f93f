"""The program of a query process: DuckDB behind a guard, in a process that may be killed.

Run by path, so that it starts fast: it imports DuckDB and nothing of Thornback. It reads requests
as JSON lines on stdin and answers in JSON lines on stdout; `queries.py` is the other end.

Three fences stand around the SQL of a stranger. The guard reads the parsed statement and lets
through one query over known tables and harmless functions. DuckDB itself is then locked: no file
but those of the datasets, no network, no extension, no setting. Third, the process may neither
grow beyond its memory nor write a file, and its parent kills it when time is up. DuckDB's own
limits are not enough: `repeat('x', 4e9)` goes past `memory_limit`, and `levenshtein` of two long
texts does not hear `interrupt()`.
"""

from __future__ import annotations

import datetime
import decimal
import difflib
import json
import math
import os
import queue
import re
import resource
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

BATCH_ROWS = 200
LOADED_BYTES = 8 * 1024 * 1024
"""Datasets up to this size are loaded once; larger ones are read by each query."""
MAX_ERROR_CHARS = 1500
SAFE_INTEGER = 2**53
"""Beyond this, JSON readers in other languages lose digits."""

QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_REFERENCES = {
    *("BASE_TABLE", "TABLE_FUNCTION", "SHOW_REF", "SUBQUERY", "JOIN"),
    *("EMPTY", "EMPTY_FROM", "EXPRESSION_LIST"),
}
TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "json_each", "json_tree"}
REFUSED_FUNCTIONS = {
    *("getenv", "current_setting", "getvariable", "write_log", "query", "query_table"),
    *("nextval", "currval", "setval", "sleep_ms", "current_query", "current_schemas"),
    "json_serialize_plan",  # it binds a statement that the guard has not seen
}
REFUSED_PREFIXES = ("duckdb_", "pragma_", "pg_", "has_", "read_", "parquet_", "sniff_", "which_")
HARMLESS = {"pg_typeof", "pg_size_pretty"}
WITH_NAME = re.compile(r"[\w ]+")
READERS = {
    "csv": "read_csv(?, union_by_name=true, sample_size=100000)",
    "parquet": "read_parquet(?, union_by_name=true)",
    "json": "read_json(?, union_by_name=true)",
}


class Refused(Exception):
    """The query will not run; the text is for the model."""


class Guard:
    """Which tables a statement reads, and whether it does nothing else."""

    def __init__(
        self, tables: Collection[str], reserved: Collection[str], absent: Mapping[str, str]
    ) -> None:
        """
        Args:
            tables: The datasets.
            absent: Datasets that cannot be read, and the sentence that says so.
            reserved: Names of DuckDB's own tables and views.
        """
        self._tables = tables
        self._reserved = reserved
        self._absent = absent
        self.used: set[str] = set()
        """Datasets that the last checked statement reads."""

    def check(self, serialized: str) -> None:
        """Look at every node of a statement that `json_serialize_sql` wrote.

        Raises:
            Refused: if the statement is not one query, or reaches for anything but datasets.
        """
        self.used = set()
        try:
            parsed = json.loads(serialized)
        except RecursionError:
            raise Refused("the query is nested too deeply") from None
        if parsed["error"]:
            raise Refused(_syntax_error(parsed))
        if len(parsed["statements"]) != 1:
            raise Refused("send one statement at a time")
        nodes = list(_nodes(parsed["statements"]))
        named = {entry["key"].lower() for node in nodes for entry in _ctes(node)}
        self._check_names(named)
        for node in nodes:
            self._check_node(node, named)

    def _check_names(self, named: Collection[str]) -> None:
        """A name of a WITH is let through everywhere, though it holds in a part of the statement
        only; so it must mean nothing elsewhere: no view of DuckDB's, and no file."""
        for name in named:
            if name in self._reserved or not WITH_NAME.fullmatch(name):
                raise Refused(
                    "a name in WITH is made of letters, digits and _, and is no table of DuckDB's"
                )

    def _check_node(self, node: dict[str, Any], named: Collection[str]) -> None:
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise Refused(f"only queries are allowed, not {kind.removesuffix('_QUERY_NODE')}")
        if node.get("class") == "FUNCTION":
            self._check_function(node)
        if "sample" not in node or "select_list" in node:
            return
        if kind not in TABLE_REFERENCES:
            raise Refused(f"{kind} is not allowed in FROM")
        if kind == "BASE_TABLE":
            self._use(node, named)
        elif kind == "SHOW_REF":
            self._check_show(node)
        elif kind == "TABLE_FUNCTION":
            name = node["function"].get("function_name", "").lower()
            if name not in TABLE_FUNCTIONS:
                raise Refused(
                    f"the table function {name} is not allowed; query the datasets "
                    f"{', '.join(sorted(self._tables))} by name"
                )

    def _check_function(self, node: dict[str, Any]) -> None:
        name = node["function_name"].lower()
        outside = {node.get("schema", ""), node.get("catalog", "")} - {"", "main"}
        refused = name in REFUSED_FUNCTIONS or name.startswith(REFUSED_PREFIXES)
        if outside or (refused and name not in HARMLESS):
            raise Refused(f"the function {name} is not allowed")

    def _check_show(self, node: dict[str, Any]) -> None:
        name = node.get("table_name", "").strip('"').lower()
        if node.get("query") is not None:
            return  # DESCRIBE and SUMMARIZE: the query in it is a node of its own
        if name == "tables":
            self.used |= set(self._tables)
        elif name in self._tables:
            self.used.add(name)
        elif name in self._absent:
            raise Refused(self._absent[name])
        else:
            raise Refused("use SHOW TABLES, or DESCRIBE with the name of a dataset")

    def _use(self, node: dict[str, Any], named: Collection[str]) -> None:
        path = [part.lower() for part in node["qualified_name"]["path"]]
        name = path[-1]
        if name in self._tables and path in ([name], ["main", name]):
            self.used.add(name)
        elif path == [name] and name in named:
            return
        elif name in self._absent and path in ([name], ["main", name]):
            raise Refused(self._absent[name])
        else:
            raise Refused(unknown_table(".".join(path), self._tables))


def unknown_table(name: str, tables: Collection[str]) -> str:
    near = difflib.get_close_matches(name, tables, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no dataset {name!r}: {hint}there are {', '.join(sorted(tables)) or 'none'}"


def _nodes(root: Any) -> Iterator[dict[str, Any]]:
    """Every object under `root`. With a stack: a statement may be deeper than Python's own."""
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _ctes(node: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (node.get("cte_map") or {}).get("map", [])
    return entries


def _syntax_error(parsed: dict[str, Any]) -> str:
    if parsed.get("error_type") == "not implemented":
        return "only queries are allowed: SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE"
    position = parsed.get("position", "")
    where = f" at character {int(position) + 1}" if position.isdigit() else ""
    return f"syntax error{where}: {parsed.get('error_message', '')}"


class Engine:
    """One locked DuckDB over the datasets."""

    def __init__(
        self, datasets: dict[str, Any], absent: dict[str, str], memory_bytes: int, threads: int
    ) -> None:
        import duckdb

        self._datasets = datasets
        self._loaded: set[str] = set()
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": f"{memory_bytes * 3 // 4}B",
                "temp_directory": "",  # no spilling to disk
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "python_enable_replacements": False,
            },
        )
        # Rows leave as they are found, and not a megabyte at a time.
        self._connection.execute("SET streaming_buffer_size = '1KB'")
        self._connection.execute("SET TimeZone = 'UTC'")  # not this machine's
        files = [file for dataset in datasets.values() for file in dataset["files"]]
        listed = ", ".join(_quoted(file) for file in files)
        self._connection.execute(f"SET allowed_paths = [{listed}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._guard = Guard(datasets, self._own_names(), absent)

    def _own_names(self) -> set[str]:
        """What a table name without a schema reaches when there are no datasets."""
        rows = self._connection.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name != 'information_schema' "
            "UNION ALL SELECT table_name FROM duckdb_tables()"
        ).fetchall()
        return {name.lower() for (name,) in rows}

    def answer(self, sql: str, max_rows: int, max_bytes: int) -> Iterator[dict[str, Any]]:
        """Messages to the parent: columns, rows as they come, and the end."""
        serialized = self._connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
        assert serialized is not None
        self._guard.check(serialized[0])
        for name in sorted(self._guard.used - self._loaded):
            self._load(name)
        self._connection.execute(sql)
        described = self._connection.description or []
        yield {"columns": [[column[0], str(column[1])] for column in described]}
        left, room = max_rows, max_bytes
        while rows := self._connection.fetchmany(min(BATCH_ROWS, left + 1)):
            fitting, room = fit([plain(row) for row in rows[:left]], room)
            left -= len(fitting)
            if not fitting and left == max_rows:
                raise Refused(
                    f"one row alone is larger than {max_bytes} bytes: select fewer or shorter "
                    "columns"
                )
            yield {"rows": fitting}
            if len(fitting) < len(rows):
                yield {"end": {"truncated": True}}
                return
        yield {"end": {"truncated": False}}

    def explained(self, error: Exception) -> str:
        """What DuckDB says about a query, without what it knows about this machine."""
        text = str(error).replace("\x00", "").strip()
        if "INTERNAL Error" in text:
            return "the query failed inside DuckDB; write it another way"
        for name, dataset in self._datasets.items():
            for file in dataset["files"]:
                text = text.replace(file, name)
        text = re.sub(r"(?<![\w.])(/[\w.+-]+){2,}", "(path)", text)
        return text[:MAX_ERROR_CHARS]

    def _load(self, name: str) -> None:
        dataset = self._datasets[name]
        listed = ", ".join(_quoted(file) for file in dataset["files"])
        reader = READERS[dataset["format"]].replace("?", f"[{listed}]")
        kind = "TABLE" if dataset["size_bytes"] <= LOADED_BYTES else "VIEW"
        self._connection.execute(f'CREATE {kind} "{name}" AS SELECT * FROM {reader}')
        self._loaded.add(name)


def fit(rows: list[list[Any]], room: int) -> tuple[list[list[Any]], int]:
    """As many of the first rows as fit into `room` bytes of JSON, and the room that is left."""
    for index, row in enumerate(rows):
        size = len(json.dumps(row, ensure_ascii=False).encode())
        if size > room:
            return rows[:index], room
        room -= size
    return rows, room


def plain(value: Any) -> Any:
    """A value of DuckDB in JSON's types; what JSON has no type for becomes a string."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= SAFE_INTEGER else str(value)
        case float():
            return value if math.isfinite(value) else None
        case decimal.Decimal():
            is_whole = value == value.to_integral_value()
            return plain(int(value)) if is_whole else float(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case _:
            return str(value)


def limit_process(memory_bytes: int) -> None:
    """No more memory than now plus `memory_bytes`, no written file, no core dump."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    limit = used_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _requests() -> Iterator[dict[str, Any]]:
    """What the parent sends. When the parent is gone, so is this process, also amid a query."""
    arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            arrived.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(arrived.get())


def _send(messages: Iterable[dict[str, Any]]) -> None:
    for message in messages:
        sys.stdout.buffer.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
        sys.stdout.buffer.flush()


def main() -> None:
    requests = _requests()
    opening = next(requests)
    import duckdb

    engine = Engine(
        opening["datasets"], opening["absent"], opening["memory_bytes"], opening["threads"]
    )
    if sys.platform == "linux":
        limit_process(opening["memory_bytes"])
    _send([{"ready": True}])
    for request in requests:
        try:
            _send(engine.answer(request["sql"], request["max_rows"], request["max_bytes"]))
        except Refused as error:
            _send([{"error": str(error)}])
        except (MemoryError, duckdb.OutOfMemoryException):
            _send([{"error": "out of memory"}])
            return
        except duckdb.FatalException:
            _send([{"error": "the query failed inside DuckDB; write it another way"}])
            return
        except duckdb.Error as error:
            _send([{"error": engine.explained(error)}])


if __name__ == "__main__":
    main()
