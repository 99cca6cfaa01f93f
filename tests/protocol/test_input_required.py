from typing import Any

import pytest

from tests.protocol import tools_under_test
from tests.protocol.gateways import Client, Cluster, offered
from thornback.deployments.request_states import STATE_TTL_S
from thornback.tools import ToolContext, conformance, tool
from thornback.tools.definition import tool_of
from thornback.tools.input_requests import elicitation

pytestmark = pytest.mark.anyio
FORMS = {"elicitation": {}}
ACCEPTED = {"action": "accept", "content": {"ok": True}}
STATEFUL = "test_input_required_result_tampered_state"


def asking() -> Cluster:
    return Cluster([conformance, tools_under_test], offered())


async def first_round(client: Client) -> str:
    answered = await client.tool(STATEFUL, capabilities=FORMS)
    assert answered.result["resultType"] == "input_required"
    state: str = answered.result["requestState"]
    return state


async def second_round(
    client: Client, state: str, name: str = STATEFUL, arguments: Any = None
) -> Any:
    params = {
        "name": name,
        "arguments": arguments or {},
        "inputResponses": {"confirm": ACCEPTED},
        "requestState": state,
    }
    return await client.call("tools/call", params, capabilities=FORMS)


@pytest.mark.requirement("input:round-trip")
async def test_a_tool_asks_and_goes_on_with_the_answer() -> None:
    client = asking().gateway()
    name = "test_input_required_result_elicitation"
    asked = (await client.tool(name, capabilities=FORMS)).result
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"]["user_name"]["method"] == "elicitation/create"
    answer = {"user_name": {"action": "accept", "content": {"name": "Ada"}}}
    params = {"name": name, "arguments": {}, "inputResponses": answer}
    if "requestState" in asked:
        params["requestState"] = asked["requestState"]
    answered = await client.call("tools/call", params, capabilities=FORMS, rpc_id=2)
    assert answered.text == "Hello, Ada!"


@pytest.mark.requirement("input:round-trip")
async def test_a_state_that_no_client_could_bring_back_is_the_tool_s_failure() -> None:
    @tool()
    async def hoard(ctx: ToolContext) -> None:
        """Keep too much."""
        ctx.ask({"name": elicitation("Who?", {"type": "object"})}, state="x" * 60_000)

    answered = await Cluster([tool_of(hoard)]).gateway().tool("hoard", capabilities=FORMS)
    assert answered.result["isError"] is True
    assert answered.result["_meta"]["io.thornback/error"] == {"code": "tool.state_too_large"}


@pytest.mark.requirement("input:any-gateway")
async def test_another_gateway_goes_on() -> None:
    cluster = asking()
    state = await first_round(cluster.gateway())
    answered = await second_round(cluster.gateway(), state)
    assert answered.result["resultType"] == "complete"


@pytest.mark.requirement("input:tampered")
async def test_a_changed_state_is_refused() -> None:
    client = asking().gateway()
    state = await first_round(client)
    for at in range(0, len(state), 5):
        changed = state[:at] + ("A" if state[at] != "A" else "B") + state[at + 1 :]
        answered = await second_round(client, changed)
        assert (answered.status, answered.error["code"]) == (400, -32602)
        assert answered.error["data"]["reason"] == "invalid_request_state"


@pytest.mark.requirement("input:tampered")
async def test_a_state_is_for_its_own_call_alone() -> None:
    client = asking().gateway()
    state = await first_round(client)
    for moved in (
        await second_round(client, state, name="test_input_required_result_request_state"),
        await second_round(client, state, arguments={"other": 1}),
    ):
        assert moved.error["data"]["reason"] == "invalid_request_state"


@pytest.mark.requirement("input:tampered")
async def test_a_state_is_for_its_own_caller_alone() -> None:
    keys = {"ann": ("a", ("*",)), "bob": ("b", ("*",))}
    gateway = Cluster([conformance], keys=keys).gateway()
    state = await first_round(gateway.with_key("a"))
    assert (await second_round(gateway.with_key("b"), state)).status == 400


@pytest.mark.requirement("input:tampered")
async def test_a_state_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    client = asking().gateway()
    monkeypatch.setattr("thornback.deployments.request_states.STATE_TTL_S", -STATE_TTL_S)
    state = await first_round(client)
    assert (await second_round(client, state)).status == 400


@pytest.mark.requirement("input:capability")
async def test_nobody_is_asked_what_the_client_cannot_answer() -> None:
    client = asking().gateway()
    answered = await client.tool("test_input_required_result_elicitation")
    assert (answered.status, answered.error["code"]) == (400, -32021)
    assert answered.error["data"]["requiredCapabilities"] == {"elicitation": {}}


@pytest.mark.requirement("input:capability")
async def test_a_tool_that_needs_a_capability_says_which() -> None:
    answered = await asking().gateway().tool("test_missing_capability")
    assert (answered.status, answered.error["code"]) == (400, -32021)
    assert answered.error["data"]["requiredCapabilities"] == {"sampling": {}}


@pytest.mark.requirement("input:older")
async def test_an_older_client_is_told_to_be_newer() -> None:
    session = await asking().gateway().session("2025-11-25", FORMS)
    answered = await session.tool("test_input_required_result_elicitation")
    assert (answered.status, answered.result["isError"]) == (200, True)
    assert "2026-07-28" in answered.text
    said = answered.result["_meta"]["io.thornback/error"]
    assert said == {"code": "tool.input_not_possible"}


@pytest.mark.requirement("input:older")
@pytest.mark.parametrize("answers", [True, [1], "x"])
async def test_an_older_client_has_no_answers_to_send(client: Client, answers: object) -> None:
    old = await client.session("2025-11-25")
    params = {"name": "add", "arguments": {"a": 1, "b": 2}, "inputResponses": answers}
    assert (await old.call("tools/call", params)).text == "3"


@pytest.mark.requirement("input:prompt")
async def test_a_prompt_asks_as_a_tool_does() -> None:
    client = asking().gateway()
    asked = (await client.call("prompts/get", {"name": "ask"}, capabilities=FORMS)).result
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"]["who"]["params"]["message"] == "Who are you?"
    answer = {"who": {"action": "accept", "content": {"name": "Ada"}}}
    params = {"name": "ask", "inputResponses": answer}
    answered = await client.call("prompts/get", params, capabilities=FORMS)
    assert answered.result["messages"][0]["content"]["text"] == "Hello Ada"


@pytest.mark.requirement("input:prompt")
async def test_a_prompt_tells_an_older_client_why_it_cannot_ask() -> None:
    session = await asking().gateway().session("2025-06-18", FORMS)
    answered = await session.call("prompts/get", {"name": "ask"})
    assert (answered.status, answered.error["code"]) == (200, -32602)
    assert "2026-07-28" in answered.error["message"]
