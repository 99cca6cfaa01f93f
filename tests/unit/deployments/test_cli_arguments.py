import pytest

from thornback.deployments.cli_arguments import arguments_of

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "strict": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "filter": {"type": "object"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "mode": {"enum": ["fast", "1"]},
    },
}


def no_file(path: str) -> str:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("text=42", {"text": "42"}),
        ("text=a=b", {"text": "a=b"}),
        ('text="quoted"', {"text": '"quoted"'}),
        ("text=", {"text": ""}),
        ("count=42", {"count": 42}),
        ("share=0.5", {"share": 0.5}),
        ("share=1", {"share": 1}),
        ("strict=true", {"strict": True}),
        ('filter={"a": [1]}', {"filter": {"a": [1]}}),
        ('tags=["a", "b"]', {"tags": ["a", "b"]}),
        ("tags=42", {"tags": ["42"]}),
        ("either=7", {"either": 7}),
        ("either=seven", {"either": "seven"}),
        ("mode=1", {"mode": "1"}),
        ("unknown=3", {"unknown": 3}),
        ("unknown=three", {"unknown": "three"}),
    ],
)
def test_a_word_is_read_as_its_schema_says(word: str, expected: dict[str, object]) -> None:
    assert arguments_of([word], SCHEMA, no_file) == expected


def test_a_key_given_again_adds_to_an_array() -> None:
    assert arguments_of(["tags=a", "tags=b"], SCHEMA, no_file) == {"tags": ["a", "b"]}


def test_a_value_comes_from_a_file_where_it_begins_with_at() -> None:
    assert arguments_of(["text=@q.sql"], SCHEMA, {"q.sql": "SELECT 1"}.__getitem__) == {
        "text": "SELECT 1"
    }


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["count=many"], "count: expected integer, given 'many'"),
        (["strict=1"], "strict: expected boolean"),
        (["filter=[1]"], "filter: expected object"),
        (["text=a", "text=b"], "text is given twice"),
        (["loose"], "neither key=value nor a JSON object"),
        (["=x"], "neither key=value nor a JSON object"),
    ],
)
def test_what_cannot_be_read_is_named(words: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        arguments_of(words, SCHEMA, no_file)
