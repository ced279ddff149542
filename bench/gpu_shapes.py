"""The sections of gpu.py that measure a model: the device alone, the scheduler, fidelity, `CrossEncoder.predict`."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_engines
import gpu_models
import harness
import numpy as np
from gpu_report import PACKAGES, Options, SkippedError, require, say

WORDS, SHORT_WORDS, LONG_WORDS = 180, 18, 1960
"""Documents of about 190, 20 and 2,000 tokens."""

MATMUL_SIZE = 8192

CALLERS = (1, 8, 32)

QUERY = "what is the question of the large river"

LARGEST_DIFFERENCE = 1e-3
"""Of a logit alone and in company."""

LEAST_DIFFERENT = 195 / 200
"""Of documents, the share whose scores differ."""


def shape(name: str, options: Options) -> None:
    """Measure a model of one shape: the device alone, the scheduler, fidelity, and `CrossEncoder.predict`."""
    require(*PACKAGES)
    began = time.perf_counter()
    source, engine = source_and_engine(name, options, tiny=options.tiny)
    parameters = sum(each.numel() for each in source.transformer.parameters())
    say("made", like=gpu_models.SHAPES[name].like, million_parameters=parameters / 1e6, s=time.perf_counter() - began)
    rows = gpu_engines.arrays_of(engine, QUERY, harness.texts(options.pick(200, 40), mean_words=WORDS, seed=2))
    exact = _reference(source, rows, options)
    del source
    if options.device == "cuda":
        import torch

        torch.cuda.empty_cache()
    with _scheduled(engine) as scheduler:
        forward = engine.open_session()._forward  # noqa: SLF001 - what the service's own sessions call
        _alone(name, engine, forward, options)
        rate = _callers(scheduler, options)
        _fidelity(forward, rows, exact)
        _beside(scheduler, options)
    best = _predict(name, options)
    say("ratio", ours=rate, predict=best, ratio=rate / best)


def _alone(name: str, engine: Any, forward: gpu_engines.Forward, options: Options) -> None:
    """Measure forward passes from two threads, tokens in and logits out."""
    plain = gpu_engines.Plain(packed_path(name, options), options.precision, "cpu")
    for documents, words in ((options.pick(1400, 24), WORDS), (options.pick(5000, 60), SHORT_WORDS)):
        rows = gpu_engines.arrays_of(engine, QUERY, harness.texts(documents, mean_words=words, seed=3))
        for tokens in options.pick((16_384, 32_768, 65_536), (1024,)):
            batches = gpu_engines.batches_of(rows, tokens)
            with ThreadPoolExecutor(2) as pool:

                def whole(batches: Any = batches, pool: Any = pool) -> None:
                    list(pool.map(forward, *zip(*batches, strict=True)))

                whole()
                seconds = min(seconds_of(whole) for _ in range(2))
            work = sum(gpu_engines.operations(plain.shape, plain.packed(*each)) for each in batches)
            tflops = work / seconds / 1e12
            say(
                "alone",
                words=words,
                batch_tokens=tokens,
                documents_s=documents / seconds,
                tflops=tflops,
                **_share_of_matmul(tflops, options),
            )


@contextlib.contextmanager
def _scheduled(engine: Any) -> Iterator[Any]:
    """Run engine threads behind a scheduler, as a worker of the service does."""
    from webapp.domain.concurrency import allocate_lock, start_native_thread
    from webapp.engine.pool import EnginePool
    from webapp.scheduling.scheduler import Scheduler

    threads = harness.cores()
    scheduler = Scheduler(
        lock=allocate_lock(),
        budget_tokens=engine.info.tuning.batch_tokens,
        threads=threads,
        padded=engine.padded,
        longest_pair_tokens=engine.info.max_length_tokens,
        most_batches=engine.most_batches,
    )
    pool = EnginePool(engine, scheduler.step, threads=threads, start_thread=start_native_thread)
    say("started", s=seconds_of(pool.start), threads=threads, most_batches=engine.most_batches)
    try:
        yield scheduler
    finally:
        scheduler.close()


def _ask(scheduler: Any, documents: Sequence[str]) -> Any:
    """Return logits of one request."""
    from webapp.domain.concurrency import NativeWaiter

    waiter = NativeWaiter()
    ticket = scheduler.submit(QUERY, documents, waiter.wake)
    if not waiter.wait(120) or ticket.error is not None:
        raise RuntimeError(f"the scheduler did not answer: {ticket.error}")
    return ticket.logits


@dataclass(frozen=True)
class Load:
    """A closed loop's result."""

    requests_s: float
    p50_ms: float


def closed_loop(call: Callable[[int], object], callers: int, until: Callable[[], bool]) -> Load:
    """Have so many callers ask again and again; each gets its own number."""
    took: list[float] = []

    def caller(number: int) -> None:
        while not until():
            took.append(seconds_of(lambda: call(number)))

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(caller, range(callers)))
    return Load(len(took) / (time.perf_counter() - began), 1000 * statistics.median(took or [float("nan")]))


def lasting(seconds: float) -> Callable[[], bool]:
    ends = time.perf_counter() + seconds
    return lambda: time.perf_counter() > ends


def _work(options: Options) -> Any:
    """Return requests: documents, and words of each."""
    full = {"100 documents": (100, WORDS), "50 short": (50, SHORT_WORDS), "one of 2,000 tokens": (1, LONG_WORDS)}
    return options.pick(full, {"8 documents": (8, 30), "5 short": (5, 5), "one of 100 tokens": (1, 100)})


def _callers(scheduler: Any, options: Options) -> float:
    """Measure requests through the scheduler; return documents a second of large ones from the most callers."""
    rates: dict[str, float] = {}
    for what, (count, words) in _work(options).items():
        texts = [harness.texts(count, mean_words=words, seed=100 + number) for number in range(max(CALLERS))]
        if count == 1:  # of this length, not of about it
            texts = [[" ".join((text * 9).split()[:words])] for (text,) in texts]
        for callers in CALLERS:
            closed_loop(
                lambda number, texts=texts: _ask(scheduler, texts[number]), callers, lasting(options.pick(0.3, 0.05))
            )
            load = closed_loop(
                lambda number, texts=texts: _ask(scheduler, texts[number]), callers, lasting(options.pick(1.2, 0.3))
            )
            rates[what] = load.requests_s * count
            say("scheduled", what=what, callers=callers, documents_s=rates[what], p50_ms=load.p50_ms)
    return next(iter(rates.values()))


def _beside(scheduler: Any, options: Options) -> None:
    """Measure 4 documents, alone and beside a request of 2,000."""
    four = harness.texts(4, mean_words=options.pick(WORDS, 30), seed=7)
    large = harness.texts(options.pick(2000, 60), mean_words=options.pick(WORDS, 30), seed=8)
    idle = closed_loop(lambda _: _ask(scheduler, four), 1, lasting(options.pick(1.0, 0.3)))
    over = threading.Event()

    def again_and_again() -> None:
        while not over.is_set():
            _ask(scheduler, large)

    thread = threading.Thread(target=again_and_again)
    thread.start()
    beside = closed_loop(lambda _: _ask(scheduler, four), 1, lasting(options.pick(2.0, 0.5)))
    over.set()
    thread.join()
    say("4 documents", idle_p50_ms=idle.p50_ms, beside=len(large), p50_ms=beside.p50_ms)


def _reference(source: Any, rows: gpu_models.Arrays, options: Options) -> Any:
    """Return the original's logits in float32."""
    import torch

    module, found = source.module(), []
    with torch.inference_mode():
        for start in range(0, len(rows[0]), 25):
            part = gpu_engines.some(rows, slice(start, start + 25))
            found.append(module(*(torch.from_numpy(each).to(options.device) for each in part)).float().cpu().numpy())
    return np.concatenate(found)[:, 0]


def _fidelity(forward: gpu_engines.Forward, rows: gpu_models.Arrays, exact: Any) -> None:
    """Compare documents in company with the same alone, and with float32."""
    together = forward(*rows)[:, 0].copy()
    apart = max(
        float(np.abs(gpu_engines.alone(forward, rows, at_once)[:, 0] - together).max()) for at_once in (1, 4, 50)
    )
    different = len(np.unique(together))
    say("alone and in company", largest=apart, limit=LARGEST_DIFFERENCE, ok=apart <= LARGEST_DIFFERENCE)
    say("different scores", number=different, of=len(together), ok=different >= LEAST_DIFFERENT * len(together))
    errors = np.abs(together - exact)
    say(
        "against fp32",
        tau=_tau(together, exact),
        mean=float(errors.mean()),
        largest=float(errors.max()),
        spread=float(exact.std()),
    )


def _tau(a: Any, b: Any) -> float:
    """Return Kendall's tau-b of two lists of scores."""
    x, y = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def _predict(name: str, options: Options) -> float:
    """Measure `CrossEncoder.predict`; return documents a second at its best batch."""
    import torch
    from sentence_transformers import CrossEncoder

    directory = str(gpu_models.shape_model(name, options.device, tiny=options.tiny))
    pairs = [(QUERY, text) for text in harness.texts(options.pick(512, 16), mean_words=options.pick(WORDS, 30), seed=4)]
    best = 0.0
    for dtype in (torch.bfloat16, torch.float16) if options.device == "cuda" else (torch.float32,):
        encoder = CrossEncoder(directory, device=options.device, model_kwargs={"dtype": dtype})
        for size in options.pick((32, 128, 256), (8,)):

            def all_pairs(encoder: Any = encoder, size: int = size) -> None:
                encoder.predict(pairs, batch_size=size, show_progress_bar=False)

            all_pairs()
            rate = len(pairs) / seconds_of(all_pairs)
            say("predict", dtype=str(dtype)[6:], batch_size=size, documents_s=rate)
            best = max(best, rate)
    return best


def source_and_engine(name: str, options: Options, *, tiny: bool, runtime: Any = None) -> tuple[Any, Any]:
    """Return the original of a shape, and the engine on a runtime, which packs the model unless it is given."""
    from webapp.engine.models.original import load_source

    directory = gpu_models.shape_model(name, options.device, tiny=tiny)
    source = load_source(directory, options.device)
    place = options.out / f"{directory.name}-engine"
    runtime = runtime or packed_runtime(source, packed_path(name, options), options.precision)
    tokens = gpu_models.SHAPES[name].batch_tokens
    return source, gpu_engines.engine_of(source, place, runtime, options.precision, tokens)


def packed_path(name: str, options: Options) -> Path:
    return options.out / f"{name}{'-tiny' * options.tiny}-{options.precision}.safetensors"


def packed_runtime(source: Any, path: Path, precision: Any) -> Any:
    from webapp.engine.prepare.pack_floats import pack_floats
    from webapp.engine.runtimes.gpu.device import DTYPES, GpuRuntime

    if not pack_floats(source, path, DTYPES[precision]):
        raise SkippedError("the GPU's graph does not know this architecture")
    return GpuRuntime(path, precision)


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _share_of_matmul(tflops: float, options: Options) -> dict[str, float]:
    """Return the share of the matrix product's speed in the same precision, if that was measured before."""
    results = options.out / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    kind = {"fp16": "float16", "bf16": "bfloat16"}.get(options.precision)
    found = [line["tflops"] for line in lines if line.get("dtype") == kind and line.get("size") == MATMUL_SIZE]
    return {"share_of_matmul": tflops / found[-1]} if found else {}
