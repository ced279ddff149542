"""What the same CPU does without HTTP: the artifact itself, and CrossEncoder.predict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from webapp.config.settings import Settings
from webapp.domain.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.domain.types import Session
from webapp.engine.base import Engine
from webapp.engine.loader import load_engine
from webapp.engine.pool import EnginePool
from webapp.engine.prepare.autotune import batches, encode

QUERY = "what is the question"


class _Batches:
    """Batches cut beforehand: no scheduler, no HTTP."""

    def __init__(self, engine: Engine, texts: Sequence[str], budget_tokens: int) -> None:
        self._lock = allocate_lock()
        encoded = encode(engine.open_session(), [(QUERY, text) for text in texts])
        self._batches = [batch[:2] for batch in batches(encoded, budget_tokens, padded=engine.padded)]
        self._left = len(self._batches)
        self.waiter = NativeWaiter()

    def step(self, scorer: Session) -> bool:
        with self._lock:
            batch = self._batches.pop(0) if self._batches else None
        if batch is None:
            return False
        scorer.score(*batch)
        with self._lock:
            self._left -= 1
            if not self._left:
                self.waiter.wake()
        return True


class Ceiling:
    """The artifact of these settings, on as many engine threads as the service uses."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._engine = load_engine(settings)
        self._engine.start(threads)
        self._threads = threads
        self._budget_tokens = settings.batch_tokens or self._engine.info.tuning.batch_tokens

    @property
    def engine(self) -> Engine:
        return self._engine

    def documents_per_s(self, texts: Sequence[str]) -> float:
        """Run once over the texts, which are tokenized and sorted before the clock starts."""
        source = _Batches(self._engine, texts, self._budget_tokens)
        pool = EnginePool(_Started(self._engine), source.step, threads=self._threads, start_thread=start_native_thread)
        began = time.perf_counter()
        pool.start()
        source.waiter.wait(600)
        return len(texts) / (time.perf_counter() - began)


class _Started:
    """An engine that is compiled already."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self.open_session = engine.open_session

    def start(self, threads: int) -> None:
        """Done before."""


def predict(model: Path, texts: Sequence[str]) -> float:
    """Documents a second of CrossEncoder.predict."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu")
    pairs = [(QUERY, text) for text in texts]
    encoder.predict(pairs[:8], show_progress_bar=False)
    began = time.perf_counter()
    encoder.predict(pairs, show_progress_bar=False)
    return len(pairs) / (time.perf_counter() - began)
