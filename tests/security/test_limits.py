"""Limits of a minute: in the caller's own format, before any work, and not to be got round by a header."""

import json

import pytest
from securing import GUESSES_PER_MINUTE

pytestmark = pytest.mark.slow


def of(count, **fields):
    return json.dumps({"query": "q", "documents": ["d"] * count, **fields})


def test_documents_are_counted_before_they_are_worked_on(secured):
    assert secured.ask(key="frugal", data=of(8)).status_code == 200
    refused = secured.ask(key="frugal", data=of(8))
    assert refused.status_code == 429
    assert refused.json()["code"] == "rate_limited"
    assert refused.json()["limit"] == 10
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert secured.ask(key="frugal", data=of(2)).status_code == 200  # what was refused was not counted
    assert secured.ask(key="search", data=of(2)).status_code == 200  # and is nobody else's


def test_a_request_that_no_minute_has_room_for_is_too_large(secured):
    assert secured.ask(key="frugal", data=of(11)).status_code == 413


def test_requests_are_counted_whatever_they_ask_and_refused_in_the_caller_s_format(secured):
    assert [secured.ask(key="brisk").status_code for _ in range(2)] == [200, 200]
    native = secured.ask(key="brisk", data=json.dumps({"query": "q", "documents": [{"content": "d"}]}))
    assert (native.status_code, native.json()["error"]["code"]) == (429, "rate_limited")
    tei = secured.ask(key="brisk", data=json.dumps({"query": "q", "texts": ["d"]}))
    assert (tei.status_code, tei.json()["error_type"]) == (429, "Overloaded")
    assert secured.ask("GET", "/info", key="brisk").status_code == 429
    assert secured.ask("GET", "/health", key="brisk").status_code == 200
    assert all("Retry-After" in reply.headers for reply in (native, tei))


def test_another_header_is_no_other_address(secured):
    """All come from one address and say they come from many; without a key an address may guess only so often."""
    spoofed = (
        b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: %s\r\n"
        b"X-Forwarded-For: 10.0.%d.%d\r\nX-Real-IP: 10.1.%d.%d\r\nForwarded: for=10.2.%d.%d\r\n"
        b"X_Forwarded_For: 10.3.%d.%d\r\nX-Api-Key: guess-%d-%d\r\n\r\n{}"
    )
    # Twice as many as a minute allows: on a slow machine some more are allowed while they are sent.
    numbers = range(2 * GUESSES_PER_MINUTE)
    requests = [spoofed % (b"keep-alive", *(number // 250, number % 250) * 5) for number in numbers]
    last = spoofed % (b"close", *(251, 251) * 5)
    answer = secured.send(b"".join(requests) + last, source="127.0.0.77")
    assert GUESSES_PER_MINUTE <= answer.count(b"HTTP/1.1 401 ") < len(numbers)
    assert answer.count(b"HTTP/1.1 429 ") >= 1
    assert b"HTTP/1.1 401 " in secured.send(last, source="127.0.0.78")
