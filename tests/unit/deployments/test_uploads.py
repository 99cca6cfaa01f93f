"""What a caller puts is its own: whole, bounded, named by no other, and seen by no other."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.content_fakes import FakeCluster
from thornback.cluster.catalog import (
    AccessPolicy,
    ResourceSpec,
    TemplateSpec,
)
from thornback.cluster.errors import HttpRefusal
from thornback.cluster.principals import EVERYBODY, Caller, Principal
from thornback.cluster.resources import sha256_of
from thornback.deployments.contents import ContentReader
from thornback.deployments.uploads import Uploads

ANN, BOB = (Caller(Principal("default", name)) for name in ("ann", "bob"))
HELLO = sha256_of(b"hello")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def uploads(cluster: FakeCluster, anonymous: bool = False) -> Uploads:
    reader = ContentReader(cluster)
    return Uploads(cluster, cluster, cluster, reader, anonymous=anonymous, max_bytes=1000)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100):
        yield data[start : start + 100]


def put(
    cluster: FakeCluster,
    caller: Caller,
    data: bytes = b"hello",
    sha256: str | None = None,
    **about: str,
) -> ResourceSpec:
    chunks = _chunks(data)
    to = uploads(cluster, anonymous=caller is EVERYBODY)
    return asyncio.run(to.upload(caller, sha256 or sha256_of(data), about, chunks))


def refused(cluster: FakeCluster, caller: Caller, **upload: Any) -> HttpRefusal:
    before = dict(cluster.entries)
    with pytest.raises(HttpRefusal) as refusal:
        put(cluster, caller, **upload)
    assert cluster.entries == before
    return refusal.value


def test_an_upload_is_its_owners_alone(cluster: FakeCluster) -> None:
    spec = put(cluster, ANN, name="notes.txt", mime_type="text/plain", uri="notes://1", title="N")
    assert spec == ResourceSpec(
        uri="notes://1",
        name="notes.txt",
        title="N",
        mime_type="text/plain",
        sha256=HELLO,
        size_bytes=5,
        owner="ann",
        access=AccessPolicy(("ann",)),
    )
    assert asyncio.run(uploads(cluster).download(ANN, HELLO)) == (spec, b"hello")
    with pytest.raises(HttpRefusal) as unknown:
        asyncio.run(uploads(cluster).download(BOB, HELLO))
    with pytest.raises(HttpRefusal) as absent:
        asyncio.run(uploads(cluster).download(BOB, sha256_of(b"absent")))
    assert (unknown.value.status, unknown.value.why) == (absent.value.status, absent.value.why)


def test_two_who_put_the_same_bytes_do_not_meet(cluster: FakeCluster) -> None:
    assert put(cluster, ANN, name="salaries").uri == f"thornback://ann/sha256/{HELLO}"
    assert put(cluster, BOB).uri == f"thornback://bob/sha256/{HELLO}"
    spec, _ = asyncio.run(uploads(cluster).download(BOB, HELLO))
    assert spec.name == HELLO[:12]


def test_where_everybody_is_anonymous_uploads_are_everybodys(cluster: FakeCluster) -> None:
    spec = put(cluster, EVERYBODY)
    assert (spec.uri, spec.access) == (f"thornback://sha256/{HELLO}", AccessPolicy(("*",)))


def test_an_upload_may_be_made_public(cluster: FakeCluster) -> None:
    spec = put(cluster, ANN, public="true")
    assert asyncio.run(uploads(cluster).download(BOB, HELLO)) == (spec, b"hello")


def test_an_owner_replaces_what_a_name_means(cluster: FakeCluster) -> None:
    put(cluster, ANN, b"one", uri="notes://1")
    assert put(cluster, ANN, b"two", uri="notes://1").sha256 == sha256_of(b"two")


def test_a_name_of_another_or_of_the_operator_is_refused_alike(cluster: FakeCluster) -> None:
    put(cluster, ANN, uri="notes://ann")
    operators = ResourceSpec(uri="notes://op", name="op", sha256=HELLO, size_bytes=5)
    cluster.entries["notes://op"] = operators
    family = TemplateSpec(uri_template="data://{id}", name="data", text="")
    cluster.families[family.key] = family
    cases = [refused(cluster, BOB, uri=u) for u in ("notes://ann", "notes://op", "data://7")]
    assert {(case.status, case.why) for case in cases} == {(403, "This URI is not yours to name")}


def test_a_name_that_another_takes_meanwhile_is_refused(cluster: FakeCluster) -> None:
    cluster.refuses = True
    assert refused(cluster, BOB, uri="notes://race").status == 403


@pytest.mark.parametrize(
    ("upload", "status"),
    [
        ({"sha256": sha256_of(b"other")}, 422),
        ({"sha256": "../../etc/passwd"}, 404),
        ({"sha256": HELLO.upper()}, 404),
        ({"data": b"x" * 1001}, 413),
        ({"uri": "no scheme"}, 400),
        ({"uri": f"thornback://ann/sha256/{HELLO}"}, 400),
        ({"uri": "THORNBACK://x"}, 400),
        ({"mime_type": "text"}, 400),
        ({"mime_type": "text/html\r\nSet-Cookie: a=b"}, 400),
        ({"name": "a\nb"}, 400),
        ({"title": "x" * 257}, 400),
        ({"public": "yes"}, 400),
        ({"mimetype": "text/plain"}, 400),
    ],
)
def test_an_upload_that_is_wrong_names_nothing(
    cluster: FakeCluster, upload: dict[str, Any], status: int
) -> None:
    assert refused(cluster, BOB, **upload).status == status


def test_an_unknown_parameter_is_told_the_nearest(cluster: FakeCluster) -> None:
    assert "did you mean mime_type?" in refused(cluster, ANN, mimetype="text/plain").why


def test_only_its_owner_withdraws(cluster: FakeCluster) -> None:
    put(cluster, ANN, uri="notes://1", public="true")
    put(cluster, ANN, uri="notes://2")
    with pytest.raises(HttpRefusal) as nothing:
        asyncio.run(uploads(cluster).withdraw(BOB, HELLO))
    assert nothing.value.status == 404
    assert asyncio.run(uploads(cluster).withdraw(ANN, HELLO, "notes://2")) == ["notes://2"]
    assert asyncio.run(uploads(cluster).withdraw(ANN, HELLO)) == ["notes://1"]
    assert cluster.entries == {}
