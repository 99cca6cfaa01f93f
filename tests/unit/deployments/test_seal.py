import pytest

from thornback.deployments.seal import BadSeal, Purpose, Seals

OLD, NEW = b"o" * 32, b"n" * 32


def test_what_one_gateway_seals_another_opens() -> None:
    token = Seals([NEW], "cluster").seal("cursor", b"here")
    assert Seals([NEW], "cluster").open("cursor", token) == b"here"
    assert all(0x21 <= ord(c) <= 0x7E for c in token)


def test_two_seals_of_one_text_differ() -> None:
    seals = Seals([NEW], "cluster")
    assert seals.seal("cursor", b"here") != seals.seal("cursor", b"here")


def test_a_key_that_was_replaced_still_opens_and_no_longer_seals() -> None:
    old, both, new = Seals([OLD], "c"), Seals([NEW, OLD], "c"), Seals([NEW], "c")
    assert both.open("state", old.seal("state", b"x")) == b"x"
    assert new.open("state", both.seal("state", b"x")) == b"x"


@pytest.mark.parametrize(
    ("keys", "audience", "purpose"),
    [([OLD], "c", "state"), ([NEW], "d", "state"), ([NEW], "c", "session")],
)
def test_another_key_cluster_or_purpose_opens_nothing(
    keys: list[bytes], audience: str, purpose: Purpose
) -> None:
    token = Seals([NEW], "c").seal("state", b"x")
    with pytest.raises(BadSeal):
        Seals(keys, audience).open(purpose, token)


def test_a_token_with_any_bit_changed_opens_nothing() -> None:
    seals = Seals([NEW], "c")
    token = seals.seal("state", b"plain")
    for at in range(len(token)):
        for bit in range(7):
            changed = token[:at] + chr(ord(token[at]) ^ (1 << bit)) + token[at + 1 :]
            with pytest.raises(BadSeal):
                seals.open("state", changed)


@pytest.mark.parametrize("token", ["", "v1.", "v1.A", "v1.AAAA", "v2.AAAA", "v1.\N{SNOWMAN}"])
def test_what_is_no_token_opens_nothing(token: str) -> None:
    with pytest.raises(BadSeal):
        Seals([NEW], "c").open("state", token)


def test_a_cluster_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Seals([], "c")
