"""Large and compressed bodies, in and out, through nginx."""

import gzip
import json
import threading

import psutil
import pytest
import requests
import small_models
from running import PATIENCE_S, wait_for

from webapp.api.reply_files import LARGE_BYTES

MANY = small_models.texts(200)
LARGE = b'{"query": "q", "documents": ["' + b"\\ud800" * 5_500_000 + b'"]}'
"""33 MB of halves of surrogate pairs: to replace them takes seconds."""


def ask(stack, body, **headers):
    return requests.post(f"{stack.url}/rerank", body, headers=headers, timeout=PATIENCE_S)


def echoed(stack, accept_encoding, documents=MANY):
    """All of a reply as it came: its headers and its bytes."""
    body = {"query": "q", "documents": documents, "return_documents": True}
    headers = {"Accept-Encoding": accept_encoding} if accept_encoding is not None else {"Accept-Encoding": None}
    with requests.post(f"{stack.url}/rerank", json=body, headers=headers, timeout=PATIENCE_S, stream=True) as reply:
        return reply.headers, reply.raw.read(decode_content=False)


def reading(stack):
    """Whether a worker's own process is reading a body."""
    children = [child for pid in stack.workers() for child in psutil.Process(pid).children()]
    return any(child.status() == psutil.STATUS_RUNNING for child in children)


def test_health_and_small_requests_are_answered_before_a_large_body_that_came_first(stack):
    order = []

    def send_large():
        order.append(("large", ask(stack, LARGE).status_code))

    sender = threading.Thread(target=send_large)
    sender.start()
    wait_for(lambda: reading(stack), "the large body is being read")
    order.append(("health", requests.get(f"{stack.url}/health", timeout=PATIENCE_S).status_code))
    order.append(("ready", requests.get(f"{stack.url}/ready", timeout=PATIENCE_S).status_code))
    order.append(("small", stack.rerank().status_code))
    sender.join()
    assert order == [("health", 200), ("ready", 200), ("small", 200), ("large", 200)]


def test_large_bodies_beyond_the_memory_for_them_are_refused_and_the_others_served(stack):
    replies = []
    senders = [threading.Thread(target=lambda: replies.append(ask(stack, LARGE))) for _ in range(8)]
    for sender in senders:
        sender.start()
    wait_for(lambda: level(stack, "rerank_body_memory_bytes") > 0 or len(replies) == len(senders), "they are counted")
    for sender in senders:
        sender.join()
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 1 <= len(refused) <= 7
    for reply in refused:
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(reply.headers["Retry-After"]) <= 30
        assert (
            reply.json()["limit"]
            == requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["limits"]["max_body_memory_bytes"]
        )
    wait_for(lambda: level(stack, "rerank_body_memory_bytes") == 0, "all memory is given back")


def level(stack, name):
    told = requests.get(f"{stack.url}/metrics", timeout=PATIENCE_S).text
    return float(next(line for line in told.splitlines() if line.startswith(f"{name} ")).split()[1])


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip", "deflate, gzip;q=0.5", "gzip, deflate, zstd"])
def test_a_long_reply_is_compressed_for_those_who_ask(stack, accepted):
    headers, body = echoed(stack, accepted)
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Vary"] == "Accept-Encoding"
    assert len(json.loads(gzip.decompress(body))["results"]) == len(MANY)


@pytest.mark.parametrize("accepted", [None, "identity", "br", "gzip;q=0", "deflate, gzip; q=0.0"])
def test_a_long_reply_stays_plain_for_those_who_do_not_ask(stack, accepted):
    headers, body = echoed(stack, accepted)
    assert "Content-Encoding" not in headers
    assert len(json.loads(body)["results"]) == len(MANY)


def test_a_short_reply_stays_plain(stack):
    headers, body = echoed(stack, "gzip", ["a", "b"])
    assert "Content-Encoding" not in headers
    assert len(json.loads(body)["results"]) == 2


def test_an_event_stream_stays_plain_and_comes_at_once(stack):
    stack.rerank(MANY, headers={"X-Request-Id": "plain-events"})
    url = f"{stack.url}/progress/plain-events"
    with requests.get(url, headers={"Accept-Encoding": "gzip"}, timeout=PATIENCE_S, stream=True) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert "Content-Encoding" not in reply.headers
        assert next(reply.iter_lines()), "the first line, while the stream is open"


def test_a_packed_body_comes_through(stack):
    body = gzip.compress(json.dumps({"query": "q", "documents": MANY}).encode())
    assert len(ask(stack, body, **{"Content-Encoding": "gzip"}).json()["results"]) == len(MANY)


def test_a_bomb_is_refused_and_the_next_request_served(stack):
    reply = ask(stack, gzip.compress(b" " * 300_000_000), **{"Content-Encoding": "gzip"})
    assert reply.status_code == 413
    assert "unpacks to more than" in reply.json()["message"]
    assert stack.rerank().status_code == 200


def test_a_large_reply_has_the_headers_of_a_small_one_and_leaves_no_text_behind(stack):
    large, small = (
        stack.rerank(documents, body={"return_documents": True}, headers={"Accept-Encoding": "identity"})
        for documents in (MANY * 5, [" ".join(MANY)])  # both warn that texts were cut
    )
    assert len(large.content) > 2 * LARGE_BYTES
    assert large.headers.keys() == small.headers.keys()
    assert large.headers["X-Request-Id"] != small.headers["X-Request-Id"]
    wait_for(lambda: not list((stack.state_dir / "run" / "replies").iterdir()), "the file is gone")
    (line,) = stack.logged("nginx", lambda each: each.get("request_id") == large.headers["X-Request-Id"])
    assert (line["method"], line["path"], line["status"]) == ("POST", "/rerank", 200)


def test_nobody_gets_a_reply_file_by_its_address(stack):
    assert requests.get(f"{stack.url}/.reply/x", timeout=PATIENCE_S).json()["code"] == 404
