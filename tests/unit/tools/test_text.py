"""The small tools for text, called as the functions they are."""

import pytest

from thornback.tools import ToolFailure, problems, text, tools_of


def test_every_tool_is_described_to_the_last_parameter() -> None:
    assert [problem for tool in tools_of(text) for problem in problems(tool)] == []


def test_a_text_is_counted_exactly() -> None:
    figures = text.text_stats("It's a cat. A CAT!\nReally?", top=2)
    assert (figures.characters, figures.words, figures.sentences, figures.lines) == (26, 6, 3, 2)
    assert figures.most_frequent == {"a": 2, "cat": 2}


def test_an_empty_text_has_nothing() -> None:
    assert text.text_stats("") == text.TextFigures(0, 0, 0, 0, {})


def test_a_difference_is_a_unified_diff() -> None:
    assert text.text_diff("a\nb", "a\nc", context_lines=0).splitlines()[2:] == [
        "@@ -2 +2 @@",
        "-b",
        "+c",
    ]
    assert text.text_diff("a", "a") == "no differences"


def test_texts_that_would_take_minutes_to_compare_are_refused() -> None:
    with pytest.raises(ToolFailure, match="at most 20000 lines"):
        text.text_diff("a", "\n".join(str(i % 130) for i in range(20_001)))


def test_lines_are_found_by_phrase_whatever_the_case() -> None:
    assert text.text_find("Alpha\nbeta\nALPHABET", "alpha") == ["1: Alpha", "3: ALPHABET"]
    assert text.text_find("a\na\na", "a", limit=2) == ["1: a", "2: a"]


def test_an_empty_phrase_is_refused() -> None:
    with pytest.raises(ToolFailure, match="phrase is empty"):
        text.text_find("a", " ")
