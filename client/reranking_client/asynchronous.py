"""The client for asyncio. The same as `blocking`, call for call; what they decide is in the modules that both share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import httpx

from reranking_client.blocking import OnProgress
from reranking_client.events import EventReader
from reranking_client.failures import RefusedError
from reranking_client.parts import Answer, Document, Part, Question, merge, plan, read
from reranking_client.results import Progress, Ranking
from reranking_client.retrying import OK, Budget, CallState, NoReply, Outcome, Reply, Retries
from reranking_client.terms import (
    SILENCE_S,
    ClientConfig,
    Trust,
    headers_of,
    names_of,
    no_reply,
    request_id_of,
    timeout_of,
)


class AsyncRerankClient:
    """Asks one service, over connections that it keeps. Of one event loop."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout_s: float = 300.0,
        retries: Retries | None = None,
        budget: Budget | None = None,
        split_documents: int = 1000,
        concurrency: int = 4,
        trust: Trust = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As `RerankClient`."""
        self._terms = ClientConfig(
            url, key, timeout_s, retries or Retries(), budget or Budget(), split_documents, concurrency
        )
        self._http = httpx.AsyncClient(**self._terms.settings(trust), transport=transport)  # type: ignore[arg-type]
        self._clock = clock
        self._sleep = sleep

    async def rerank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        raw_scores: bool = False,
        options: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Ranking:
        """Order documents by their relevance to a query; see `RerankClient.rerank`."""
        question = Question(query, documents, top_n, raw_scores, options or {})
        (answer,) = await self._ask([question], timeout_s, request_id, on_progress)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    async def score(self, query: str, documents: Sequence[Document], **how: Any) -> list[float]:
        """Scores in the order of the documents; see `RerankClient.score`."""
        ranking = await self.rerank(query, documents, **how)
        return [each.score for each in sorted(ranking.results, key=lambda result: result.index)]

    async def rerank_batch(
        self,
        questions: Sequence[Question],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Ranking | RefusedError]:
        """Answer several questions, in their order; see `RerankClient.rerank_batch`."""
        return await self._ask(questions, timeout_s, request_id, on_progress)

    async def follow(self, request_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Progress]:
        """How far a request is, until it ended; see `RerankClient.follow`."""
        began = self._clock()
        deadline = self._terms.deadline(timeout_s, began)
        effort = self._terms.effort(request_id_of(request_id), began=began, deadline=deadline)
        while True:
            timeout = timeout_of(min(SILENCE_S, effort.left_s(self._clock())))
            outcome: Outcome = NoReply("the stream ended before the request")
            url = f"{self._terms.base}/progress/{request_id}"
            try:
                async with self._http.stream("GET", url, timeout=timeout) as stream:
                    if stream.status_code != OK:
                        outcome = Reply(stream.status_code, stream.headers, await stream.aread())
                    else:
                        async for state in self._states(stream, effort):
                            yield state
                            if state.ended:
                                return
            except httpx.HTTPError as error:
                outcome = no_reply(error)
            await self._sleep(effort.after(outcome, self._clock()) or 0.0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(
        self, questions: Sequence[Question], timeout_s: float | None, request_id: str | None, tell: OnProgress | None
    ) -> list[Answer]:
        parts = plan(questions, self._terms.split_documents)
        name = request_id_of(request_id)
        names, deadline = names_of(name, len(parts)), self._terms.deadline(timeout_s, self._clock())
        answers: list[list[Answer]] = [[] for _ in parts]
        total, done = sum(part.documents for part in parts), 0
        waiting = iter(range(len(parts)))

        async def work() -> None:
            nonlocal done
            for number in waiting:
                answers[number] = await self._answers(parts[number], names[number], deadline)
                done += parts[number].documents
                if tell is not None:
                    tell(done, total)

        workers = [asyncio.create_task(work()) for _ in range(min(self._terms.concurrency, len(parts)))]
        try:
            await asyncio.gather(*workers)
        finally:
            # Where one failed, or our caller was cancelled, the others stop; the service notices that we hung up.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return merge(parts, answers, name)

    async def _answers(self, part: Part, name: str, deadline: float) -> list[Answer]:
        effort = self._terms.effort(name, began=self._clock(), deadline=deadline)
        body = part.body()
        while True:
            outcome = await self._try(part.path, body, effort)
            wait_s = effort.after(outcome, self._clock())
            if wait_s is None and isinstance(outcome, Reply):
                return read(part, outcome.body, name)
            await self._sleep(wait_s or 0.0)

    async def _try(self, path: str, body: bytes, effort: CallState) -> Outcome:
        left_s = effort.left_s(self._clock())
        headers = headers_of(effort.request_id, left_s)
        try:
            async with asyncio.timeout(left_s):  # httpx' timeouts begin anew with each piece
                reply = await self._http.post(
                    self._terms.base + path, content=body, headers=headers, timeout=timeout_of(left_s)
                )
            return Reply(reply.status_code, reply.headers, reply.content)
        except TimeoutError:
            return NoReply("no answer in time")
        except httpx.HTTPError as error:
            return no_reply(error)

    async def _states(self, stream: httpx.Response, effort: CallState) -> AsyncIterator[Progress]:
        reader = EventReader()
        async for line in stream.aiter_lines():
            effort.left_s(self._clock())
            state = reader.feed(line)
            if state is not None:
                effort.heard()
                yield state
