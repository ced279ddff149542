"""Two complete stacks on two hosts behind one balancer: a host is cut off, and one dies, under load.

Prints its figures: pytest tests/scaling/test_two_hosts.py -s
"""

import itertools
import math
import statistics
import threading
import time
from collections import Counter

import network
import pytest
import requests
from load_kit import DOCUMENTS, ClosedLoop, Threads
from reranking_client import CallFailedError, RefusedError, RerankClient
from running import PATIENCE_S, Stack, wait_for

from webapp.engine.runtimes.stub import stub_logit

REASON = network.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

CALLERS = 6
"""Number of callers of each kind."""


class Host(Stack):
    """A stack that listens on its host's address."""

    def __init__(self, net, host, folder):
        super().__init__(
            folder,
            engine="stub",
            cache_mb="0",
            host="0.0.0.0",  # noqa: S104 - of its own network
            log_level="info",
            request_timeout_s="30",
            balancers=net.address("front"),
        )
        self.prefix = net.inside(host)
        self.url = f"http://{net.address(host)}:{self.port}"

    def answered(self):
        return sum(line.get("path") == "/rerank" for line in self.log_lines("webapp"))


def is_right(documents, scores):
    """Whether these are the stub engine's."""
    expected = [1 / (1 + math.exp(-stub_logit(text))) for text in documents]
    return all(math.isclose(one, other, abs_tol=1e-3) for one, other in zip(scores, expected, strict=True))


class Asking:
    """Remembers when each request began, how long it took, and whether its answer was right."""

    def __init__(self):
        self.took = []
        self.wrong = 0
        self.open = {}
        """Thread -> when it began the request that has no answer yet."""

    def took_between(self, began, ended):
        """Return the durations of requests whose answer came between these times."""
        return [seconds for at, seconds in self.took if began <= at + seconds < ended]

    def oldest_open(self):
        """When the oldest request began that has no answer yet."""
        return min(self.open.values(), default=math.inf)


class Raw(Asking):
    """Asks as a program does that knows nothing of retries; for `ClosedLoop`."""

    def __init__(self, net, url):
        super().__init__()
        self._net = net
        self._url = url

    def rerank(self, documents):
        self._net.enter("front")
        began = self.open[threading.get_ident()] = time.monotonic()
        body = {"query": "q", "documents": [{"content": text} for text in documents], "top_k": 0}
        try:
            reply = requests.post(f"{self._url}/rerank", json=body, timeout=PATIENCE_S)
        finally:
            self.took.append((began, time.monotonic() - began))
            self.open.pop(threading.get_ident())
        if reply.status_code == 200:
            by_place = sorted(reply.json()["results"], key=lambda each: each["index"])
            self.wrong += not is_right(documents, [each["score"] for each in by_place])
        return reply


class Ours(Threads, Asking):
    """Asks by our client; `outcomes` counts answers, refusals, and errors by their class. Inside `with`."""

    def __init__(self, net, url):
        Threads.__init__(self, *[threading.Thread(target=self._run, args=(number,)) for number in range(CALLERS)])
        Asking.__init__(self)
        self.outcomes = Counter()
        self._net = net
        self._url = url

    def _run(self, number):
        self._net.enter("front")
        count = 0
        with RerankClient(self._url, timeout_s=60) as client:
            while not self.stop.is_set():
                count += 1
                documents = [f"caller {number} asks the {count}th time {n}" for n in range(DOCUMENTS)]
                began = self.open[number] = time.monotonic()
                try:
                    self.wrong += not is_right(documents, client.score("q", documents))
                    self.outcomes["good"] += 1
                except RefusedError:
                    self.outcomes["refused"] += 1
                except CallFailedError as error:
                    self.outcomes[type(error).__name__] += 1
                self.took.append((began, time.monotonic() - began))
                self.open.pop(number)


def test_a_host_that_is_cut_off_and_one_that_dies_lose_no_request(tmp_path, make_balancer):
    with network.Network("one", "two") as net:
        one, two = (Host(net, host, tmp_path / host) for host in ("one", "two"))
        balancer = make_balancer([one, two], host=net.address("front"), request_timeout_s="30")
        balancer.prefix = net.inside("front")
        try:
            for stack in (one, two, balancer):
                stack.start()
            run_trial(net, one, two, f"http://{net.address('front')}:{balancer.port}")
        finally:
            for stack in (balancer, one, two):
                if hasattr(stack, "process"):
                    stack.stop()


def run_trial(net, one, two, url):
    raw, ours = Raw(net, url), Ours(net, url)
    turns = []
    with ClosedLoop(raw, CALLERS) as clients, ours:

        def turn(name, act=lambda: None, seen=lambda: True):
            """Do it, and go on until it is seen, all that was asked before has an answer, and there are many more."""
            turns.append((name, time.monotonic()))
            act()
            wait_for(seen, f"{name} is seen")
            since = time.monotonic()
            wait_for(lambda: min(raw.oldest_open(), ours.oldest_open()) >= since, "an end of what was under way")
            clients.more(each=20)

        def gains(stack):
            before = stack.answered()
            return lambda: stack.answered() > before + 20

        turn("both hosts", seen=gains(one))
        turn("one cut off", lambda: net.cut("one"))
        turn("its cable back in", lambda: net.mend("one"), gains(one))
        turn("the other killed", two.kill)
        turn("started again", two.start, gains(two))
        turns.append(("", math.inf))
    report(turns, raw, ours, clients.outcomes)
    assert raw.wrong == ours.wrong == 0
    assert set(ours.outcomes) == set(clients.outcomes) == {"good"}


def report(turns, raw, ours, outcomes):
    print(f"\nwithout our client: {dict(outcomes)}; with it: {dict(ours.outcomes)}; wrong: {raw.wrong + ours.wrong}\n")
    print("| | requests | p50 ms | p99 ms | longest s | above 1 s |\n|---|---|---|---|---|---|")
    for (name, began), (_, ended) in itertools.pairwise(turns):
        took = sorted(raw.took_between(began, ended) + ours.took_between(began, ended))
        print(
            f"| {name} | {len(took)} | {1000 * statistics.median(took):.0f} | {1000 * took[int(0.99 * len(took))]:.0f}"
            f" | {took[-1]:.1f} | {sum(seconds > 1 for seconds in took)} |"
        )
