import logging

import msgspec
import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import META, MODERN, POOL, Client, Cluster
from thornback.cluster.errors import Overloaded
from thornback.cluster.messages import WIRE_VERSION, Raised
from thornback.deployments import request_contexts
from thornback.deployments.hot_path import HotPath
from thornback.tools.definition import tool_of

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("tools:call:content")
async def test_a_result_carries_text_and_value(client: Client) -> None:
    answered = await client.tool("add", {"a": 1, "b": 2})
    assert answered.status == 200
    assert answered.result["content"] == [{"type": "text", "text": "3"}]
    assert answered.result["structuredContent"] == {"result": 3}
    assert answered.result["isError"] is False
    assert answered.result["resultType"] == "complete"


@pytest.mark.requirement("tools:call:meta")
async def test_a_result_says_what_ran_and_what_it_took(client: Client) -> None:
    meta = (await client.tool("add", {"a": 1, "b": 2})).result["_meta"]
    assert meta["io.thornback/version"] == "1.2.0"
    usage = meta["io.thornback/usage"]
    assert usage.keys() == {"queueS", "runS", "cpuS"}
    assert 0 < usage["cpuS"] <= usage["runS"] < 5
    assert meta[f"{META}serverInfo"]["name"] == "thornback"


@pytest.mark.requirement("tools:call:meta")
@pytest.mark.parametrize("name", ["fail", "buggy", "rows", "steps"])
async def test_a_result_says_what_it_took_however_its_tool_ended(client: Client, name: str) -> None:
    usage = (await client.tool(name)).result["_meta"]["io.thornback/usage"]
    assert 0 < usage["runS"] < 5


@pytest.mark.requirement("tools:call:meta")
async def test_a_version_that_is_not_there_is_an_unknown_tool(client: Client) -> None:
    asked = {"io.thornback/version": "9.0.0"}
    answered = await client.tool("add", {"a": 1, "b": 2}, meta=asked)
    assert answered.error["code"] == -32602


@pytest.mark.requirement("tools:call:meta")
@pytest.mark.parametrize("version", [{"a": 1}, 1])
async def test_a_version_that_is_no_text_is_refused(client: Client, version: object) -> None:
    arguments, asked = {"a": 1, "b": 2}, {"io.thornback/version": version}
    session = await client.session("2025-06-18")
    for answered in (
        await client.tool("add", arguments, meta=asked),
        await session.call("tools/call", {"name": "add", "arguments": arguments}, meta=asked),
    ):
        assert answered.error["code"] == -32602
        assert answered.error["message"].endswith("io.thornback/version is not a string")


@pytest.mark.requirement("tools:call:bad-arguments")
async def test_bad_arguments_are_for_the_model_to_read(client: Client) -> None:
    answered = await client.tool("add", {"a": "one", "b": 2})
    assert answered.status == 200
    assert answered.result["isError"] is True
    assert 'a: expected integer, given "one"' in answered.text


@pytest.mark.requirement("tools:call:unknown-name")
async def test_an_unknown_tool_is_a_protocol_error_with_the_nearest_name(client: Client) -> None:
    answered = await client.tool("adt")
    assert (answered.status, answered.error["code"]) == (400, -32602)
    assert answered.error["message"] == "Unknown tool: adt (did you mean add?)"


@pytest.mark.requirement("tools:call:unknown-name")
async def test_a_name_of_10_kb_is_cut_in_the_answer(client: Client) -> None:
    answered = await client.tool("x" * 10_000)
    assert (answered.status, answered.error["code"]) == (400, -32602)
    assert len(answered.body) < 400


@pytest.mark.requirement("tools:call:failure")
async def test_what_a_tool_ran_into_is_a_result_with_its_code(client: Client) -> None:
    answered = await client.tool("fail")
    assert (answered.status, answered.result["isError"]) == (200, True)
    assert answered.text == "the table has no rows"
    assert answered.result["_meta"]["io.thornback/error"] == {"code": "tool.failed"}


@pytest.mark.requirement("errors:no-secrets")
async def test_a_bug_in_a_tool_is_told_as_an_id(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answered = await client.tool("buggy")
    assert "hunter2" not in answered.body.decode()
    assert "err_" in answered.text
    assert "hunter2" in caplog.text


@pytest.mark.requirement("errors:no-secrets")
async def test_a_bug_of_ours_is_told_as_an_id(
    cluster: Cluster, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.pools.get(POOL).call = None  # type: ignore[method-assign,assignment]
    answered = await client.tool("add", {"a": 1, "b": 2})
    assert (answered.status, answered.error["code"]) == (200, -32603)
    assert answered.error["message"] == f"Internal error ({answered.error['data']['errorId']})"
    assert answered.error["data"]["errorId"] in caplog.text


@pytest.mark.requirement("errors:no-secrets")
@pytest.mark.parametrize(
    ("where", "function", "method"),
    [(HotPath, "exchange", "tools/list"), (request_contexts, "read_envelope", "resources/list")],
)
async def test_so_is_a_bug_before_the_request_is_understood(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: object,
    function: str,
    method: str,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(where, function, broken)
    answered = await client.call(method)
    assert (answered.status, answered.error["code"]) == (200, -32603)
    assert b"hunter2" not in answered.body
    assert answered.error["data"]["errorId"] in caplog.text


@pytest.mark.requirement("errors:numbers")
@pytest.mark.parametrize("number", [-32002, -32042, -32000, -32019])
async def test_a_number_that_is_not_ours_to_send_never_leaves(number: int) -> None:
    cluster = Cluster([tools_under_test])

    async def answer(*_: object) -> Raised:
        return Raised(WIRE_VERSION, number, "no", None)

    cluster.pools.get(POOL).call = answer  # type: ignore[method-assign,assignment]
    assert (await cluster.gateway().tool("add", {"a": 1, "b": 2})).error["code"] == -32602


@pytest.mark.requirement("tools:call:busy")
async def test_a_full_queue_is_503_with_the_time_to_come_again(
    cluster: Cluster, client: Client
) -> None:
    async def full(*_: object) -> None:
        raise Overloaded("here", 1.5)

    cluster.pools.get(POOL).call = full  # type: ignore[method-assign,assignment]
    answered = await client.tool("add", {"a": 1, "b": 2})
    assert (answered.status, answered.headers["retry-after"]) == (503, "2")
    assert answered.error["data"] == {"code": "pool.overloaded", "retryAfterS": 1.5}


@pytest.mark.requirement("tools:call:deadline")
async def test_no_call_has_more_time_than_the_config_allows() -> None:
    cluster = Cluster([tools_under_test], config={"max_timeout_s": 7})
    await cluster.gateway().tool("add", {"a": 1, "b": 2})
    (sent,) = cluster.pools.get(POOL).calls
    assert (sent.remaining_s, sent.queue_timeout_s) == (7, 7)


@pytest.mark.requirement("tools:call:json-when-silent")
async def test_a_silent_call_is_answered_as_json(client: Client) -> None:
    for meta in ({}, {"progressToken": "p"}):
        answered = await client.tool("add", {"a": 1, "b": 2}, meta=meta)
        assert answered.headers["content-type"] == "application/json"


@pytest.mark.requirement("tools:call:progress")
async def test_progress_streams_before_the_result(client: Client) -> None:
    answered = await client.tool("steps", meta={"progressToken": "p"})
    assert answered.headers["content-type"] == "text/event-stream"
    assert answered.headers["x-accel-buffering"] == "no"
    told = [note["params"] for note in answered.notifications]
    assert [note["progress"] for note in told] == [1, 2, 3]
    assert told[0] == {"progressToken": "p", "progress": 1, "total": 3, "message": "step 1"}
    assert answered.messages[-1]["id"] == 1
    assert answered.text == "done"


@pytest.mark.requirement("tools:call:progress")
async def test_without_a_token_there_is_no_progress(client: Client) -> None:
    answered = await client.tool("steps")
    assert answered.headers["content-type"] == "application/json"


@pytest.mark.requirement("tools:call:progress")
async def test_progress_arrives_while_the_tool_runs(client: Client) -> None:
    running = client.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until('"message":"waiting"')
    running.disconnect()
    await running.end()


@pytest.mark.requirement("tools:call:partial")
async def test_items_of_a_generator_come_as_they_are_made(client: Client) -> None:
    answered = await client.tool("rows", meta={"progressToken": 7})
    told = [note["params"] for note in answered.notifications]
    assert [note["message"] for note in told] == [f'{{"number":{n}}}' for n in range(3)]
    assert [note["progress"] for note in told] == [1, 2, 3]
    assert answered.result["structuredContent"] == {"result": [{"number": n} for n in range(3)]}


@pytest.mark.requirement("tools:call:logs")
async def test_logs_are_sent_from_the_level_that_was_asked_for(client: Client) -> None:
    silent = await client.tool("steps")
    assert silent.headers["content-type"] == "application/json"
    answered = await client.tool("steps", meta={f"{META}logLevel": "info"})
    assert [note["params"] for note in answered.notifications] == [
        {"level": "warning", "data": {"what": "almost done"}, "logger": "steps"}
    ]


@pytest.mark.requirement("tools:call:keep-alive")
async def test_a_long_silence_is_filled_and_ends_with_the_answer() -> None:
    client = Cluster([tools_under_test], keep_alive_s=0.01).gateway()
    answered = await client.tool("linger", {"seconds": 0.3})
    assert answered.body.startswith(b": keep-alive")
    assert answered.text == "there"


@pytest.mark.requirement("tools:call:cancel")
async def test_closing_the_response_cancels_the_call(client: Client) -> None:
    tools_under_test.ended.clear()
    running = client.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until("waiting")
    running.disconnect()
    await running.end()
    await client.idle()
    assert tools_under_test.ended == ["wait"]


@pytest.mark.requirement("tools:call:cancel")
async def test_a_request_that_serve_cancels_cancels_the_call(client: Client) -> None:
    tools_under_test.ended.clear()
    running = client.begin_call("tools/call", {"name": "wait"}, meta={"progressToken": 1})
    await running.until("waiting")
    running.task.cancel()
    await client.idle()
    assert tools_under_test.ended == ["wait"]


@pytest.mark.requirement("tools:list:order")
async def test_the_list_is_in_order_of_names_and_stays_the_same(client: Client) -> None:
    first, second = await client.call("tools/list"), await client.call("tools/list")
    names = [listed["name"] for listed in first.result["tools"]]
    assert names == sorted(names)
    assert first.body == second.body


@pytest.mark.requirement("tools:list:schemas")
@pytest.mark.parametrize("revision", [MODERN, "2025-11-25", "2024-11-05"])
async def test_a_schema_is_listed_byte_for_byte(
    cluster: Cluster, client: Client, revision: str
) -> None:
    schema = '{"type": "object",  "x-own":1.0, "properties":{"b":{},"a":{}}, "$defs":{}}'
    add = tool_of(tools_under_test.add).spec(POOL.name)
    cluster.put(msgspec.structs.replace(add, input_schema=msgspec.Raw(schema.encode())))
    asked = client if revision == MODERN else await client.session(revision)
    assert schema in (await asked.call("tools/list")).body.decode()


@pytest.mark.requirement("lists:cache")
@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list"])
async def test_a_list_says_who_may_keep_it(client: Client, method: str) -> None:
    for asked, scope in ((client, "public"), (_private_client(), "private")):
        result = (await asked.call(method)).result
        assert (result["ttlMs"], result["cacheScope"]) == (0, scope)


def _private_client() -> Client:
    cluster = Cluster([tools_under_test], keys={"lab": ("k1", ("*",))})
    return cluster.gateway().with_key("k1")


@pytest.mark.requirement("log:one-line")
async def test_a_request_is_one_line_of_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "thornback.access")
    await client.tool('x"}\r\n{"status":200\x1b[31m' + "y" * 500)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "thornback.access"]
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 500
