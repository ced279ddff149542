"""Sections of gpu.py that measure no single model. All take `Options` and report by `say`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_engines
import gpu_models
import harness
import numpy as np
from gpu_report import PACKAGES, Options, SkippedError, require, say
from gpu_shapes import (
    MATMUL_SIZE,
    QUERY,
    WORDS,
    lasting,
    packed_path,
    packed_runtime,
    seconds_of,
    source_and_engine,
)

NDCG_LOSS = 0.002

START_S = 60.0
"""A service that is not ready by then never will be."""

READY = """
import sys
from pathlib import Path
import numpy as np
from webapp.engine.runtimes.gpu.device import GpuRuntime
runtime = GpuRuntime(Path(sys.argv[1]), sys.argv[2])
runtime.start(1)
ids = np.full((1, 64), 7)
runtime.open()(ids, np.ones_like(ids), np.ones_like(ids) * (sys.argv[3] == "decoder"))
"""
"""A new process up to its first score."""


def card(options: Options) -> None:
    """Report versions, the card, and the attention that works on it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def found(name: str) -> str:
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
        return "none"

    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")
    say("versions", python=platform.python_version(), cores=harness.cores(), **{name: found(name) for name in names})
    tools = {name: bool(shutil.which(name)) for name in ("nginx", "gcc")}
    import torch

    if options.device == "cuda":
        has = torch.cuda.get_device_properties(0)
        say("card", name=has.name, gib=has.total_memory / 2**30, capability=f"{has.major}.{has.minor}", **tools)
    else:
        say("card", name="none", **tools)
    require("msgspec", "pydantic")
    from webapp.engine.runtimes.gpu.attention import usable_attention

    for dim in (32, 64, 128):
        chosen = usable_attention(torch.device(options.device), torch.float16, dim)
        say("attention", dim=dim, chosen=chosen.__qualname__.partition(".")[0])


def matmul(options: Options) -> None:
    """Measure the matrix product."""
    import torch

    size = options.pick(MATMUL_SIZE, 256)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (torch.randn(size, size, device=options.device, dtype=dtype) for _ in range(2))

        def ten(a: Any = a, b: Any = b) -> None:
            for _ in range(10):
                a @ b
            _synchronize(options)

        ten()
        seconds = min(seconds_of(ten) for _ in range(3))
        say("matrix product", size=size, dtype=str(dtype)[6:], tflops=20 * size**3 / seconds / 1e12)


def _synchronize(options: Options) -> None:
    import torch

    if options.device == "cuda":
        torch.cuda.synchronize()


def tokenise(options: Options) -> None:
    """Measure how fast one core makes tokens of documents, by the service's own tokenizers."""
    require(*PACKAGES)
    texts = harness.texts(options.pick(2000, 200), mean_words=WORDS, seed=1)
    for name in ("minilm", "qwen3"):
        _, engine = source_and_engine(name, options, tiny=True, runtime=_Unused())
        session = engine.open_session(lambda *_: None)
        own = session.encode_query(QUERY)
        parts = [texts[at : at + 100] for at in range(0, len(texts), 100)]
        lengths = session.encode_documents(own, texts[:100])[1]
        began = time.process_time()
        for part in parts:
            session.encode_documents(own, part)
        rate = len(texts) / (time.process_time() - began)
        say("tokenising", model=name, documents_s_a_core=rate, tokens_a_pair=float(lengths.mean()))


class _Unused:
    """A runtime that is never opened."""

    padded = False

    def start(self, threads: int) -> None: ...


def http(options: Options) -> None:
    """Measure the service through HTTP: the whole stack where nginx is installed, else gunicorn alone."""
    require(*PACKAGES, "gunicorn", "gevent", "flask", "structlog", "jinja2")
    import load
    import shapes

    for name in options.pick(("minilm", "bge"), ("minilm",)):
        model = gpu_models.shape_model(name, options.device, tiny=options.tiny)
        settings = {
            "engine": "torch",
            "precision": options.precision,
            "cache_mb": 0,
            "request_timeout_s": load.TIMEOUT_S,
        }
        settings |= shapes.OPEN_GATE
        environment = _environment(model, settings)
        program = [sys.executable, "-m", "webapp", "prepare"]
        began = time.perf_counter()
        subprocess.run(program, env=environment, check=True, stdout=sys.stderr)
        say("prepared", model=name, s=time.perf_counter() - began)
        stack = "nginx" if shutil.which("nginx") else "gunicorn alone"
        running = harness.service(model, **settings) if stack == "nginx" else _gunicorn(environment)
        began = time.perf_counter()
        with running as service:
            port = service if isinstance(service, int) else service.port
            four = harness.body(QUERY, harness.texts(4, mean_words=WORDS, seed=7))
            load.closed_loop(port, [four], 1)
            say("restarted", model=name, stack=stack, until_first_answer_s=time.perf_counter() - began)
            _through_http(name, port, options)


def _through_http(name: str, port: int, options: Options) -> None:
    import load

    count, words = options.pick((100, WORDS), (8, 30))
    for callers in (1, 32):
        texts = [harness.texts(count, mean_words=words, seed=200 + number) for number in range(callers)]
        bodies = [harness.body(QUERY, each) for each in texts]
        load.closed_loop(port, bodies, callers)
        found = load.closed_loop(port, bodies, callers, until=lasting(options.pick(3.0, 0.5)))
        p50, p99 = found.latency_ms(0.5), found.latency_ms(0.99)
        say("http", model=name, callers=callers, documents_s=found.rate * count, p50_ms=p50, p99_ms=p99)
    four = [harness.body(QUERY, harness.texts(4, mean_words=words, seed=7))]
    idle = load.closed_loop(port, four, 1, until=lasting(options.pick(1.0, 0.3)))
    large = [harness.body(QUERY, harness.texts(options.pick(2000, 60), mean_words=words, seed=8))]
    thread = threading.Thread(target=load.closed_loop, args=(port, large * options.pick(6, 2), 1))
    thread.start()
    beside = load.closed_loop(port, four, 1, until=lambda: not thread.is_alive())
    say("http, 4 documents", model=name, idle_p50_ms=idle.latency_ms(0.5), p50_ms=beside.latency_ms(0.5))


def _environment(model: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the variables that `harness.service` gives its processes, for a program that it does not start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANK_")}
    state = str(harness.STATE_DIR / "state")
    given = {"model": model, "state_dir": state, "log_level": "warning", "port": harness.free_port(), **settings}
    return {**kept, **{f"RERANK_{name.upper()}": str(value) for name, value in given.items()}}


@contextlib.contextmanager
def _gunicorn(environment: dict[str, str]) -> Iterator[int]:
    """Run the API without nginx and supervisor; yield its port when it is ready."""
    port = int(environment["RERANK_PORT"])
    process = subprocess.Popen([sys.executable, "-m", "webapp", "run"], env=environment, stdout=sys.stderr)
    try:
        ends = time.monotonic() + START_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("the service did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def restart(options: Options) -> None:
    """Measure a new process until its first score, all graphs recorded; the second one finds compiled code."""
    require(*PACKAGES)
    for name in options.pick(("bge", "minilm"), ("minilm",)):
        path = packed_path(name, options)
        if not path.is_file():
            source_and_engine(name, options, tiny=options.tiny)
        command = [sys.executable, "-c", READY, str(path), options.precision, "encoder"]
        for number in (1, 2):
            seconds = seconds_of(lambda command=command: subprocess.run(command, check=True, stdout=sys.stderr))
            say("first score", model=name, start=number, s=seconds)


def cranfield(options: Options) -> None:
    """Rank Cranfield's test queries by a trained cross-encoder, in the engine's precision and in float32."""
    require(*PACKAGES, "scipy")
    places = (harness.ROOT.parent / "shared" / "data", harness.ROOT / "shared" / "data")
    data = next((place for place in places if (place / "cranfield-ce").is_dir()), None)
    if data is None:
        raise SkippedError("shared/data/cranfield-ce is not here")
    from webapp.engine.models.original import load_source

    source = load_source(data / "cranfield-ce", options.device)
    texts, judged = _cranfield(data, most=options.pick(None, 2))
    found: dict[str, float] = {}
    for precision in ("fp32", options.precision if options.device == "cuda" else "bf16"):
        path = options.out / f"cranfield-{precision}.safetensors"
        packed_runtime(source, path, precision)
        runtime = gpu_engines.Plain(path, precision, options.device)
        engine = gpu_engines.engine_of(source, options.out / "cranfield-engine", runtime, precision, 0)
        found[precision] = float(np.mean([_ndcg(engine, texts, *each) for each in judged]))
        say("nDCG@10", precision=precision, queries=len(judged), value=found[precision])
    exact, rounded = found.values()
    say("nDCG@10", loss=exact - rounded, limit=NDCG_LOSS, ok=abs(exact - rounded) <= NDCG_LOSS)


Judged = tuple[str, list[str], dict[str, int]]
"""A query, the names of its candidates, and what is relevant."""


def _cranfield(data: Path, most: int | None) -> tuple[dict[str, str], list[Judged]]:
    """Return the texts, and BM25's best candidates for each query."""
    import quality

    corpus = quality.read_lines(data / "cranfield" / "corpus.jsonl")
    texts = {each["_id"]: f"{each.get('title', '')} {each['text']}".strip() for each in corpus}
    queries = {each["_id"]: each["text"] for each in quality.read_lines(data / "cranfield" / "queries.jsonl")}
    relevant: dict[str, dict[str, int]] = {}
    for line in (data / "cranfield" / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, value = line.split("\t")
        relevant.setdefault(query, {})[document] = int(value)
    first_stage, names = quality.BM25(list(texts.values())), list(texts)
    count = quality.CANDIDATES if most is None else 8
    return texts, [
        (queries[query], [names[index] for index in first_stage.best(queries[query], count)], value)
        for query, value in list(relevant.items())[:most]
    ]


def _ndcg(engine: Any, texts: dict[str, str], query: str, candidates: list[str], relevant: dict[str, int]) -> float:
    import quality

    session = engine.open_session()
    own = session.encode_query(query)
    ids, lengths, _ = session.encode_documents(own, [texts[name] for name in candidates])
    logits = session.score([(own, each) for each in ids], int(lengths.max()))
    return quality.ndcg10([candidates[place] for place in np.argsort(-logits, kind="stable")], relevant)
