"""Clients of every dialect ask all the time, and meet no failure while releases come and go.

DEPLOYS=20 python -m pytest -s tests/releases/test_under_load.py gives the figures of docs/reliability.md.
"""

import itertools
import json
import os
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import psutil
import pytest
from load_kit import OpenLoop
from running import wait_for

pytestmark = pytest.mark.slow

DEPLOYS = int(os.environ.get("DEPLOYS", "2"))
CALM_S = 3.0


class Memory:
    """What the stack's processes take together, sampled: a page that several share counts once."""

    def __init__(self, stack):
        self.most_mb = 0
        self._stack = psutil.Process(stack.process.pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now_mb(self):
        taken = 0
        for process in [self._stack, *self._stack.children(recursive=True)]:
            with suppress(psutil.Error, OSError):  # it has ended meanwhile
                taken += process.memory_full_info().pss
        return taken // 1024**2

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _watch(self):
        while not self._end.wait(0.2):
            self.most_mb = max(self.most_mb, self.now_mb())


def test_deploys_and_a_rollback_cost_no_request(model_stack, bert_settings, other_model):
    stack, load = model_stack, OpenLoop(model_stack.port)
    models = {"bert": bert_settings.model, "xlm": other_model}
    load.learn("bert")
    code, said = stack.reranking("deploy", "--model", models["xlm"], "--watch", "0.5")
    assert code == 0, said
    load.learn("xlm")
    memory = Memory(stack)
    with load, memory:
        wait_for(lambda: len(load.took_s) > CALM_S * 20, "a calm while to compare with")
        calm, calm_mb, since = load.quantiles(), memory.now_mb(), len(load.took_s)
        for number in range(DEPLOYS):
            # Every other one changes the model, the others only say the same again.
            other = ["--model", models["bert" if number % 4 == 0 else "xlm"]] if number % 2 == 0 else []
            code, said = stack.reranking("deploy", "--again", *other, "--watch", "1")
            assert code == 0, said
        busy = load.quantiles(since)
        began = time.monotonic()
        code, said = stack.reranking("rollback")
        assert code == 0, said
        took_s = float(re.search(r"after ([\d.]+) s", said)[1])
    print(  # noqa: T201 - the figures for docs/reliability.md
        f"{DEPLOYS} deploys, {sum(load.outcomes.values())} requests {dict(load.outcomes)}, {dict(load.by_model)},"
        f" p50/p99 calm {calm[0]:.0f}/{calm[1]:.0f} ms, deploying {busy[0]:.0f}/{busy[1]:.0f} ms,"
        f" rollback {took_s:.1f} s (with its drain {time.monotonic() - began:.1f} s),"
        f" memory of the whole stack {calm_mb} MB before, {memory.most_mb} MB at most"
    )
    assert set(load.outcomes) == {200}, load.outcomes
    assert set(load.by_model) == {"bert", "xlm"}, load.by_model
    assert set(load.colors) == {"blue", "green"}
    assert stack.reranking("deploy", "--history")[1].count("  served ") == DEPLOYS + 1


HEAD = "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RESET = struct.pack("ii", 1, 0)


@contextmanager
def hang_ups_and_bodies_that_are_too_large(stack):
    """Clients of which none waits for a reply by a color; yields how many of each there were so far."""
    body = json.dumps({"query": "how do bees find home", "documents": ["milk"] * 200}).encode()
    kinds = {
        "leaves while it is scored": (HEAD % len(body)).encode() + body,
        "leaves within its body": (HEAD % len(body)).encode() + body[:100],
        "too large": (HEAD % 2**40).encode(),
    }
    counts, end = dict.fromkeys(kinds, 0), threading.Event()

    def ask():
        for kind, request in itertools.cycle(kinds.items()):
            if end.wait(0.02):
                return
            with stack.raw() as client:
                client.sendall(request)
                if kind == "too large":
                    assert client.recv(4096).startswith(b"HTTP/1.1 413")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            counts[kind] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield counts
    finally:
        end.set()
        asking.join()


def test_clients_that_hang_up_and_bodies_that_are_too_large_veto_no_deploy(model_stack):
    stack = model_stack
    before = stack.colors()["active"]
    # A few requests a second: too few to judge latency by, which a busy machine would decide.
    with OpenLoop(stack.port, rate=4) as load, hang_ups_and_bodies_that_are_too_large(stack) as others:
        code, said = stack.reranking("deploy", "--again", "--canary", "40", "--for", "3", "--watch", "3")
    assert code == 0, said
    assert stack.colors()["active"] != before
    assert set(load.outcomes) == {200}, load.outcomes
    assert sum(others.values()) > sum(load.outcomes.values()), "most clients were none that wait"
    assert min(others.values()) > 0
