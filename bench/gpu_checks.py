"""Sections of gpu.py: small models of each family in the GPU engine, compared with transformers on the same device."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gpu_engines import Forward, Plain, alone, some
from gpu_models import FAMILIES, Arrays, family_source, reference, rows_of
from gpu_report import PACKAGES, Options, require, say

GROUPS = {
    "encoders": ("bert", "roberta", "xlm-roberta", "electra", "distilbert"),
    "modernbert": ("modernbert",),
    "vectors": ("bi-encoder", "llama, both ways"),
    "decoders": ("qwen3", "qwen2", "llama", "gemma"),
}
"""Beginnings of families' names. On a card the groups run at once."""

ERRORS = {"fp32": 1e-5, "fp16": 0.03, "bf16": 0.2}
"""Largest error: in fp32 as a share of the larger of 1 and the largest output, else of the outputs' spread."""

IN_COMPANY = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2}
"""Largest difference of a row alone and in company, as a share of the larger of 1 and the largest output."""

THREADS = 3

MANY_TOKENS = 100_000
SPARE_BYTES = 32 * 2**20
"""A batch of so many tokens finds no room in so much memory."""


def check(group: str, options: Options) -> None:
    """Compare each family of a group."""
    require(*PACKAGES)
    import torch

    torch.set_num_threads(1)
    names = [name for name in FAMILIES if _group_of(name) == group]
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            _check_family(name, Path(place), options)
            if options.device == "cuda":
                torch._dynamo.reset()  # noqa: SLF001 - a function is compiled for few models in one process


def _group_of(name: str) -> str:
    """Return the group with the longest beginning of a name."""
    return max((len(start), group) for group, all_ in GROUPS.items() for start in all_ if name.startswith(start))[1]


def _check_family(name: str, place: Path, options: Options) -> None:
    from webapp.engine.prepare.pack_floats import pack_floats
    from webapp.engine.runtimes.gpu.device import DTYPES, GpuRuntime

    source = family_source(name, place, options.device)
    types = (source.tables.types or 0) if not FAMILIES[name].pooled else 0
    rows = rows_of(name, source.transformer.config.vocab_size, types)
    expected = reference(name, source, rows)
    for precision in ("fp32", "fp16", "bf16") if options.device == "cuda" else ("fp32",):
        path = place / f"{precision}.safetensors"
        if not pack_floats(source, path, DTYPES[precision]):
            say("packed", family=name, ok=False, what="the graph does not know this architecture")
            return
        compared = _Compared(name, precision, rows, expected)
        compared.all("eager", Plain(path, precision, options.device))
        if options.device == "cuda" and precision == "fp32":
            continue  # flash attention, and so a graph, is for 16 bits
        runtime = GpuRuntime(path, precision)
        runtime.start(THREADS)
        compared.all("compiled, with graphs" if options.device == "cuda" else "runtime", runtime.open())
        if options.device == "cuda" and precision == "fp16":
            compared.without_memory(runtime.open())


class _Compared:
    """A family's rows and their outputs, with which forward passes are compared."""

    def __init__(self, name: str, precision: str, rows: Arrays, expected: Any) -> None:
        self._name, self._precision, self._rows, self._expected = name, precision, rows, expected
        self._scale = max(1.0, float(np.abs(expected).max()))
        self._spread = self._scale if precision == "fp32" else float(expected.std())

    def all(self, how: str, forward: Forward) -> None:
        """Compare rows in company, in another order, alone, and asked for by several threads at once."""
        together = forward(*self._rows).copy()
        order = np.random.default_rng(1).permutation(len(together))
        shuffled = forward(*some(self._rows, order))
        with ThreadPoolExecutor(THREADS) as pool:
            at_once = list(pool.map(lambda _: forward(*self._rows).copy(), range(2 * THREADS)))
        errors = [
            together - self._expected,
            shuffled - self._expected[order],
            *(each - self._expected for each in at_once),
        ]
        error = max(_largest(each) for each in errors) / self._spread
        apart = _largest(alone(forward, self._rows) - together) / self._scale
        limit, near = ERRORS[self._precision], IN_COMPANY[self._precision]
        say(
            "compared",
            family=self._name,
            precision=self._precision,
            how=how,
            error=error,
            error_limit=limit,
            alone=apart,
            alone_limit=near,
            ok=bool(error <= limit and apart <= near),
        )

    def without_memory(self, forward: Any) -> None:
        """Compute a large batch where the card has no memory for it at once."""
        import torch

        count = MANY_TOKENS // int((self._rows[1] != 0).sum()) + 1
        many = tuple(np.concatenate([each] * count) for each in self._rows)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + SPARE_BYTES) / total)
        try:
            found = forward(*many)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        error = _largest(found - np.concatenate([self._expected] * count)) / self._spread
        limit = ERRORS[self._precision]
        say(
            "little memory",
            family=self._name,
            tokens=int((many[1] != 0).sum()),
            at_once=forward.most_tokens,
            error=error,
            limit=limit,
            ok=error <= limit,
        )


def _largest(difference: Any) -> float:
    """Return the largest difference; infinity where something is no number."""
    return float(np.abs(difference).max()) if np.isfinite(difference).all() else float("inf")
