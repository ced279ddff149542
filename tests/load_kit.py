"""Load on a stack: clients in a closed loop, and an open loop at a constant rate that judges each reply."""

from __future__ import annotations

import http.client
import itertools
import json
import queue
import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass

import requests
from running import PATIENCE_S, wait_for

from webapp.api.dialects.registry import DIALECTS
from webapp.stack.releases.checks import usual_path

DOCUMENTS = 4
"""In each request of `ClosedLoop`."""

PAUSE_S = 0.02
"""Between two requests of a client in a closed loop, which would else take the machine from the tests beside it."""

LARGE = 500
LARGE_EVERY = 25
OPEN_LOOP_THREADS = 24
SCORES = {"score", "relevance_score", "logit"}


class Threads:
    """Threads that run inside `with`, until `stop` is set."""

    def __init__(self, *threads):
        self.stop = threading.Event()
        self._threads = threads

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self._threads:
            thread.join()


class ClosedLoop(Threads):
    """Clients that each send one rerank request of their own after the other.

    `outcomes` counts "good" answers, those "refused" as we promise (503, Retry-After, JSON), "no connection", and any
    other status by its number.
    """

    def __init__(self, stack, count):
        super().__init__(*[threading.Thread(target=self._run, args=(number,)) for number in range(count)])
        self.outcomes = Counter()
        self._stack = stack
        self._count = count

    def _run(self, number):
        count = 0
        while not self.stop.is_set():
            count += 1
            try:
                reply = self._stack.rerank([f"client {number} asks the {count}th time {n}" for n in range(DOCUMENTS)])
                self.outcomes[outcome(reply)] += 1
            except requests.ConnectionError:
                self.outcomes["no connection"] += 1
            self.stop.wait(PAUSE_S)

    def __enter__(self):
        super().__enter__()
        self.more()
        return self

    def more(self, each=2):
        """Wait for that many more good answers, a client."""
        target = self.outcomes["good"] + each * self._count
        wait_for(lambda: self.outcomes["good"] >= target, f"good answers, have {self.outcomes}")


def outcome(reply):
    """Return what `ClosedLoop` counts a reply as."""
    if reply.status_code == 200:
        return "good" if len(reply.json()["results"]) == DOCUMENTS else "wrong"
    if reply.status_code == 503 and "Retry-After" in reply.headers and reply.json()["request_id"]:
        return "refused"
    return reply.status_code


_numbers = itertools.count()


def fresh_documents(count, words=60):
    """Return texts that no cache holds."""
    pool = "bees find home by the sun and milk keeps".split()
    rng = random.Random(next(_numbers))
    return [" ".join(rng.choices(pool, k=words)) + f" {next(_numbers)}" for _ in range(count)]


@dataclass(frozen=True)
class Ask:
    """One request."""

    name: str
    path: str
    body: bytes
    headers: dict


def asks():
    """Return a request in each dialect, and a large one."""
    small = [
        Ask(each.name, usual_path(each), json.dumps(each.example).encode(), dict(each.headers)) for each in DIALECTS
    ]
    texts = [{"content": f"sentence {number} tells of bees that find home"} for number in range(LARGE)]
    body = json.dumps({"query": "how do bees find home", "documents": texts, "top_k": 0}).encode()
    return small, Ask("500 documents", "/rerank", body, {})


def scores_in(reply):
    """Return every score in a reply, in its order."""
    if isinstance(reply, list):
        return [score for entry in reply for score in scores_in(entry)]
    if isinstance(reply, dict):
        found = [float(value) for name, value in reply.items() if name in SCORES and isinstance(value, int | float)]
        return found + [score for value in reply.values() for score in scores_in(value)]
    return []


def post(port, ask, connection=None):
    fresh = connection is None
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", ask.path, ask.body, ask.headers)
        reply = connection.getresponse()
        return reply.status, reply.getheader("X-Deployment-Color", ""), reply.read()
    finally:
        if fresh:
            connection.close()


class OpenLoop(Threads):
    """A request in any dialect each `1 / rate` seconds, whether the last one was answered or not."""

    def __init__(self, port, *, rate=20.0, only=None):
        """Ask in the dialects of these names, by default in all."""
        clients = [threading.Thread(target=self._client, args=(number,)) for number in range(OPEN_LOOP_THREADS)]
        super().__init__(*clients, threading.Thread(target=self._clock))
        self.outcomes = Counter()
        self.by_model = Counter()
        self.colors = Counter()
        self.took_s = []
        self.late = 0
        self.known = {}
        """Model's name -> ask's name -> scores; each answer must be that of one model."""
        self._port = port
        self._rate = rate
        self._due = queue.SimpleQueue()
        small, self._large = asks()
        self._small = [ask for ask in small if only is None or ask.name in only]

    def learn(self, model):
        """Record the answers of the model that serves now."""
        self.known[model] = {}
        for ask in (*self._small, self._large):
            status, _, body = post(self._port, ask)
            assert status == 200, (ask.name, status, body[:300])
            self.known[model][ask.name] = scores_in(json.loads(body))

    def _clock(self):
        began, turn = time.monotonic(), random.Random(1)
        for count in itertools.count():
            if self.stop.wait(max(0.0, began + count / self._rate - time.monotonic())):
                break
            self._due.put((time.monotonic(), self._large if count % LARGE_EVERY == 0 else turn.choice(self._small)))
        for _ in range(OPEN_LOOP_THREADS):
            self._due.put(None)

    def _client(self, number):
        kept = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S) if number % 2 else None
        while due := self._due.get():
            at, ask = due
            try:
                status, color, body = post(self._port, ask, kept)
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[f"{type(error).__name__} {ask.name}"] += 1
                if kept:
                    kept.close()
                continue
            self.took_s.append(time.monotonic() - at)
            self.outcomes[status] += 1
            self.colors[color] += 1
            if status == 200 and self.known:
                self.by_model[self._model_of(ask, scores_in(json.loads(body)))] += 1
        if kept:
            kept.close()

    def _model_of(self, ask, scores):
        for model, known in self.known.items():
            same = len(scores) == len(known[ask.name])
            if same and all(abs(one - other) < 1e-3 for one, other in zip(scores, known[ask.name], strict=True)):
                return model
        return f"no model's: {ask.name}"

    def quantiles(self, since=0):
        """Return median and 99th percentile in ms of the latencies since that index."""
        took = self.took_s[since:]
        return 1000 * statistics.median(took), 1000 * statistics.quantiles(took, n=100)[98]
