"""kill -9 of a worker with a large reply on its way; `scripts/nemesis --only kills` has kills under load."""

import json
import os
import signal

import pytest
from running import wait_for

pytestmark = pytest.mark.slow


LARGE = json.dumps(
    {"query": "q", "documents": ["bees find home by the sun " * 200] * 1500, "return_documents": True}
).encode()
"""Its reply is 15 MB, so a worker that sent it would be at that for a while."""


def test_a_worker_killed_while_its_large_reply_is_on_the_way_cuts_nothing(stack_with):
    with stack_with(cache_mb="0") as stack:
        (worker,) = wait_for(stack.workers, "a worker")
        with stack.raw() as client:
            client.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(LARGE), LARGE))
            reply = client.recv(1)
            os.kill(worker, signal.SIGKILL)
            reply += b"".join(iter(lambda: client.recv(1 << 20), b""))
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(json.loads(body)["results"]) == 1500
        wait_for(lambda: stack.workers() not in ([], [worker]), "another worker")
        wait_for(lambda: not list((stack.state_dir / "run" / "replies").iterdir()), "nothing of it is on disk")
