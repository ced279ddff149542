"""Requests captured from real clients, replayed byte for byte through nginx."""

import captured
import pytest
import requests
from running import PATIENCE_S

REQUESTS = captured.load()


def replay(stack, name, request):
    body = captured.raw_body(request)
    prepared = requests.Request(
        request["method"], stack.url + captured.PREFIX.get(name, "") + request["path"], captured.headers(request)
    ).prepare()
    prepared.body = body
    prepared.headers["Content-Length"] = str(len(body))
    with requests.Session() as session:
        return session.send(prepared, timeout=PATIENCE_S)


@pytest.mark.skipif(not REQUESTS, reason="../shared/data/captured-requests is not here")
@pytest.mark.parametrize(("name", "request_", "needs"), REQUESTS, ids=[name for name, *_ in REQUESTS])
def test_a_captured_request_gets_what_its_client_needs(stack, name, request_, needs):
    reply = replay(stack, name, request_)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert captured.missing(needs, answer) == []
    asked = request_["body"]
    documents = captured.documents_of(asked)
    if isinstance(answer, list):
        ranked = answer
    else:
        ranked = answer.get("results") or answer.get("rankings") or answer.get("scores")
    limit = asked.get("top_n") or asked.get("top_k") or len(documents)
    assert len(ranked) == min(limit, len(documents))
    if isinstance(answer, dict) and "results" in answer:
        check_documents(name, asked, answer)


def check_documents(name, asked, answer):
    """Check them by wire-formats.md: only if asked for, never null, an object in `results`, a string in `data`."""
    wanted = str(asked.get("return_documents", False)).lower() == "true"
    for entry in answer["results"] + answer.get("data", []):
        assert ("document" in entry) == wanted
    if wanted:
        kind = str if name in captured.STRING_DOCUMENTS else dict
        assert all(isinstance(entry["document"], kind) for entry in answer["results"])
        assert all(isinstance(entry["document"], str) for entry in answer.get("data", []))


@pytest.mark.skipif(not REQUESTS, reason="../shared/data/captured-requests is not here")
def test_bodies_are_the_captured_bytes():
    """The length that a client announced is the length of what we send."""
    known = [request for _, request, _ in REQUESTS if "Content-Length" in request["headers"] and request["body"]]
    same = [
        request for request in known if len(captured.raw_body(request)) == int(request["headers"]["Content-Length"])
    ]
    assert len(same) == len(known)
