from typing import Any

import pytest

from tests.protocol.gateways import Client
from thornback.cluster.catalog import ResourceSpec

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("prompts:get")
async def test_a_prompt_is_filled_in(client: Client) -> None:
    params = {"name": "greet", "arguments": {"tone": "warm"}}
    result = (await client.call("prompts/get", params)).result
    assert result["description"] == "Greets."
    message = {"role": "user", "content": {"type": "text", "text": "Be warm."}}
    assert result["messages"] == [message]


@pytest.mark.requirement("prompts:get")
@pytest.mark.parametrize(
    "params",
    [
        {"name": "gret"},
        {"name": "greet"},
        {"name": "greet", "arguments": {"tone": "loud"}},
        {"name": "greet", "arguments": {"tone": "warm", "more": "x"}},
        {"name": "greet", "arguments": {"tone": 7}},
        {},
    ],
)
async def test_what_does_not_fit_a_prompt_is_invalid(
    client: Client, params: dict[str, Any]
) -> None:
    answered = await client.call("prompts/get", params)
    assert (answered.status, answered.error["code"]) == (400, -32602)


@pytest.mark.requirement("resources:read")
async def test_a_resource_is_read(client: Client) -> None:
    result = (await client.call("resources/read", {"uri": "test://readme"})).result
    content = {"uri": "test://readme", "mimeType": "text/markdown", "text": "# Read me"}
    assert result["contents"] == [content]
    assert (result["ttlMs"], result["cacheScope"]) == (0, "public")


@pytest.mark.requirement("resources:read")
async def test_bytes_that_are_no_text_are_base64(cluster: Any, client: Client) -> None:
    old = cluster.catalogs.catalog.of("resources")["test://readme"]
    assert isinstance(old, ResourceSpec)
    cluster.put(old.__replace__(uri="test://bytes", mime_type="image/png"))
    (content,) = (await client.call("resources/read", {"uri": "test://bytes"})).result["contents"]
    assert content == {"uri": "test://bytes", "mimeType": "image/png", "blob": "IyBSZWFkIG1l"}


@pytest.mark.requirement("resources:read")
async def test_a_uri_of_a_template_is_read(client: Client) -> None:
    answered = await client.call("resources/read", {"uri": "test://notes/monday"})
    assert answered.result["contents"][0]["text"] == "On monday"


@pytest.mark.requirement("resources:read")
@pytest.mark.parametrize("uri", ["test://nope", "test://notes/..%2f..%2fetc", "file:///etc/passwd"])
async def test_an_unknown_uri_is_invalid_and_repeated(client: Client, uri: str) -> None:
    answered = await client.call("resources/read", {"uri": uri})
    assert (answered.status, answered.error["code"]) == (400, -32602)
    assert answered.error["data"]["uri"] == uri


@pytest.mark.requirement("completion:values")
async def test_an_argument_is_completed(client: Client) -> None:
    params = {
        "ref": {"type": "ref/prompt", "name": "greet"},
        "argument": {"name": "tone", "value": "w"},
    }
    completion = (await client.call("completion/complete", params)).result["completion"]
    assert completion == {"values": ["warm"], "total": 1, "hasMore": False}


@pytest.mark.requirement("completion:values")
async def test_a_variable_of_a_template_is_known_and_has_no_values(client: Client) -> None:
    reference = {"type": "ref/resource", "uri": "test://notes/{day}"}
    for name, status in (("day", 200), ("night", 400)):
        params = {"ref": reference, "argument": {"name": name, "value": ""}}
        assert (await client.call("completion/complete", params)).status == status


@pytest.mark.requirement("completion:values")
@pytest.mark.parametrize(
    "reference",
    [
        {"type": "ref/prompt", "name": "nope"},
        {"type": "ref/resource", "uri": "test://nope"},
        {"type": "ref/tool", "name": "add"},
        {},
    ],
)
async def test_an_unknown_reference_is_invalid(client: Client, reference: dict[str, str]) -> None:
    params = {"ref": reference, "argument": {"name": "x", "value": ""}}
    answered = await client.call("completion/complete", params)
    assert (answered.status, answered.error["code"]) == (400, -32602)
