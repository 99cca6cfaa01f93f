import json

from benchmarks.changes import list_request, moments


def test_changes_are_spread_evenly_over_the_time_that_counts() -> None:
    assert moments(100.0, 110.0, 4) == [100.0, 102.5, 105.0, 107.5]


def test_a_gateway_is_asked_as_the_protocol_wants_it() -> None:
    body, headers = list_request()
    message = json.loads(body)
    version = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
    assert headers["MCP-Protocol-Version"] == version
    assert headers["Mcp-Method"] == message["method"] == "tools/list"
