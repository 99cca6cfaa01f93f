"""Small tools for text, and the smallest examples of what a tool can be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from typing import Annotated

from pydantic import Field

from thornback.tools import ToolFailure, tool

Text = Annotated[str, Field(max_length=1_000_000)]
MAX_DIFF_LINES = 20_000
"""Comparing takes time with the square of the lines, seconds for so many, and cannot be stopped."""
_WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}-]\w+)*")


@dataclass(frozen=True)
class TextFigures:
    """How long a text is."""

    characters: int
    words: int
    sentences: int
    lines: int
    most_frequent: dict[str, int]
    """Words in lower case and how often they occur, the most frequent first."""


@tool(timeout_s=10, read_only=True, idempotent=True, open_world=False)
def text_stats(text: Text, top: Annotated[int, Field(ge=0, le=100)] = 5) -> TextFigures:
    """Count the characters, words, sentences and lines of a text, and its most frequent words.

    Exact, unlike an estimate by reading: use it whenever a number is asked for.

    Args:
        text: The text to measure, at most a million characters.
        top: How many of the most frequent words to return.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)", text) if part.strip()]
    return TextFigures(
        len(text), len(words), len(sentences), len(text.splitlines()), dict(ranked[:top])
    )


@tool(timeout_s=10, read_only=True, idempotent=True, open_world=False)
def text_diff(
    before: Text, after: Text, context_lines: Annotated[int, Field(ge=0, le=20)] = 3
) -> str:
    """Show line by line what changed from one text to another, as a unified diff.

    Returns an empty diff, `no differences`, for equal texts.

    Args:
        before: The older text, at most 20,000 lines.
        after: The newer text, at most 20,000 lines.
        context_lines: Unchanged lines to show around each change.
    """
    old, new = before.splitlines(), after.splitlines()
    if max(len(old), len(new)) > MAX_DIFF_LINES:
        raise ToolFailure(f"at most {MAX_DIFF_LINES} lines can be compared: send the part in doubt")
    lines = unified_diff(old, new, "before", "after", lineterm="", n=context_lines)
    return "\n".join(lines) or "no differences"


@tool(timeout_s=10, read_only=True, idempotent=True, open_world=False)
def text_find(
    text: Text, phrase: str, limit: Annotated[int, Field(ge=1, le=1000)] = 100
) -> list[str]:
    """Find the lines of a text that contain a phrase, with their line numbers.

    Args:
        text: The text to search.
        phrase: The phrase to look for; upper and lower case are the same.
        limit: Lines to return at most.
    """
    if not phrase.strip():
        raise ToolFailure("phrase is empty: say what to look for")
    wanted = phrase.casefold()
    found = (
        f"{number}: {line}"
        for number, line in enumerate(text.splitlines(), 1)
        if wanted in line.casefold()
    )
    return list(islice(found, limit))
