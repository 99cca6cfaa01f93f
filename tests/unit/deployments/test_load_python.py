import asyncio
import json

import httpx
import msgspec
import pytest

from thornback.deployments.load import Load, WrongAnswers
from thornback.deployments.load_python import run_python

LOAD = Load(url="http://here/mcp", tools=("a", "b"), connections=4, seconds=0.05, drain_s=0.05)


def echo(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    assert request.headers["mcp-name"] == body["params"]["name"]
    text = body["params"]["arguments"]["text"]
    return httpx.Response(200, json={"id": body["id"], "result": {"content": text}})


def test_every_call_carries_a_text_of_its_own_and_tools_take_turns() -> None:
    texts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        texts.append(json.loads(request.content)["params"]["arguments"]["text"])
        return echo(request)

    figures = asyncio.run(run_python(LOAD, transport=httpx.MockTransport(answer)))
    assert figures.answered == len(texts) == len(set(texts))
    assert all(figures.latency_us[tool] for tool in ("a", "b"))


def test_a_request_of_an_older_revision_says_it_by_header_alone() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.headers["mcp-protocol-version"] == "2025-11-25"
        assert not {"mcp-method", "mcp-name"} & set(request.headers)
        assert body["params"].keys() == {"name", "arguments"}
        text = body["params"]["arguments"]["text"]
        return httpx.Response(200, text=f'event: message\ndata: {{"content":"{text}"}}\n\n')

    older = msgspec.structs.replace(LOAD, revision="2025-11-25")
    assert asyncio.run(run_python(older, transport=httpx.MockTransport(answer))).answered > 0


@pytest.mark.parametrize(
    "bad",
    [
        httpx.Response(503, text="busy"),
        httpx.Response(200, json={"result": {"content": "another text"}}),
    ],
)
def test_an_answer_that_is_not_the_expected_one_fails_the_run(bad: httpx.Response) -> None:
    with pytest.raises(WrongAnswers, match=str(bad.status_code)):
        asyncio.run(run_python(LOAD, transport=httpx.MockTransport(lambda request: bad)))


def test_the_right_text_in_an_error_is_a_wrong_answer() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["params"]["arguments"]["text"]
        return httpx.Response(200, json={"result": {"content": text, "isError": True}})

    with pytest.raises(WrongAnswers):
        asyncio.run(run_python(LOAD, transport=httpx.MockTransport(answer)))


def test_a_request_without_an_answer_fails_the_run() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(WrongAnswers, match="4 requests without one"):
        asyncio.run(run_python(LOAD, transport=httpx.MockTransport(answer)))


def test_a_broken_connection_fails_the_run() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    with pytest.raises(WrongAnswers, match="4 broken connections"):
        asyncio.run(run_python(LOAD, transport=httpx.MockTransport(answer)))


def test_the_key_goes_in_the_header() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer tbk_secret"
        return echo(request)

    asyncio.run(run_python(LOAD, "tbk_secret", httpx.MockTransport(answer)))
