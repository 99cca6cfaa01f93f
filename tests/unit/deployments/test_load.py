import msgspec
import pytest

from thornback.deployments.load import Figures, WrongAnswers, figures_of, percentile

RIGHT = {
    "answered": 5,
    "unanswered": 0,
    "wrong": 0,
    "socket_errors": 0,
    "first_wrong": "",
    "latency_us": {"echo": {"900": 2, "1200": 1}},
}


def told(**changes: object) -> bytes:
    return msgspec.json.encode({**RIGHT, **changes})


def test_what_counts_is_what_was_answered_in_time() -> None:
    figures = figures_of(told(), seconds=1.5)
    assert (figures.answered, figures.calls, figures.calls_per_s) == (5, 3, 2.0)
    assert (figures.latency_ms(50), figures.latency_ms(99)) == (0.9, 1.2)


@pytest.mark.parametrize("fault", ["wrong", "unanswered", "socket_errors"])
def test_one_bad_answer_spoils_all_figures(fault: str) -> None:
    with pytest.raises(WrongAnswers):
        figures_of(told(**{fault: 1}), seconds=1.0)


def test_no_answer_at_all_is_not_a_fast_one() -> None:
    with pytest.raises(WrongAnswers):
        figures_of(told(answered=0, latency_us={"echo": {}}), seconds=1.0)


def test_the_first_wrong_answer_is_shown() -> None:
    with pytest.raises(WrongAnswers, match=r"1 wrong answers, 0 requests.*503 busy"):
        figures_of(told(wrong=1, first_wrong="503 busy"), seconds=1.0)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 1), (51, 2), (99, 2), (100, 7)])
def test_a_percentile_is_a_time_that_was_seen(percent: float, expected: int) -> None:
    assert percentile({2: 49, 7: 1, 1: 50}, percent) == expected


def test_without_calls_there_is_no_latency() -> None:
    assert percentile({}, 50) == 0


def test_latency_is_told_of_one_tool_or_of_all() -> None:
    times = {"fast": {1000: 9}, "slow": {5000: 1}}
    figures = Figures(answered=10, seconds=1.0, latency_us=times)
    assert figures.latency_ms(99) == 5.0
    assert figures.latency_ms(99, "fast") == 1.0
