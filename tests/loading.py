"""Clients that rerank without pause, and what they got."""

import itertools
import random
import threading
from collections import Counter

import requests
from running import wait_for

DOCUMENTS = 4


class Clients:
    """So many of them, each with requests of its own; inside `with`.

    `outcomes` counts "good" answers, those "refused" as we promise (503, Retry-After, JSON), "no connection", and any
    other status by its number.
    """

    def __init__(self, stack, count):
        self.outcomes = Counter()
        self._stack = stack
        self._count = count
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def _run(self, number):
        count = 0
        while not self._stop.is_set():
            count += 1
            try:
                reply = self._stack.rerank([f"client {number} asks the {count}th time {n}" for n in range(DOCUMENTS)])
                self.outcomes[outcome(reply)] += 1
            except requests.ConnectionError:
                self.outcomes["no connection"] += 1

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, each=2):
        """Wait for that many more good answers, a client."""
        target = self.outcomes["good"] + each * self._count
        wait_for(lambda: self.outcomes["good"] >= target, f"good answers, have {self.outcomes}")


def outcome(reply):
    """What `Clients` counts it as."""
    if reply.status_code == 200:
        return "good" if len(reply.json()["results"]) == DOCUMENTS else "wrong"
    if reply.status_code == 503 and "Retry-After" in reply.headers and reply.json()["request_id"]:
        return "refused"
    return reply.status_code


_numbers = itertools.count()


def fresh_documents(count, words=60):
    """Texts that no cache knows."""
    pool = "bees find home by the sun and milk keeps".split()
    rng = random.Random(next(_numbers))
    return [" ".join(rng.choices(pool, k=words)) + f" {next(_numbers)}" for _ in range(count)]
