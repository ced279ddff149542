"""Compute forward passes of one engine, a turn for each line of standard input; kernels.py starts this.

Arguments: the tree whose code computes; native, openvino or onnx; the model's file; an instruction set or a precision.
A line: seconds of processor time that a turn takes, then the lengths of the sequences. The answer: tokens a second.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

tree, engine, path, *rest = sys.argv[1:]
sys.path.insert(0, tree)
BATCH_TOKENS = 1024


def forward() -> Callable[..., Any]:
    if engine == "native":
        from webapp.engine.runtimes.native import NativeRuntime

        return NativeRuntime(Path(path), *rest).open()
    if engine == "openvino":
        from webapp.engine.runtimes.openvino import OpenVINORuntime

        runtime = OpenVINORuntime(Path(path), *rest)
        runtime.start(1)
        return runtime.open()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    known = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"))

    def run(*given: np.ndarray) -> Any:
        return session.run(None, {name: array for name, array in zip(known, given, strict=True) if name in names})

    return run


def batches(lengths: list[int]) -> list[tuple[np.ndarray, ...]]:
    """Return sequences of like lengths together, padded to the longest of a batch, as for an engine that pads."""
    ordered, made = sorted(lengths), []
    while ordered:
        length = -(-ordered[-1] // 16) * 16
        rows = [ordered.pop() for _ in range(min(len(ordered), max(1, BATCH_TOKENS // length)))]
        mask = (np.arange(length) < np.array(rows)[:, None]).astype(np.int64)
        ids = np.random.default_rng(0).integers(1000, 9000, mask.shape) * mask
        made.append((ids, mask, np.zeros_like(ids)))
    return made


compute = forward()
made = []
for line in sys.stdin:
    seconds, *lengths = line.split()
    made = made or batches([int(each) for each in lengths])
    began, tokens = time.process_time(), 0
    while time.process_time() - began < float(seconds):
        batch = made[0]
        made.append(made.pop(0))
        compute(*batch)
        tokens += int(batch[1].sum())
    print(tokens / (time.process_time() - began), flush=True)
