"""Callers that hang up, against the whole stack."""

import json

import pytest
import requests
from running import PATIENCE_S, wait_for

TEXT = "bees find home by the sun and by the polarised light " * 8
DOCUMENTS = [f"document {number} {TEXT}" for number in range(5000)]


def ongoing(stack):
    return requests.get(f"{stack.url}/load", timeout=PATIENCE_S).json()["server_load"]


def post(stack, documents):
    """A request on a bare connection, sent and not read."""
    body = json.dumps({"query": "q", "documents": documents}).encode()
    connection = stack.raw()
    head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.slow
def test_a_client_that_hangs_up_is_not_worked_for(stack_with):
    with stack_with(engine_threads="1") as stack:
        connections = [post(stack, [f"{number} {text}" for text in DOCUMENTS]) for number in range(3)]
        wait_for(lambda: ongoing(stack) == 3, "the requests are at work")
        for connection in connections:
            connection.close()
        wait_for(lambda: ongoing(stack) == 0, "nobody is worked for")
        assert stack.rerank().status_code == 200, "and the next does not wait"
        assert len(stack.logged("webapp", lambda line: line.get("status") == 499, count=3)) == 3
