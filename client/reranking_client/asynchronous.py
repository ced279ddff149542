"""The client for asyncio. It has the same calls as `blocking`; both use the same modules for their decisions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import httpx

from reranking_client.blocking import OnProgress
from reranking_client.config import (
    STREAM_SILENCE_S,
    ClientConfig,
    Trust,
    checked_request_id,
    httpx_timeout,
    no_reply,
    part_ids,
    request_headers,
)
from reranking_client.events import EventReader
from reranking_client.failures import RefusedError
from reranking_client.parts import Answer, Document, Part, Question, merge, plan, read
from reranking_client.results import Progress, Ranking
from reranking_client.retrying import OK, Budget, CallState, NoReply, Outcome, Reply, Retries


class AsyncRerankClient:
    """Client of one service. It keeps its connections, and belongs to one event loop."""

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
        """Create a client; see `RerankClient` for the arguments. It connects at its first call."""
        self._config = ClientConfig(
            url, key, timeout_s, retries or Retries(), budget or Budget(), split_documents, concurrency
        )
        self._http = httpx.AsyncClient(**self._config.httpx_options(trust), transport=transport)  # type: ignore[arg-type]
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
        """Return the scores in the order of the documents; see `RerankClient.score`."""
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
        """Rank several questions; see `RerankClient.rerank_batch`."""
        return await self._ask(questions, timeout_s, request_id, on_progress)

    async def follow(self, request_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Progress]:
        """Yield the progress of a request until its end; see `RerankClient.follow`."""
        began = self._clock()
        deadline = self._config.deadline(timeout_s, began)
        state = self._config.call_state(checked_request_id(request_id), began=began, deadline=deadline)
        while True:
            timeout = httpx_timeout(min(STREAM_SILENCE_S, state.left_s(self._clock())))
            outcome: Outcome = NoReply("the stream ended before the request")
            url = f"{self._config.base}/progress/{request_id}"
            try:
                async with self._http.stream("GET", url, timeout=timeout) as stream:
                    if stream.status_code != OK:
                        outcome = Reply(stream.status_code, stream.headers, await stream.aread())
                    else:
                        async for progress in self._progress(stream, state):
                            yield progress
                            if progress.ended:
                                return
            except httpx.HTTPError as error:
                outcome = no_reply(error)
            await self._sleep(state.after(outcome, self._clock()) or 0.0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(
        self,
        questions: Sequence[Question],
        timeout_s: float | None,
        request_id: str | None,
        on_progress: OnProgress | None,
    ) -> list[Answer]:
        parts = plan(questions, self._config.split_documents)
        call_id = checked_request_id(request_id)
        ids, deadline = part_ids(call_id, len(parts)), self._config.deadline(timeout_s, self._clock())
        answers: list[list[Answer]] = [[] for _ in parts]
        total, done = sum(part.documents for part in parts), 0
        waiting = iter(range(len(parts)))

        async def work() -> None:
            nonlocal done
            for number in waiting:
                answers[number] = await self._answers(parts[number], ids[number], deadline)
                done += parts[number].documents
                if on_progress is not None:
                    on_progress(done, total)

        workers = [asyncio.create_task(work()) for _ in range(min(self._config.concurrency, len(parts)))]
        try:
            await asyncio.gather(*workers)
        finally:
            # If one failed, or the caller was cancelled, the others stop. The service notices the closed connections.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return merge(parts, answers, call_id)

    async def _answers(self, part: Part, part_id: str, deadline: float) -> list[Answer]:
        state = self._config.call_state(part_id, began=self._clock(), deadline=deadline)
        body = part.body()
        while True:
            outcome = await self._try(part.path, body, state)
            wait_s = state.after(outcome, self._clock())
            if wait_s is None and isinstance(outcome, Reply):
                return read(part, outcome.body, part_id)
            await self._sleep(wait_s or 0.0)

    async def _try(self, path: str, body: bytes, state: CallState) -> Outcome:
        left_s = state.left_s(self._clock())
        headers = request_headers(state.request_id, left_s)
        try:
            async with asyncio.timeout(left_s):  # httpx restarts its timeouts with each piece
                reply = await self._http.post(
                    self._config.base + path, content=body, headers=headers, timeout=httpx_timeout(left_s)
                )
            return Reply(reply.status_code, reply.headers, reply.content)
        except TimeoutError:
            return NoReply("no answer in time")
        except httpx.HTTPError as error:
            return no_reply(error)

    async def _progress(self, stream: httpx.Response, state: CallState) -> AsyncIterator[Progress]:
        reader = EventReader()
        async for line in stream.aiter_lines():
            state.left_s(self._clock())
            progress = reader.feed(line)
            if progress is not None:
                state.reset_tries()
                yield progress
