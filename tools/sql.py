"""`sql_query`: read-only SQL over the registered datasets."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from thornback.tools import ToolContext, ToolFailure, ToolResult, queries, tool

QUERY_TIMEOUT_S = 20.0

OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "columns": {
            "type": "array",
            "description": "Name and DuckDB type of each column",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
                "required": ["name", "type"],
            },
        },
        "rows": {
            "type": "array",
            "description": "One array per row, in the order of the columns",
            "items": {"type": "array", "items": {}},
        },
        "row_count": {"type": "integer", "description": "Rows in this result"},
        "truncated": {"type": "boolean", "description": "Whether there were more rows"},
    },
    "required": ["columns", "rows", "row_count", "truncated"],
}


@tool(
    title="SQL query",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=30,
    output_schema=OUTPUT_SCHEMA,
    tags=["data"],
)
def sql_query(
    sql: Annotated[str, Field(min_length=1, max_length=20_000)],
    ctx: ToolContext,
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 100,
) -> ToolResult:
    """Answer a question about the registered datasets with one read-only SQL query.

    Use it to look up, count, filter, join or aggregate. Each dataset is a table of its name.
    Start with `SHOW TABLES` to see which there are and `DESCRIBE name` (or the tool
    table_profile) to see the columns. The dialect is DuckDB's, close to PostgreSQL's; dates are
    real dates, `FROM t` alone selects everything, `GROUP BY ALL` groups by all plain columns.

    Only single queries run: SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES. There
    are no writes, files, extensions or settings, and no PIVOT. A query may take 20 s, 512 MB of
    memory and 1 MB of result; aggregate in SQL instead of fetching rows.

    Args:
        sql: One SQL query. Quote strings with ' and column names with ".
        max_rows: Most rows to return; `truncated` tells whether there were more.

    Returns:
        The rows as CSV under a line of column names, and the same as structured data with the
        columns' types. Rows arrive ahead of the result, as they are found, where the client
        listens for progress.
    """
    limits = queries.Limits(max_rows, QUERY_TIMEOUT_S)
    answer = queries.ask(sql, limits, ctx, on_rows=lambda so_far, rows: _report(ctx, so_far, rows))
    structured = {
        "columns": [
            {"name": name, "type": kind}
            for name, kind in zip(answer.columns, answer.types, strict=True)
        ],
        "rows": answer.rows,
        "row_count": len(answer.rows),
        "truncated": answer.truncated,
    }
    return ToolResult(_text(answer), structured)


def _report(ctx: ToolContext, answer: queries.Answer, rows: list[queries.Row]) -> None:
    ctx.partial({"columns": answer.columns, "rows": rows}, text=_csv(rows))
    count = len(answer.rows)
    ctx.progress(count, message="1 row" if count == 1 else f"{count} rows")


def _text(answer: queries.Answer) -> str:
    if not answer.columns:
        raise ToolFailure("the query has no columns")
    table = _csv([answer.columns, *answer.rows])
    if not answer.rows:
        return f"{table}\n(no rows)"
    if answer.truncated:
        first = "row" if len(answer.rows) == 1 else f"{len(answer.rows)} rows"
        return f"{table}\n(first {first}; there are more)"
    return table


def _csv(rows: list[list[Any]]) -> str:
    return "\n".join(",".join(_cell(value) for value in row) for row in rows)


def _cell(value: Any) -> str:
    """A cell of CSV (RFC 4180); null is empty, an empty string is quoted."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _number_or_nested(value)
    if not text or any(c in text for c in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _number_or_nested(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
