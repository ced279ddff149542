"""What every reply says to browsers, nginx' own refusals among them; and which pages may call."""

import pytest
from securing import ORIGIN

pytestmark = pytest.mark.slow

REPLIES = {
    "an answer": ("POST", "/rerank", 200),
    "no key": ("POST", "/rerank", 401),
    "no path": ("GET", "/nowhere", 401),
    "a page": ("GET", "/docs", 200),
    "a script": ("GET", "/docs/start.js", 200),
    "the dashboard": ("GET", "/dashboard/", 200),
    "the pusher's refusal": ("GET", "/progress/x", 401),
    "nginx: path too long": ("GET", "/" + "a" * 9000, 414),
    "nginx: no such method": ("TRACE", "/rerank", 405),
    "nginx: too large": ("POST", "/rerank", 413),
}


@pytest.mark.parametrize("case", REPLIES)
def test_every_reply_carries_the_security_headers_once(secured, case):
    method, path, status = REPLIES[case]
    options = {"data": iter([b"x" * 33 * 1024**2])} if status == 413 else {}
    reply = secured.ask(method, path, key="search" if status == 200 else None, **options)
    assert reply.status_code == status
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Content-Security-Policy"].count("default-src 'none'") == 1
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["Server"] == "nginx"  # and no version


def preflight(secured, origin, path="/rerank"):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return secured.ask("OPTIONS", path, headers=asked)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/progress/x"])
@pytest.mark.parametrize("origin", [ORIGIN, "https://other.example:8443"])
def test_a_listed_origin_may_call(secured, origin, path):
    asked = preflight(secured, origin, path)
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == origin
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert asked.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "Access-Control-Allow-Credentials" not in asked.headers


@pytest.mark.parametrize("key", ["search", None], ids=["reply", "refusal"])
@pytest.mark.parametrize("origin", [ORIGIN, "https://other.example:8443"])
def test_a_listed_origin_may_read_replies_and_refusals(secured, origin, key):
    reply = secured.ask(headers={"Origin": origin}, key=key)
    assert reply.headers["Access-Control-Allow-Origin"] == origin
    assert reply.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "http://app.example",
        "https://app.example:8443",
        "https://other.example",
        "null",
        "*",
        "https://appxexample",
        "",
    ],
)
def test_no_other_origin_may(secured, origin):
    assert preflight(secured, origin).status_code == 401
    reply = secured.ask(headers={"Origin": origin}, key="search")
    assert "Access-Control-Allow-Origin" not in reply.headers


def test_a_preflight_opens_nothing(secured):
    """It is answered without a key, and by nginx: nothing behind hears of it."""
    before = len(secured.stack.log_lines("webapp"))
    assert preflight(secured, ORIGIN, "/info").content == b""
    assert len(secured.stack.log_lines("webapp")) == before
    assert secured.ask("GET", "/info", headers={"Origin": ORIGIN}).status_code == 401
