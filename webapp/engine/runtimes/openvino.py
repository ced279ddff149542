"""The OpenVINO runtime, on the CPU: one stream and one inference request for each engine thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from webapp.config.resources import cpu_flags, forget_pages, return_freed_blocks
from webapp.domain.errors import SetupError
from webapp.engine.artifact import damaged
from webapp.engine.base import Forward

_FREED_BLOCK_BYTES = 64 * 1024
"""Compiling a model and meeting new shapes frees many such blocks; 50 MB a worker (measured) stay otherwise."""


class OpenVINORuntime:
    """A model read in the master (its weights are mapped, so workers share the pages) and compiled in each worker.

    A model compiled before the fork hangs in the child.
    """

    padded = True

    def __init__(self, path: Path, precision: str) -> None:
        self._core = ov.Core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise damaged(path, error) from error
        self._weights = path.resolve().with_suffix(".bin")
        self._precision = precision
        self._compiled: Any = None

    def start(self, threads: int) -> None:
        """Compile for `threads` engine threads.

        Raises:
            SetupError: OpenVINO would end the process; the artifact is of another processor.
        """
        if self._precision == "bf16" and not self.takes_bf16():
            raise SetupError(f"OpenVINO bf16: {NO_BF16}; set RERANK_PRECISION to auto, and prepare the model here")
        return_freed_blocks(_FREED_BLOCK_BYTES)
        self._compiled = self._core.compile_model(
            self._model,
            "CPU",
            {
                "NUM_STREAMS": str(threads),
                "INFERENCE_NUM_THREADS": str(threads),
                "INFERENCE_PRECISION_HINT": self._float_precision(),
                # Several workers would pin themselves to the same cores.
                "ENABLE_CPU_PINNING": "NO",
            },
        )
        forget_pages(self._weights)

    def _float_precision(self) -> str:
        """Return the precision of what is not quantized."""
        fast = self._precision == "int8" and has_bf16() and self.takes_bf16()
        return "bf16" if fast or self._precision == "bf16" else "f32"

    def takes_bf16(self) -> bool:
        """Return whether OpenVINO can compute this model's floats in bf16 here.

        With AMX, OpenVINO (2026.4) has a step of its own for gated layers, which decoders have: act(x A) * (x B).
        Compiling that in bf16 ends the process with SIGFPE; int8 beside it gave scores far off for heads of size 16.
        """
        return "amx_bf16" not in cpu_flags() or not any(map(_is_gate, self._model.get_ops()))

    def open(self) -> Forward:
        """Return a forward pass with an inference request of its own."""
        request = self._compiled.create_infer_request()
        names = [port.any_name for port in self._compiled.inputs]

        def forward(input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
            given = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
            outputs = request.infer([given[name] for name in names], share_inputs=True, share_outputs=True)
            output: NDArray[Any] = outputs[0]
            return output

        return forward


def has_bf16() -> bool:
    """Return whether this processor has bfloat16 instructions; others emulate it."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


NO_BF16 = "on a processor with AMX, as here, it can't compute the gated layers of this model in bf16"


def _is_gate(node: ov.Node) -> bool:
    """Return whether a node multiplies the activation of one matrix product by another product."""
    if node.get_type_name() != "Multiply":
        return False
    factors = [value.get_node() for value in node.input_values()]
    kinds = [factor.get_type_name() for factor in factors]
    activated = [factor for factor in factors if factor.get_type_name() in ("Swish", "Gelu")]
    return "MatMul" in kinds and any(each.input_value(0).get_node().get_type_name() == "MatMul" for each in activated)


def has_fast_int8() -> bool:
    """Return whether this processor multiplies int8 faster than float32; measured, it needs one of these flags."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})
