"""Templates: what they make, what they may not cost, and which URIs are whose."""

import jinja2
import pytest

from thornback.cluster.errors import InvalidParams
from thornback.cluster.templates import MAX_RENDERED_CHARS, misfits_of_text, render_text
from thornback.cluster.uri_templates import (
    is_uri,
    misfits_of_template,
    variables_in,
    variables_of,
)


def test_a_template_is_filled_and_nothing_is_escaped() -> None:
    source = "{% for n in range(2) %}{{ word }} {% endfor %}{{ {'a': word} | json }}\n"
    assert render_text(source, {"word": "<é>"}) == '<é> <é> {"a":"<é>"}\n'


def test_nothing_given_writes_nothing() -> None:
    assert render_text("[{{ word }}]{% if word is none %} none{% endif %}", {"word": None}) == (
        "[] none"
    )


def test_values_are_never_templates() -> None:
    assert render_text("{{ word }}", {"word": "{{ 7 * 7 }}"}) == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{{ wrod }}", "uses wrod, which is no variable of it; it has word"),
        ("a\n{% if %}", "line 2: Expected an expression, got 'end of statement block'"),
        ("{{ word | nope }}", "line 1: No filter named 'nope'."),
        ("{{ lipsum() }}", "uses lipsum, which is no variable of it; it has word"),
        ("{{ word | center(99) }}", "line 1: No filter named 'center'."),
    ],
)
def test_what_is_wrong_with_a_template_is_known_before_it_is_used(source: str, line: str) -> None:
    assert misfits_of_text(source, ["word"]) == [line]


def test_a_template_that_is_right_has_no_misfits() -> None:
    assert misfits_of_text("{% set x = word %}{{ x | upper }}{{ range(3) | list }}", ["word"]) == []


@pytest.mark.parametrize(
    "source",
    [
        "{{ word.__class__.__mro__ }}",
        "{{ word.__init__.__globals__ }}",
        "{{ (word | attr('__class__')).x }}",
        "{{ word.format(1) }}",
        "{{ '%s' % word }}",
        "{{ word * 10 }}",
        "{{ 9 ** 99999999 }}",
        "{{ word.zfill(1000000000) }}",
        "{{ [].append(word) }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        render_text(source, {"word": "x"})


def test_a_text_has_an_end() -> None:
    with pytest.raises(InvalidParams, match="over 1000000 characters"):
        render_text("{% for n in range(99) %}{{ word }}{% endfor %}", {"word": "x" * 50_000})
    assert len(render_text("{{ word }}", {"word": "x" * MAX_RENDERED_CHARS})) == MAX_RENDERED_CHARS


def test_nested_loops_share_one_budget() -> None:
    silent = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InvalidParams, match="over 20000 steps"):
        render_text(silent, {})
    with pytest.raises(InvalidParams, match="over 20000 steps"):
        render_text("{{ range(999999999) | list }}", {})
    assert render_text("{{ range(3) | sum }}", {}) == "3"


@pytest.mark.parametrize(
    ("template", "uri", "variables"),
    [
        ("test://template/{id}/data", "test://template/123/data", {"id": "123"}),
        ("test://template/{id}/data", "test://template/a%20b/data", {"id": "a b"}),
        ("test://template/{id}/data", "test://template/1/2/data", None),
        ("test://template/{id}/data", "test://template/1/data?x=1", None),
        ("notes://{+path}", "notes://a/b.md", {"path": "a/b.md"}),
        (
            "notes://{user}{?page,size}",
            "notes://ann?size=2",
            {"user": "ann", "page": "", "size": "2"},
        ),
        ("notes{/path*}", "notes/a/b", None),
    ],
)
def test_a_uri_gives_the_variables_of_its_family(
    template: str, uri: str, variables: dict[str, str] | None
) -> None:
    assert variables_in(template, uri) == variables


@pytest.mark.parametrize(
    "value", ["..", "%2e%2e", "..%2F..%2Fetc", "%2Fetc%2Fpasswd", "a%00b", "C%3A%5Cx", "..%5Cx"]
)
def test_no_value_leads_out_of_a_directory(value: str) -> None:
    assert variables_in("notes://docs/{name}", f"notes://docs/{value}") is None


@pytest.mark.parametrize(
    "uri", ["", "a", "a:", "no scheme:x", "a:b c", "a:é", "a:\n", "a:" + "b" * 2047]
)
def test_what_is_no_uri_names_nothing(uri: str) -> None:
    assert not is_uri(uri)


@pytest.mark.parametrize("uri", ["test://static-text", "urn:isbn:0451450523", "a:b?c=%20#d"])
def test_what_is_a_uri(uri: str) -> None:
    assert is_uri(uri)


@pytest.mark.parametrize("template", ["notes://{", "notes://{a}{b}", "notes://fixed", "{name}"])
def test_a_wrong_uri_template_is_told(template: str) -> None:
    assert len(misfits_of_template(template)) == 1


def test_a_right_uri_template_and_its_variables() -> None:
    assert misfits_of_template("notes://{user}/{page}") == []
    assert variables_of("notes://{user}/{page}{?q}") == ["user", "page", "q"]
