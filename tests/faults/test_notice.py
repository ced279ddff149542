"""A machine leaves by `reranking drain` while its balancer, which asks `/ready` now and then, sends it requests."""

import contextlib
import http.client
import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from load_kit import Threads
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

PROBE_EVERY_S = 0.6
NOTICE_S = "3"
"""As in Kubernetes: ten seconds of notice where a probe comes every two."""

CLIENTS = 8
PAUSE_S = 0.02

ASK = json.dumps({"query": "how do bees find home", "documents": ["by the sun", "milk"]})


class Machine(ThreadingHTTPServer):
    """Another machine, which is ready and answers every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


class Balanced(Threads):
    """Clients behind a balancer that, like a Service of Kubernetes, divides connections, and not requests.

    A connection leads to a machine whose last probe was good, and stays there until a reply closes it. `outcomes`
    counts replies by port, by status or error, and by what becomes of their connection; `ready` has the last probes.
    """

    def __init__(self, *ports):
        probes = [threading.Thread(target=self._probe, args=(port,)) for port in ports]
        super().__init__(*probes, *[threading.Thread(target=self._ask_on) for _ in range(CLIENTS)])
        self.outcomes = Counter()
        self.ready = dict.fromkeys(ports, True)
        self._turns = itertools.count()

    def _probe(self, port):
        while not self.stop.is_set():
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
                try:
                    connection.request("GET", "/ready")
                    self.ready[port] = connection.getresponse().status == 200
                except OSError:
                    self.ready[port] = False
            self.stop.wait(PROBE_EVERY_S)

    def _ask_on(self):
        while not self.stop.is_set():
            ready = [port for port, is_ready in self.ready.items() if is_ready]
            port = ready[next(self._turns) % len(ready)]
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
                kept = True
                while kept and not self.stop.wait(PAUSE_S):
                    try:
                        connection.request("POST", "/rerank", ASK, {"Content-Type": "application/json"})
                        reply = connection.getresponse()
                        reply.read()
                        kept, said = not reply.will_close, reply.status
                    except (OSError, http.client.HTTPException) as error:
                        kept, said = False, type(error).__name__
                    self.outcomes[port, said, "kept" if kept else "closed"] += 1


def test_a_machine_that_gives_notice_refuses_no_request_and_its_callers_move_to_another(tmp_path):
    with Machine() as other, Stack(tmp_path, engine="stub") as stack:
        with Balanced(stack.port, other.server_port) as callers:
            wait_for(lambda: callers.outcomes[stack.port, 200, "kept"] > CLIENTS, "it serves")
            drain = [sys.executable, "-m", "webapp", "drain", "--notice-s", NOTICE_S]
            assert subprocess.run(drain, env=stack._environment, check=False).returncode == 0
            assert not callers.ready[stack.port]
        assert stack.process.wait(PATIENCE_S) == 0
    assert {said for _, said, _ in callers.outcomes} == {200}, callers.outcomes
    assert callers.outcomes[stack.port, 200, "closed"]
