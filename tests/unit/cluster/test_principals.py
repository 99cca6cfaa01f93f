import pytest

from thornback.cluster.errors import HttpRefusal
from thornback.cluster.principals import (
    EVERYBODY,
    Caller,
    Principal,
    PrincipalBook,
    PrincipalEntry,
    key_hash,
    new_key,
)

KEY = "tbk_0123456789"
ENTRY = PrincipalEntry("agent", key_hash(KEY), tools=("sql_*",), tags=("lab",))
BOOK = PrincipalBook([ENTRY])
REFUSALS = [
    None,
    "",
    "Bearer",
    f"Bearer {KEY}x",
    f"Basic {KEY}",
    KEY,
    "Bearer \udcff",
    f"Bearer, {KEY}",
]


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "])
def test_a_key_names_its_caller(header: str) -> None:
    caller = BOOK.caller_of(header, anonymous=False)
    assert caller == Caller(Principal("default", "agent", ("lab",)), ("sql_*",))


@pytest.mark.parametrize("header", REFUSALS)
def test_every_other_header_gets_one_and_the_same_refusal(header: str | None) -> None:
    with pytest.raises(HttpRefusal, match=r"^A valid bearer key is required$") as refused:
        BOOK.caller_of(header, anonymous=False)
    assert refused.value.status == 401
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer realm=")


def test_only_a_key_that_was_sent_is_called_invalid() -> None:
    """RFC 6750 section 3.1."""
    challenges = []
    for header in (None, "Bearer wrong"):
        with pytest.raises(HttpRefusal) as refused:
            BOOK.caller_of(header, anonymous=False)
        challenges.append("invalid_token" in refused.value.headers["WWW-Authenticate"])
    assert challenges == [False, True]


def test_an_empty_book_opens_no_door() -> None:
    with pytest.raises(HttpRefusal):
        PrincipalBook([]).caller_of(f"Bearer {KEY}", anonymous=False)


@pytest.mark.parametrize("header", [*REFUSALS, f"Bearer {KEY}"])
def test_without_principals_everybody_is_anonymous_whatever_they_send(header: str | None) -> None:
    assert BOOK.caller_of(header, anonymous=True) is EVERYBODY


@pytest.mark.parametrize(
    ("patterns", "may"),
    [
        (("sql_*",), True),
        (("sql_query",), True),
        (("*",), True),
        (("SQL_*",), False),
        (("sql",), False),
        ((), False),
    ],
)
def test_patterns_say_which_tools_a_caller_may_use(patterns: tuple[str, ...], may: bool) -> None:
    assert Caller(Principal("default", "agent"), patterns).may_use("sql_query") is may


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("tbk_") and len(key) == 47 for key in keys)
