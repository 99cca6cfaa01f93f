"""From docstrings to what a model reads: a description, and one of each parameter.

Google style, as in this project; NumPy's and reST's are understood as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import docstring_parser


def read_docstrings(docstrings: Sequence[str | None]) -> tuple[str, dict[str, str]]:
    """The description of a tool, and what is said about each parameter.

    What a caller cannot use (`Raises`) is left out; `Returns` and examples stay.

    Args:
        docstrings: Of the function, or of a class and then of its `__call__`. The first that has
            a text describes the tool; all describe parameters.

    Raises:
        TypeError: if none has a text.
    """
    texts = [inspect.cleandoc(docstring) for docstring in docstrings if docstring]
    # The parser misses a section that nothing stands before, as in the `__call__` of a class.
    parsed = [docstring_parser.parse(t if n == 0 else f"Call.\n\n{t}") for n, t in enumerate(texts)]
    document = next((document for document in parsed if document.description), None)
    if document is None:
        raise TypeError("it has no docstring: write one, the model chooses by it")
    parts = [document.description]
    if document.returns and document.returns.description:
        parts.append(f"Returns: {document.returns.description}")
    parts += [f"Example: {e.snippet or e.description}" for e in document.examples]
    parameters = {
        parameter.arg_name.lstrip("*"): " ".join(parameter.description.split())
        for document in parsed
        for parameter in document.params
        if parameter.description
    }
    return "\n\n".join(part for part in parts if part), parameters
