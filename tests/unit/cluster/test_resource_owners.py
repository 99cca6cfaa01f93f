"""The registry itself keeps a caller's name for that caller, however old a gateway's catalog is."""

import pytest

from thornback.cluster.catalog import ResourceSpec, encode_entry
from thornback.cluster.errors import RegistrationError
from thornback.cluster.registry import Kept, edit_of, plan


def resource(owner: str | None, sha256: str = "0" * 64) -> ResourceSpec:
    return ResourceSpec(uri="notes://1", name="1", sha256=sha256, size_bytes=0, owner=owner)


def present(owner: str | None) -> dict[tuple[str, str], Kept]:
    return {("resources", "notes://1"): Kept(encode_entry(resource(owner)), None)}


@pytest.mark.parametrize("owner", ["ann", None])
def test_a_caller_does_not_replace_what_is_not_its_own(owner: str | None) -> None:
    with pytest.raises(RegistrationError, match="resource notes://1 belongs to somebody else"):
        plan(present(owner), edit_of(resource("bob", "1" * 64)))


@pytest.mark.parametrize("owner", ["ann", None])
def test_its_owner_and_the_operator_replace_it(owner: str | None) -> None:
    (change,) = plan(present("ann"), edit_of(resource(owner, "1" * 64)))
    assert change.key == "notes://1"
