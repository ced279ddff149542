"""Both kinds of client under one hand, a clock that passes when somebody sleeps, a transport with a script."""

import asyncio
import inspect
import json

import httpx
from reranking_client import RerankClient
from services.faulty_server import reply_to


class Clock:
    """Passes only when somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)


class Both:
    """Makes clients of one kind, and calls them as if they were blocking."""

    def __init__(self, kind):
        self.kind = kind
        self.clock = Clock()
        self._made = []
        self._runner = asyncio.Runner()

    def make(self, url="http://service", **how):
        sleep = self.clock.sleep if self.kind is RerankClient else self.clock.sleep_async
        client = self.kind(url, clock=self.clock, sleep=sleep, **how)
        self._made.append(client)
        return client

    def call(self, method, *arguments, **how):
        got = method(*arguments, **how)
        if inspect.iscoroutine(got):
            return self._runner.run(got)
        return self._runner.run(_all_of(got)) if inspect.isasyncgen(got) else got

    def close(self):
        for client in self._made:
            self.call(client.close if self.kind is RerankClient else client.aclose)
        self._runner.close()


async def _all_of(states):
    return [each async for each in states]


def scripted(*outcomes):
    """A transport with one outcome a request, and what it was asked."""
    script, seen = iter(outcomes), []

    def handle(request):
        seen.append(request)
        outcome = next(script, None)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            return httpx.Response(200, json=reply_to(json.loads(request.content)))
        return httpx.Response(outcome) if isinstance(outcome, int) else httpx.Response(**outcome)

    return httpx.MockTransport(handle), seen
