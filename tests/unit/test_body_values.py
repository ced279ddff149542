"""A body is bounded in its values, and what of it may hold up others is kept small or read elsewhere."""

import gzip
import json
import pickle

import msgspec
import pytest
from app_kit import InlineReader, create_app
from hypothesis import given
from hypothesis import strategies as st

from webapp.api import body_process, current_request, json_body
from webapp.api.body_reader import Limits, read
from webapp.api.dialects.base import FEW_VALUES, Call
from webapp.api.dialects.registry import DIALECTS
from webapp.domain.errors import PayloadTooLargeError
from webapp.domain.types import RerankRequest

MOST = 1000
MANY = b"[" + b",".join([b"[]"] * MOST) + b"]"
UNBOUNDED = Limits(1 << 25)


@pytest.fixture
def client(service):
    """The API with a bound on values."""
    reader = InlineReader(Limits(1_000_000, MOST))
    return create_app(service, request_timeout_s=30, max_body_bytes=1_000_000, limits={}, reader=reader).test_client()


PATHS = sorted({(path.replace("{model}", "m"), dialect.name) for dialect in DIALECTS for path in dialect.paths})


@pytest.mark.parametrize("path", sorted({path for path, _ in PATHS} | {"/rerank/batch", "/tokenize"}))
@pytest.mark.parametrize("packed", [False, True])
def test_a_body_of_too_many_values_gets_413_with_the_limit_at_every_path(client, path, packed):
    body = b'{"query": "q", "documents": ["a"], "x": ' + MANY + b"}"
    headers = {"Content-Encoding": "gzip"} if packed else {}
    reply = client.post(path, data=gzip.compress(body) if packed else body, headers=headers)
    assert reply.status_code == 413
    assert f"takes {MOST} at a time" in reply.get_data(as_text=True)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_limit_is_a_figure_where_the_format_has_room_for_it(client, path):
    reply = client.post(path, data=b'{"query": "q", "documents": ' + MANY + b"}").json
    assert MOST in (reply.get("limit"), reply.get("error", {}).get("limit") if isinstance(reply["error"], dict) else 0)


def test_no_value_is_made_of_a_body_that_holds_too_many(monkeypatch):
    monkeypatch.setattr("webapp.api.body_reader._rerank", None)  # it would be called
    refused = read("batch", Call("/rerank/batch", {}, MANY), Limits(10_000, MOST))
    assert isinstance(refused.error, PayloadTooLargeError)


@pytest.mark.parametrize("text", [",:[{" * 1000, '","' * 1000, "\\" * 1001, '\\"' * 1000 + "[", "\\\\,\u20ac" * 1000])
def test_what_stands_in_a_text_is_no_value(text):
    body = json.dumps({"query": text, "documents": [text]}).encode()
    json_body.check_values(body, 7)
    assert body.count(b",") > 7 or "\\" in text


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_all_values_and_names_are_counted(value):
    def count(value):
        if isinstance(value, dict):
            return 1 + len(value) + sum(map(count, value.values()))
        return 1 + sum(map(count, value)) if isinstance(value, list) else 1

    body = json.dumps(value).encode()
    empty = str(value).count("[]") + str(value).count("{}")  # each may count as two
    json_body.check_values(body, count(value) + empty)
    if (most := count(value) - 1) > 0:
        with pytest.raises(PayloadTooLargeError):
            json_body.check_values(body, most)
    assert json_body.values_at_most(body) >= count(value)


def test_a_count_that_ends_in_the_middle_of_a_text_goes_on_there(monkeypatch):
    monkeypatch.setattr(json_body, "_STEP_BYTES", 1)
    json_body.check_values(b'["a,b", ",", {"c:[": "d"}, 1]', 7)
    with pytest.raises(PayloadTooLargeError):
        json_body.check_values(b'["a,b", ",", {"c:[": "d"}, 1]', 6)


def test_a_small_body_of_many_values_counts_as_large():
    few, many = (json.dumps({"query": "q", "documents": ["a"] * count}).encode() for count in (100, FEW_VALUES))
    assert (Call("/rerank", {}, few).large, Call("/rerank", {}, many).large) == (False, True)


def test_a_small_body_of_many_values_is_not_read_to_tell_its_error(service, client, monkeypatch):
    read_by = []
    monkeypatch.setattr(current_request, "dialect_of", read_by.append)
    with service.admission.arrive(0):
        service.admission.max_ongoing_requests = 1
        assert client.post("/v1/rerank", data=MANY * 5).status_code == 429
    assert read_by == []


class Entry(msgspec.Struct, omit_defaults=True):
    """A result with texts in all places where a reply may have one."""

    text: str
    document: dict[str, str] | msgspec.Raw
    number: int = 3
    spans: list[msgspec.Struct] = []


class Reply(msgspec.Struct):
    """A reply whose results are in it twice."""

    query: str
    results: list[Entry]
    again: list[Entry] = []


def values_with(unit):
    """Return one value of each kind that a reply is made of, with long texts of this unit."""
    raw = msgspec.Raw(msgspec.json.encode({unit: [unit * 50]}))
    first, second = Entry(unit * 50, {"text": unit * 20, unit: "b"}), Entry("a", raw, 4)
    results = [first, second, Entry("", {}, spans=[first, second])]
    reply, empty = Reply(unit * 30, results, results), Reply("", [])
    return {
        "reply": reply,
        "empty reply": empty,
        "results": results,
        "batch": [reply, empty],
        "empty list": [],
        "text": "a" * 50,
        "raw": raw,
    }


@pytest.mark.parametrize("kind", values_with("x"))
@pytest.mark.parametrize(
    ("size", "unit"),
    [(1, "\U0001f41d"), (3, 'a"\\\n'), (7, "\u8702x"), (5, "plain"), (4, "\x00\x7f\u2028")],
    ids=["one character", "escapes", "two characters", "plain", "controls"],
)
def test_a_long_text_is_written_as_a_short_one_is(monkeypatch, size, unit, kind):
    value = values_with(unit)[kind]
    monkeypatch.setattr(json_body, "LONG_CHARS", size)
    assert json_body.encode(value, long=True) == msgspec.json.encode(value)


def test_a_long_text_comes_from_the_reading_process_in_parts_and_once(monkeypatch):
    monkeypatch.setattr(body_process, "LONG_CHARS", 10)
    texts = ["bees \U0001f41d" * 10, "short", "query" * 9]
    body = json.dumps({"query": texts[2], "documents": texts[:2], "return_documents": True}).encode()
    answer, error = body_process._answer("rerank", Call("/v1/rerank", {}, body), UNBOUNDED)
    (request,) = pickle.loads(pickle.dumps(answer)).requests  # noqa: S301
    assert (error, request.query, request.documents) == (None, texts[2], texts[:2])
    assert all(one is other for one, other in zip(request.documents, request.originals, strict=True))


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/rerank", {"documents": [{"text": "a", "id": 7}], "return_documents": True}, {}),
        ("/rerank", {"documents": [{"content": "a", "metadata": {"id": 7}}]}, {}),
        ("/rerank", {"documents": [{"text": "a", "id": 7}]}, {"X-Pinecone-Api-Version": "2025-10"}),
        ("/rerank", {"input": [{"text": "a", "id": 7}], "return_input": True}, {}),
    ],
)
def test_what_a_reply_repeats_is_one_value_whatever_it_holds_and_nothing_where_it_repeats_nothing(path, body, headers):
    def originals(**more):
        (request,) = read(
            "rerank", Call(path, headers, json.dumps({"query": "q", **body, **more}).encode()), UNBOUNDED
        ).requests
        assert isinstance(request, RerankRequest)
        return list(request.originals)

    assert all(isinstance(each, msgspec.Raw) for each in originals())
    assert len(originals()) == 1
    assert originals(return_documents=False, return_input=False) == []


@pytest.mark.parametrize("count", [10_001, 2_000_000])
def test_texts_to_tokenise_are_bounded_in_their_number(count):
    body = b'{"inputs": [' + b",".join([b'""'] * count) + b"]}"
    with pytest.raises(PayloadTooLargeError) as refused:
        read("tokenize", Call("/tokenize", {}, body), UNBOUNDED)
    assert refused.value.figures == {"limit": 10_000}


def test_the_body_is_decoded_once_when_it_holds_half_a_surrogate_pair(monkeypatch):
    decoded = []
    decode = msgspec.json.decode

    def counted(body, **options):
        decoded.append(body)
        return decode(body, **options)

    monkeypatch.setattr(json_body.msgspec.json, "decode", counted)
    assert json_body.decode(rb'{"a": ["\ud800", "\ud83d\udc1d"]}', dict[str, list[str]]) == {
        "a": ["\ufffd", "\U0001f41d"]
    }
    assert len(decoded) == 1
