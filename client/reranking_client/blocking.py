"""The blocking client. Safe to share between threads."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx

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
from reranking_client.failures import CallFailedError, RefusedError
from reranking_client.parts import Answer, Document, Part, Question, merge, plan, read
from reranking_client.results import Progress, Ranking
from reranking_client.retrying import OK, Budget, CallState, NoReply, Outcome, Reply, Retries

OnProgress = Callable[[int, int], None]
"""Called after each part with the documents scored so far, and all documents."""


class RerankClient:
    """Client of one service. It keeps its connections."""

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
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create a client. It connects at its first call.

        Args:
            url: the address of the service: what comes before `/rerank`.
            key: the API key; empty for none.
            timeout_s: longest time of a call with all its tries. Each try tells the service how much is left.
            retries: when to retry; None for the default.
            budget: limit of retries; None for a new one of this client.
            split_documents: a list with more documents becomes several requests.
            concurrency: most requests of one call at the same time.
            trust: a file with the certificates to trust, or an SSL context; None for the system's certificates.
            transport: a transport of httpx, for tests and special proxies.
            clock: returns monotonic seconds.
            sleep: waits for so many seconds.

        Raises:
            ValueError: the address or another value is not valid.
            OSError: `trust` can't be read.
        """
        self._config = ClientConfig(
            url, key, timeout_s, retries or Retries(), budget or Budget(), split_documents, concurrency
        )
        self._http = httpx.Client(**self._config.httpx_options(trust), transport=transport)  # type: ignore[arg-type]
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._workers = 0
        self._closed = False

    def rerank(
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
        """Order documents by their relevance to a query.

        Args:
            query: the query.
            documents: texts, or mappings with `content` and optionally `metadata`.
            top_n: how many results to return; None for all.
            raw_scores: return the model's own scores instead of 0..1.
            options: other fields of the request.
            timeout_s: longest time of this call; None for the client's.
            request_id: the id for `follow` and for the service's logs; None for a new one.
            on_progress: called after each part of a list.

        Raises:
            CallFailedError: there is no answer; see `failures`.
            TypeError: a document is neither a text nor a mapping with `content`.
        """
        question = Question(query, documents, top_n, raw_scores, options or {})
        (answer,) = self._ask([question], timeout_s, request_id, on_progress)
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    def score(self, query: str, documents: Sequence[Document], **how: Any) -> list[float]:
        """Return the scores in the order of the documents. Arguments and errors as for `rerank`, without `top_n`."""
        ranking = self.rerank(query, documents, **how)
        return [each.score for each in sorted(ranking.results, key=lambda result: result.index)]

    def rerank_batch(
        self,
        questions: Sequence[Question],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[Ranking | RefusedError]:
        """Rank several questions; return their answers in the same order.

        A question that the service refuses has the error in its place.

        Raises:
            CallFailedError: there is no answer to any question.
        """
        return self._ask(questions, timeout_s, request_id, on_progress)

    def follow(self, request_id: str, *, timeout_s: float | None = None) -> Iterator[Progress]:
        """Yield the progress of a request until its end; see docs/progress.md. Reconnects if the stream breaks.

        Raises:
            CallFailedError: the service gives no progress.
        """
        began = self._clock()
        deadline = self._config.deadline(timeout_s, began)
        state = self._config.call_state(checked_request_id(request_id), began=began, deadline=deadline)
        while True:
            timeout = httpx_timeout(min(STREAM_SILENCE_S, state.left_s(self._clock())))
            outcome: Outcome = NoReply("the stream ended before the request")
            try:
                with self._http.stream("GET", f"{self._config.base}/progress/{request_id}", timeout=timeout) as stream:
                    if stream.status_code != OK:
                        outcome = Reply(stream.status_code, stream.headers, stream.read())
                    else:
                        for progress in self._progress(stream, state):
                            yield progress
                            if progress.ended:
                                return
            except httpx.HTTPError as error:
                outcome = no_reply(error)
            self._sleep(state.after(outcome, self._clock()) or 0.0)

    def close(self) -> None:
        """Close the connections. While parts of an interrupted call still run, the last of them closes."""
        with self._lock:
            self._closed = True
            busy = self._workers > 0
        if not busy:  # never close a socket that another thread reads: its number may belong to another file by then
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
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
        with contextlib.closing(self._all(parts, ids, deadline)) as finished:
            for number, answer in finished:
                answers[number] = answer
                done += parts[number].documents
                if on_progress is not None:
                    on_progress(done, total)
        return merge(parts, answers, call_id)

    def _all(self, parts: list[Part], ids: list[str], deadline: float) -> Generator[tuple[int, list[Answer]]]:
        """Yield the number and answer of each part when it is finished; at most `concurrency` run at a time."""
        if len(parts) == 1:
            yield 0, self._answers(parts[0], ids[0], deadline)
            return
        waiting, stopped = iter(range(len(parts))), threading.Event()
        outcomes: queue.SimpleQueue[tuple[int, list[Answer] | BaseException]] = queue.SimpleQueue()

        def work() -> None:
            number = 0
            try:
                while not stopped.is_set():
                    with self._lock:
                        number = next(waiting, -1)
                    if number < 0:
                        return
                    outcomes.put((number, self._answers(parts[number], ids[number], deadline, stopped)))
            except BaseException as error:  # noqa: BLE001 - the thread that made the call raises it
                stopped.set()
                outcomes.put((number, error))
            finally:
                self._worker_ended()

        # Daemon threads: a program that ends, by Ctrl-C for example, does not wait for them.
        for _ in range(min(self._config.concurrency, len(parts))):
            with self._lock:
                self._workers += 1
            threading.Thread(target=work, daemon=True, name="rerank-part").start()
        try:
            for _ in parts:
                number, answer = outcomes.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield number, answer
        finally:
            stopped.set()

    def _worker_ended(self) -> None:
        with self._lock:
            self._workers -= 1
            last = self._closed and self._workers == 0
        if last:
            self._http.close()

    def _answers(
        self, part: Part, part_id: str, deadline: float, stopped: threading.Event | None = None
    ) -> list[Answer]:
        state = self._config.call_state(part_id, began=self._clock(), deadline=deadline)
        body = part.body()
        while True:
            outcome = self._try(part.path, body, state)
            wait_s = state.after(outcome, self._clock())
            if wait_s is None and isinstance(outcome, Reply):
                return read(part, outcome.body, part_id)
            if stopped is not None and stopped.is_set():
                raise CallFailedError("another part failed", request_id=part_id)
            self._sleep(wait_s or 0.0)

    def _try(self, path: str, body: bytes, state: CallState) -> Outcome:
        left_s = state.left_s(self._clock())
        headers = request_headers(state.request_id, left_s)
        try:
            with self._http.stream(
                "POST", self._config.base + path, content=body, headers=headers, timeout=httpx_timeout(left_s)
            ) as stream:
                received = bytearray()
                for piece in stream.iter_bytes():
                    received += piece
                    state.left_s(self._clock())  # httpx restarts its timeouts with each piece; the deadline stays
                return Reply(stream.status_code, stream.headers, bytes(received))
        except httpx.HTTPError as error:
            return no_reply(error)

    def _progress(self, stream: httpx.Response, state: CallState) -> Iterator[Progress]:
        reader = EventReader()
        for line in stream.iter_lines():
            state.left_s(self._clock())
            progress = reader.feed(line)
            if progress is not None:
                state.reset_tries()
                yield progress
