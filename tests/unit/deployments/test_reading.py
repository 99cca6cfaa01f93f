"""Completion offers what the caller may see, and nothing else."""

import asyncio
from typing import Any

import pytest

from thornback.cluster.catalog import AccessPolicy, Catalog, ResourceSpec, TemplateSpec
from thornback.cluster.errors import InvalidParams, UnknownResource
from thornback.cluster.principals import EVERYBODY
from thornback.cluster.protocol import Request
from thornback.cluster.revisions import MODERN
from thornback.deployments.exchange import Exchange
from thornback.deployments.reading import Reading

PAGES = TemplateSpec(uri_template="notes://{user}/{page}", name="pages", text="")


def completed(argument: str, prefix: str, template: str = PAGES.uri_template) -> dict[str, Any]:
    """The answer over three resources, one of them another's."""
    uris = {"notes://ann/1": "*", "notes://ann/20": "*", "notes://bob/2": "bob", "other://2": "*"}
    resources = {
        uri: ResourceSpec(
            uri=uri, name=uri, sha256="0" * 64, size_bytes=0, access=AccessPolicy((who,))
        )
        for uri, who in uris.items()
    }
    catalog = Catalog("s", 1, 1, {"resources": resources, "templates": {PAGES.key: PAGES}})
    params = {
        "ref": {"type": "ref/resource", "uri": template},
        "argument": {"name": argument, "value": prefix},
    }
    exchange = Exchange(
        request=Request(1, "completion/complete", params),
        body=b"",
        revision=MODERN,
        caller=EVERYBODY,
        catalog=catalog,
        capabilities={},
        client_info=None,
        notify=lambda method, params: None,
        room=lambda: asyncio.sleep(0),
        request_id="call_x",
    )
    unused: Any = None
    answer = asyncio.run(Reading(unused, unused, "public").complete(exchange))
    found: dict[str, Any] = answer["completion"]
    return found


def test_a_variable_is_completed_with_the_values_that_resources_have() -> None:
    assert completed("page", "") == {"values": ["1", "20"], "total": 2, "hasMore": False}
    assert completed("page", "2")["values"] == ["20"]
    assert completed("user", "")["values"] == ["ann"]


def test_an_unknown_variable_and_an_unknown_template_are_errors() -> None:
    with pytest.raises(InvalidParams, match="no variable pgae"):
        completed("pgae", "")
    with pytest.raises(UnknownResource):
        completed("page", "", "notes://{other}")
