"""What is not scored comes back as it was sent, byte for byte."""

import json

import pytest
from asking import post

METADATA = (
    b'{"price": 1e3, "exact": 0.1234567890123456789, "twice": 1, "twice":2, "big": 123456789012345678901 , "e": 1E999}'
)


def native(metadata):
    return b'{"query": "q", "documents": [{"content": "a", "metadata": ' + metadata + b"}]}"


def test_metadata_comes_back_byte_for_byte(client):
    assert METADATA in post(client, "/rerank", native(METADATA)).data


def test_metadata_of_a_batch_comes_back_byte_for_byte(client):
    assert METADATA in post(client, "/rerank/batch", b"[" + native(METADATA) + b"]").data


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/rerank", b'{"query": "q", "return_documents": true, "documents": [{"text": "a", "x": %s}]}', {}),
        ("/v1/rerank", b'{"query": "q", "return_documents": true, "documents": [{"title": "a", "x": %s}]}', {}),
        ("/v2/rerank", b'{"query": "q", "return_documents": true, "documents": [{"text": "a", "x": %s}]}', {}),
        ("/v1/reranking", b'{"query": "q", "return_input": true, "input": [{"text": "a", "x": %s}]}', {}),
        ("/rerank", b'{"query": "q", "documents": [{"text": "a", "x": %s}]}', {"X-Pinecone-Api-Version": "2025-10"}),
    ],
)
def test_fields_beside_the_text_come_back_byte_for_byte(client, path, body, headers):
    assert METADATA in post(client, path, body % METADATA, headers=headers).data


def test_metadata_that_is_null_or_missing_comes_back_as_an_empty_object(client):
    body = b'{"query": "q", "documents": [{"content": "a", "metadata": null}, {"content": "b"}, "c"]}'
    assert [each["metadata"] for each in post(client, "/rerank", body).json["results"]] == [{}, {}, {}]


@pytest.mark.parametrize(
    "rubbish",
    [b'{"a": tru}', b'{"a": 01}', b'{"a" 1}', b'{"a": "\\x"}', b'{"a": "\xff"}', b'{"a": "\x01"}', b"{a: 1}", b"{,}"],
)
@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_rubbish_in_metadata_is_refused(client, rubbish, path):
    field = b"content" if path == "/rerank" else b"text"
    body = b'{"query": "q", "documents": [{"%s": "a", "metadata": %s}]}' % (field, rubbish)
    assert post(client, path, body).status_code == 400


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\uDC00", b"\xed\xa0\xbd"])
def test_a_lone_surrogate_in_metadata_is_replaced_and_the_rest_stays(client, half):
    sent = b'{"a": "%s", "b": 1e3, "c": "\\ud83d\\ude00\\\\ud83d"}' % half
    whole = post(client, "/rerank", native(sent)).data
    assert b'"b": 1e3, "c": "\\ud83d\\ude00\\\\ud83d"}' in whole
    assert json.loads(whole)["results"][0]["metadata"]["a"] == "\ufffd"


def test_an_object_without_a_text_is_scored_as_its_json_without_blanks(client):
    body = b'{"query": "q", "return_documents": true, "documents": [{"a": 1e3 , "b": [1 , 2]}]}'
    (result,) = post(client, "/v1/rerank", body).json["results"]
    assert result["document"]["text"] == '{"a":1e3,"b":[1,2]}'
