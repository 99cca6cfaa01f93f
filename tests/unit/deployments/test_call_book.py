"""Slots, and how gateways that want the same ones share them."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeClock
from thornback.deployments.call_book import SILENCE_S, CallBook, Load, Wish, shares


def test_a_slot_is_taken_once_and_given_back() -> None:
    book = CallBook(FakeClock(), 1)
    assert book.admit("a")
    assert not book.admit("a")
    book.done("a")
    assert book.admit("b")


def test_a_thread_that_outlived_its_call_takes_a_slot() -> None:
    book = CallBook(FakeClock(), 2)
    book.stray(1)
    assert (book.free_for("a"), book.in_use) == (1, 1)


def test_a_gateway_that_is_alone_has_every_free_slot() -> None:
    book = CallBook(FakeClock(), 8)
    book.hear("a", 20)
    assert book.free_for("a") == 8


def test_a_slot_that_falls_free_is_not_for_who_has_the_others() -> None:
    book = CallBook(FakeClock(), 2)
    book.admit("a")
    book.admit("a")
    book.hear("b", 5)
    book.done("a")
    assert (book.free_for("a"), book.free_for("b")) == (0, 1)


def test_one_slot_goes_round() -> None:
    book = CallBook(FakeClock(), 1)
    turns = []
    for _ in range(4):
        book.hear("a", 5)
        book.hear("b", 5)
        turn = "a" if book.free_for("a") else "b"
        assert book.free_for("a") + book.free_for("b") == 1
        book.admit(turn)
        book.done(turn)
        turns.append(turn)
    assert turns == ["a", "b", "a", "b"]


def test_no_slot_is_kept_for_a_gateway_that_has_fallen_silent() -> None:
    clock = FakeClock()
    book = CallBook(clock, 2)
    book.hear("b", 5)
    assert book.free_for("a") == 1
    clock.advance(SILENCE_S + 0.1)
    assert book.free_for("a") == 2
    assert book.load() == Load(0, {})


def test_the_load_is_what_ran_on_average_since_it_was_told_last() -> None:
    clock = FakeClock()
    book = CallBook(clock, 8)
    clock.advance(60.0)  # which is not time in which it did nothing
    for _ in range(4):
        book.admit("a")
    clock.advance(0.75)
    for _ in range(4):
        book.done("a")
    clock.advance(0.25)
    assert book.load().running == 3.0
    assert book.load().running == 0  # in no time, and nothing runs
    clock.advance(1.0)
    assert book.load().running == 0.0


def test_a_call_that_came_this_moment_is_in_the_load() -> None:
    book = CallBook(FakeClock(), 8)
    book.admit("a")
    assert book.load().running == 1


def test_a_thread_that_outlived_its_call_is_in_the_load() -> None:
    clock = FakeClock()
    book = CallBook(clock, 8)
    clock.advance(1.0)
    book.stray(2)
    clock.advance(3.0)
    assert book.load().running == 1.5


@given(
    st.integers(0, 20),
    st.dictionaries(
        st.text("abcd", min_size=1, max_size=1),
        st.builds(Wish, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
        max_size=4,
    ),
)
def test_shares_are_all_that_is_free_and_no_more_than_is_wished(
    free: int, wishes: dict[str, Wish]
) -> None:
    given_out = shares(free, wishes)
    assert all(0 <= given_out[name] <= wish.held for name, wish in wishes.items())
    assert sum(given_out.values()) == min(free, sum(wish.held for wish in wishes.values()))
