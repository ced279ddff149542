import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.api import json_body
from webapp.api.dialects import native
from webapp.domain.errors import InvalidRequestError, RerankError

GOOD = {"query": "q", "documents": ["a"]}


def error_of(body):
    with pytest.raises(InvalidRequestError) as caught:
        native.parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({}, "query", "is required"),
        ({"query": "q"}, "documents", "is required"),
        ({**GOOD, "query": 3}, "query", "must be a string, not an integer"),
        ({**GOOD, "query": "  "}, "query", "must not be blank"),
        ({**GOOD, "documents": []}, "documents", "must hold at least one document"),
        ({**GOOD, "documents": "a"}, "documents", "must be a list, not a string"),
        ({**GOOD, "documents": ["a", 7]}, "documents[1]", "must be a string or an object, not an integer"),
        ({**GOOD, "documents": [{"text": "a"}]}, "documents[0].content", "is required"),
        ({**GOOD, "documents": [{"content": None}]}, "documents[0].content", "must be a string, not null"),
        (
            {**GOOD, "documents": [{"content": "a", "metadata": 1}]},
            "documents[0].metadata",
            "must be an object, not an integer",
        ),
        ({**GOOD, "top_k": "5"}, "top_k", "must be an integer, not a string"),
        ({**GOOD, "top_k": -1}, "top_k", "expected int >= 0"),
        ({**GOOD, "raw_scores": "yes"}, "raw_scores", "must be a boolean, not a string"),
        ([GOOD], None, "must be an object, not a list"),
        ("text", None, "must be an object, not a string"),
    ],
)
def test_an_error_names_the_field_and_what_was_wrong(body, field, problem):
    error = error_of(body)
    assert (error.field, error.message) == (field, problem)


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"{", b"\xff\xfe", b'{"query": NaN}', b"[" * 100_000, b"query=a&documents=b"]
)
def test_what_is_no_json_is_refused(body):
    assert isinstance(error_of(body), InvalidRequestError)


def test_a_batch_keeps_good_items_beside_bad_ones():
    good, bad = native.parse_batch(json.dumps([GOOD, {"query": 1}]).encode())
    assert good.query == "q"
    assert isinstance(bad, RerankError)


def test_a_lone_surrogate_becomes_the_replacement_character():
    parsed = native.parse(
        b'{"query": "a\\ud83d", "documents": ["\\udc00b", {"content": "c", "metadata": {"\\ud83d": "\\ud83d"}}]}'
    )
    assert parsed.query == "a\ufffd"
    assert parsed.documents == ["\ufffdb", "c"]
    assert bytes(parsed.originals[1]) == rb'{"\ufffd": "\ufffd"}'


@given(st.text(min_size=1).filter(str.strip), st.lists(st.text(), min_size=1))
def test_any_unicode_comes_through_unchanged(query, documents):
    parsed = native.parse(json.dumps({"query": query, "documents": documents}).encode())
    if not any("\ud800" <= char <= "\udfff" for text in (query, *documents) for char in text):
        assert (parsed.query, parsed.documents) == (query, documents)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["query", "documents", "content", "top_k", "x"]), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_no_json_body_makes_the_parser_fail_otherwise(value):
    body = json.dumps(value).encode()
    for parse in (native.parse, native.parse_batch):
        try:
            parse(body)
        except InvalidRequestError as error:
            native.dump_error(error, 400, "id")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_otherwise(body):
    try:
        native.parse(body)
    except InvalidRequestError as error:
        native.dump_error(error, 400, "id")


@given(st.lists(st.sampled_from([b"a", "\u00e9".encode(), "\U0001f41d".encode(), b"\xff", b"\xf0\x9f", b"\x80"])))
def test_bytes_that_are_no_utf8_are_found_in_steps_as_at_once(pieces):
    body = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "_STEP_BYTES", 3)
        assert problem_of(json_body.without_surrogates, body) == problem_of(bytes.decode, body)


def problem_of(read, body):
    try:
        read(body)
    except UnicodeDecodeError as error:
        return error.args
    return None


def test_defaults_are_the_missions():
    parsed = native.parse(json.dumps(GOOD).encode())
    assert (parsed.top_n, parsed.raw_scores, parsed.return_documents) == (5, False, True)


def test_null_means_the_default_and_0_means_all():
    assert native.parse(json.dumps({**GOOD, "top_k": None, "raw_scores": None}).encode()).top_n == 5
    assert native.parse(json.dumps({**GOOD, "top_k": 0}).encode()).top_n is None


@given(
    st.lists(
        st.sampled_from([r"\ud83d", r"\uDE00", r"\u0041", r"\\", r"\n", r"\"", "ud83d", "a", "\u8702"]), max_size=12
    )
)
def test_only_halves_of_surrogate_pairs_are_replaced(pieces):
    text = "".join(pieces)
    expected = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(f'"{text}"'))
    assert json.loads(json_body.without_surrogates(f'"{text}"'.encode())) == expected
    assert json_body.decode(f'"{text}"'.encode(), str) == expected


def test_what_stands_for_a_backslash_is_no_way_in():
    assert isinstance(error_of(b'{"query": "\\ud800", "documents": ["\0\0"]}'), InvalidRequestError)
