import asyncio
import io
import json

import pytest
from app_kit import create_app
from asgi_kit import body_of, receives, run, scope_of
from scheduling_kit import Rig

from webapp.engine.runtimes.stub import StubEngine
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.servers.ray.asgi import answer, environ_of
from webapp.servers.ray.bridge import AsyncioBridge, AsyncioWaiter

JSON = ("Content-Type", "application/json")


@pytest.fixture
def app(service):
    """The API on the stub engine, waited for by asyncio."""
    service.scoring.make_waiter = AsyncioWaiter
    bridge = AsyncioBridge()
    return create_app(service, request_timeout_s=30, max_body_bytes=1000, limits={}, watch=bridge.watch)


def reply_to(app, scope, *parts):
    return run(answer(app, scope, receives(*parts)))


def test_a_request_is_answered_as_under_wsgi(client, app, service):
    body = body_of()
    reply = reply_to(app, scope_of(headers=[JSON, ("X-Request-Id", "mine")]), body)
    service.scoring.make_waiter = GeventWaiter
    theirs = client.post("/rerank", data=body, headers={"X-Request-Id": "mine"})
    assert (reply.status, json.loads(reply.body)["results"]) == (200, theirs.json["results"])
    assert dict(reply.headers)["X-Request-Id"] == "mine"
    assert dict(reply.headers)["Content-Length"] == str(len(reply.body))


def test_requests_that_wait_are_answered_side_by_side(app):
    async def many():
        bodies = [body_of(query=str(number)) for number in range(10)]
        asked = [answer(app, scope_of(), receives(body)) for body in bodies]
        return await asyncio.gather(*asked)

    assert [reply.status for reply in run(many())] == [200] * 10


def test_a_body_comes_in_parts_and_without_a_length(app):
    body = body_of()
    headers = [JSON, ("Transfer-Encoding", "chunked")]
    assert reply_to(app, scope_of(headers=headers), body[:5], body[5:20], b"", body[20:]).status == 200


def test_a_body_that_is_too_large_is_read_no_further_and_refused_in_the_callers_dialect(app):
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b" " * 400, "more_body": True}

    reply = run(answer(app, scope_of(path="/v1/rerank"), receive))
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (413, "payload_too_large")
    assert len(read) == 3


def test_a_caller_that_hangs_up_before_its_body_ends_is_not_served(app):
    async def receive():
        return {"type": "http.disconnect"}

    assert run(answer(app, scope_of(), receive)) is None


def test_a_caller_who_hangs_up_leaves_nothing_in_the_queue(app, service):
    idle = Rig(StubEngine()).scheduler  # its engine threads never start
    submit, queued = idle.submit, asyncio.Event()
    service.scoring._scheduler = idle

    def submitted(*arguments, **options):
        queued.set()
        return submit(*arguments, **options)

    idle.submit = submitted

    async def main():
        task = asyncio.create_task(answer(app, scope_of(), receives(body_of())))
        await queued.wait()
        assert (idle.queued_pairs, service.ongoing) == (3, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert (idle.queued_pairs, service.ongoing) == (0, 0)


def test_the_environment_is_that_of_pep_3333():
    environ = environ_of(
        scope_of(
            path="/v1/modèle",
            query_string=b"a=%2F",
            headers=[
                JSON,
                ("Content-Length", "5"),
                ("X-Api-Key", "k"),
                ("X-Forwarded-For", "a"),
                ("X-Forwarded-For", "b"),
            ],
        ),
        io.BytesIO(b"12345"),
    )
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/v1/modèle"
    assert environ["QUERY_STRING"] == "a=%2F"
    assert environ["CONTENT_TYPE"] == "application/json"
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["HTTP_X_API_KEY"] == "k"
    assert environ["HTTP_X_FORWARDED_FOR"] == "a,b"
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["wsgi.input"].read() == b"12345"


def test_a_header_that_only_looks_like_another_is_dropped():
    environ = environ_of(
        scope_of(headers=[("X_Forwarded_For", "forged"), ("Transfer-Encoding", "chunked")]), io.BytesIO()
    )
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ
