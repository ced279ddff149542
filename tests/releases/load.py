"""Clients that ask in every dialect at a constant rate, whatever happens, and judge each reply."""

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

from running import PATIENCE_S

from webapp.api.dialects.registry import DIALECTS
from webapp.stack.releases.checks import TOLD_BY_HEADERS, usual_path

LARGE = 500
LARGE_EVERY = 25
CLIENTS = 24
SCORES = {"score", "relevance_score", "logit"}


@dataclass(frozen=True)
class Ask:
    """One request."""

    name: str
    path: str
    body: bytes
    headers: dict


def asks():
    """One in each dialect, and a large one."""
    small = [
        Ask(each.name, usual_path(each), json.dumps(each.example).encode(), TOLD_BY_HEADERS.get(each.name, {}))
        for each in DIALECTS
    ]
    texts = [{"content": f"sentence {number} tells of bees that find home"} for number in range(LARGE)]
    body = json.dumps({"query": "how do bees find home", "documents": texts, "top_k": 0}).encode()
    return small, Ask("500 documents", "/rerank", body, {})


def scores_in(reply):
    """Every score in a reply, in its order."""
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


class Load:
    """Open loop: a request each `1 / rate` seconds, be the last one answered or not."""

    def __init__(self, port, *, rate=20.0):
        self.outcomes = Counter()
        self.by_model = Counter()
        self.colors = Counter()
        self.took_s = []
        self.late = 0
        self.known = {}
        """Model's name -> ask's name -> scores; whoever answers must be one of them."""
        self._port = port
        self._rate = rate
        self._due = queue.SimpleQueue()
        self._stop = threading.Event()
        self._small, self._large = asks()

    def learn(self, model):
        """Remember what the model that serves now answers."""
        self.known[model] = {}
        for ask in (*self._small, self._large):
            status, _, body = post(self._port, ask)
            assert status == 200, (ask.name, status, body[:300])
            self.known[model][ask.name] = scores_in(json.loads(body))

    def __enter__(self):
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._clock))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _clock(self):
        began, turn = time.monotonic(), random.Random(1)
        for count in itertools.count():
            if self._stop.wait(max(0.0, began + count / self._rate - time.monotonic())):
                break
            self._due.put((time.monotonic(), self._large if count % LARGE_EVERY == 0 else turn.choice(self._small)))
        for _ in range(CLIENTS):
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
        return f"no one's: {ask.name}"

    def quantiles(self, since=0):
        """Median and 99th percentile in ms, of what was answered since."""
        took = self.took_s[since:]
        return 1000 * statistics.median(took), 1000 * statistics.quantiles(took, n=100)[98]
