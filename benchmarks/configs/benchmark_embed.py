"""`text_embed` as it ships, with a count of its calls."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from thornback.tools.benchmark import CALLS
from thornback.tools.embeddings import TextEmbed

__all__ = ["TextEmbed"]


def _counted(embed: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(embed)
    def counting(self: TextEmbed, texts: Sequence[Any], ctx: Sequence[Any]) -> Any:
        for _ in texts:
            CALLS.add()
        return embed(self, texts, ctx)

    return counting


# In place: the tool is what it was, to its schemas.
TextEmbed.__call__ = _counted(TextEmbed.__call__)  # type: ignore[method-assign]
