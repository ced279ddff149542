"""The native engine's kernels: each operation and the whole forward pass, by instruction set, in turn, as ratios.

Run: .venv/bin/python bench/kernels.py [SHAPE ...]
  --against REV   also the library of an earlier commit, built here
  --openvino      also OpenVINO in int8 and fp32
  --onnx PYTHON   also ONNX Runtime in int8, by a Python that has onnxruntime, onnx, torch and transformers
Speed is processor time, one thread; of many turns the fastest tenth counts, for other programs only slow us down. What
this processor can't run is named, not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import harness
import numpy as np
import shapes
from numpy.typing import NDArray

from webapp.config.settings import Settings
from webapp.engine.artifact import MODEL, PACKED_MODEL, artifact_dir
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes import native

LENGTHS = [int(each) for each in np.random.default_rng(1).lognormal(5.1, 0.5, 48).clip(16, 500)]
"""Tokens of the sequences: 190 on average."""

TURNS, TURN_S = 40, 0.25
OPERATION_TURNS = 80

WORKER = Path(__file__).with_name("kernel_worker.py")


class Linear(ctypes.Structure):
    """See native/ops.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "sums", "bias")),
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "group")),
    )


class Quantised(ctypes.Structure):
    """See native/ops.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("values", "scales", "zeros"))


class Seen(ctypes.Structure):
    """See native/ops.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "weights")),
        *((name, ctypes.c_int32) for name in ("dim", "length")),
    )


class Sight(ctypes.Structure):
    """See native/ops.h."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("start", "stop", "more"))


INT, PTR, REAL = ctypes.c_int32, ctypes.c_void_p, ctypes.c_float


class Ops(ctypes.Structure):
    """See native/ops.h; up to what is measured here."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("quantise", ctypes.CFUNCTYPE(None, PTR, INT, INT, INT, Quantised)),
        ("multiply", ctypes.CFUNCTYPE(None, PTR, INT, INT, PTR, INT, PTR, INT, INT)),
        ("seen_floats", ctypes.CFUNCTYPE(ctypes.c_size_t, INT, INT)),
        ("see", ctypes.CFUNCTYPE(Seen, PTR, INT, INT)),
        ("hold", ctypes.CFUNCTYPE(None, PTR, PTR, PTR, INT, INT, INT)),
        ("attend", ctypes.CFUNCTYPE(None, PTR, PTR, INT, INT, Sight, PTR, INT)),
        ("layer_norm", ctypes.CFUNCTYPE(None, PTR, PTR, INT, INT, PTR, PTR, REAL)),
    )


def at(array: NDArray[Any], offset: int = 0) -> int:
    return array.ctypes.data + offset * array.itemsize


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def products(inputs: int, outputs: int, after: int) -> Callable[[Ops], Callable[[], None]]:
    """Return what makes a call of a product of 64 rows; 0 is a product alone, 1 one with GELU."""
    weights = np.random.default_rng(0).integers(-31, 32, outputs * inputs).astype(np.int8)
    scales, sums = np.full(outputs, 0.2 / inputs**0.5 / 18, np.float32), np.zeros(outputs, np.float32)
    bias, x, out = np.zeros(outputs, np.float32), numbers(64, inputs), np.empty((64, outputs), np.float32)
    values, of_rows, zeros = np.empty((64, inputs), np.uint8), np.empty(64, np.float32), np.empty(64, np.float32)
    layer = Linear(at(weights), at(scales), at(sums), at(bias), inputs, outputs, inputs)
    quantised = Quantised(at(values), at(of_rows), at(zeros))

    def bind(ops: Ops) -> Callable[[], None]:
        ops.quantise(at(x), 64, inputs, inputs, quantised)
        given = ctypes.byref(layer), ctypes.byref(quantised)
        kept = weights, scales, sums, bias, x, values, of_rows, zeros  # the structures hold but addresses
        return lambda: (kept, ops.multiply(given[0], 0, outputs, given[1], 64, at(out), outputs, after))[1]

    return bind


def attention(length: int, heads: int, dim: int, window: int = 0) -> Callable[[Ops], Callable[[], None]]:
    """Return what makes a call of all heads' attention; 0 is no window."""
    sight = Sight(-window, window + 1, 1) if window else Sight(0, length, 0)
    hidden = heads * dim
    qkv, out = numbers(length, 3 * hidden) / dim**0.25, np.empty((length, hidden), np.float32)

    def bind(ops: Ops) -> Callable[[], None]:
        room = np.empty(ops.seen_floats(dim, length) + 16, np.float32)
        start = at(room) + -at(room) % 64

        def call() -> None:
            for first in range(0, hidden, dim):
                seen = ctypes.byref(ops.see(start, dim, length))
                key, value = at(qkv, hidden + first), at(qkv, 2 * hidden + first)
                ops.hold(seen, key, value, 3 * hidden, length, 0)
                ops.attend(seen, at(qkv, first), 3 * hidden, length, sight, at(out, first), hidden)
            room[0] += 0  # it lives as long as this

        return call

    return bind


def row_by_row(width: int, *, norm: bool) -> Callable[[Ops], Callable[[], None]]:
    """Return what makes a call of a norm, or of quantising, of 64 rows."""
    x, other, gain = numbers(64, width), numbers(64, width), np.ones(width, np.float32)
    values, scales, zeros = np.empty((64, width), np.uint8), np.empty(64, np.float32), np.empty(64, np.float32)

    def bind(ops: Ops) -> Callable[[], None]:
        if norm:
            return lambda: ops.layer_norm(at(x), at(other), 64, width, at(gain), at(gain), 1e-12)
        quantised = Quantised(at(values), at(scales), at(zeros))
        return lambda: ops.quantise(at(x), 64, width, width, quantised)

    return bind


OPERATIONS: dict[str, tuple[int, Callable[[Ops], Callable[[], None]]]] = {
    "product 384 x 1152": (64, products(384, 1152, 0)),
    "product 384 x 1536, GELU": (64, products(384, 1536, 1)),
    "product 1536 x 384": (64, products(1536, 384, 0)),
    "product 1024 x 4096, GELU": (64, products(1024, 4096, 1)),
    "attention, 12 x 32, 64 tokens": (64, attention(64, 12, 32)),
    "attention, 12 x 32, 190 tokens": (190, attention(190, 12, 32)),
    "attention, 16 x 64, 190 tokens": (190, attention(190, 16, 64)),
    "attention, 12 x 64, 500 tokens, 64 on either side": (500, attention(500, 12, 64, 64)),
    "quantising 384": (64, row_by_row(384, norm=False)),
    "norm 384": (64, row_by_row(384, norm=True)),
}
"""Name -> rows or tokens that a call computes, and what binds it to an instruction set's operations."""


def best(times: list[float]) -> float:
    return statistics.quantiles(times, n=10)[0]


def measure_operations(sets: list[str]) -> None:
    library = ctypes.CDLL(str(native.library()))
    tables = [Ops.in_dll(library, f"ops_{name}") for name in sets]
    print(f"| operation, us a token | {' | '.join(sets)} | scalar to {sets[0]} |\n|---|{'---|' * (len(sets) + 1)}")
    for name, (tokens, bind) in OPERATIONS.items():
        calls = [bind(ops) for ops in tables]
        times: list[list[float]] = [[] for _ in calls]
        for turn in range(OPERATION_TURNS):
            for each, call in enumerate(calls):
                if turn > 1 and sets[each] == native.PORTABLE:
                    continue  # it takes longer than all others together
                began = time.thread_time()
                call()
                times[each].append(time.thread_time() - began)
        figures = [best(each) / tokens * 1e6 for each in times]
        row = " | ".join(f"{figure:.3f}" for figure in figures)
        print(f"| {name} | {row} | {figures[-1] / figures[0]:.1f} |", flush=True)


class Rival:
    """A process that computes forward passes when it is told to; see kernel_worker.py."""

    def __init__(self, python: str, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [python, WORKER, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.measure()  # warm

    def measure(self) -> float:
        """Return tokens a second of processor time, over a turn."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{TURN_S} {' '.join(map(str, LENGTHS))}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """Yield a directory with the code of a commit, its kernels built."""
    with tempfile.TemporaryDirectory() as made:
        archive = subprocess.run(["git", "archive", revision], cwd=harness.ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "x", "-C", made], input=archive.stdout, check=True)
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=made, check=True, capture_output=True)
        yield Path(made)


PREPARE = """
import sys
sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/bench"]
import kernels, shapes
print(kernels.prepared(shapes.build(sys.argv[2]), "native", "int8"))
"""


def prepared_by(tree: Path, shape: str) -> Path:
    """Return the native artifact that another commit's code makes of a shape: its file may be another."""
    command = [sys.executable, "-c", PREPARE, tree, shape]
    return Path(subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")[-2])


def prepared(model: Path, engine: str, precision: str) -> Path:
    """Return the artifact of a model for an engine."""
    settings = Settings(
        model=str(model), state_dir=harness.STATE_DIR, engine=engine, precision=precision, **shapes.OPEN_GATE
    )
    assert prepare(settings, print)
    return artifact_dir(settings)


def measure_passes(shape: str, sets: list[str], options: argparse.Namespace) -> None:
    model = shapes.build(shape)
    packed = prepared(model, "native", "int8") / PACKED_MODEL
    with ExitStack() as stack:
        fast = [name for name in sets if name != native.PORTABLE]
        rivals = {name: Rival(sys.executable, harness.ROOT, "native", packed, name) for name in fast}
        if options.against:
            tree = stack.enter_context(tree_of(options.against))
            theirs = prepared_by(tree, shape) / PACKED_MODEL
            rivals[f"native of {options.against}"] = Rival(sys.executable, tree, "native", theirs)
        for precision in ("int8", "fp32") if options.openvino else ():
            path = prepared(model, "openvino", precision) / MODEL
            rivals[f"OpenVINO {precision}"] = Rival(sys.executable, harness.ROOT, "openvino", path, precision)
        if options.onnx:
            exported = harness.STATE_DIR / f"onnx-{shape}"
            if not exported.is_dir():
                subprocess.run([options.onnx, WORKER.with_name("export_onnx.py"), model, exported], check=True)
            rivals["ONNX Runtime int8"] = Rival(options.onnx, harness.ROOT, "onnx", exported / "model_quantized.onnx")
        for rival in rivals.values():
            stack.callback(rival.close)
        rates: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(TURNS):
            for name, rival in rivals.items():
                rates[name].append(1 / rival.measure())
    print(f"\n| {shape}, whole pass | tokens/s | {sets[0]} to it | median of the turns' ratios |\n|---|---|---|---|")
    for name, each in rates.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(each, rates[sets[0]], strict=True))
        print(f"| {name} | {1 / best(each):,.0f} | {best(each) / best(rates[sets[0]]):.2f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=[shapes.BASE], help=", ".join([shapes.BASE, *shapes.SHAPES]))
    parser.add_argument("--against", metavar="REV")
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--onnx", metavar="PYTHON")
    options = parser.parse_args()
    sets = native.instruction_sets()
    print(f"{harness.machine()}; it runs {', '.join(sets)} natively, nothing else was measured\n")
    measure_operations(sets)
    for shape in options.shapes:
        measure_passes(shape, sets, options)


if __name__ == "__main__":
    main()
