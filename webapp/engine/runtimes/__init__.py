"""What computes a forward pass: native (our C kernels), openvino, torch, and stub, an engine without a model.

A new runtime: copy `openvino.py`; add its name to `EngineName` in `artifact.py` and to the setting `engine`; name its
precisions in `CANDIDATES`, when not to try them in `_obstacle`, and how it is opened in `open_runtime`; write its files
in `prepare/build.py`. Each is imported where it is used, so that no engine loads the library of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from webapp.config.cards import cards, obstacle
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import MODEL, PACKED_MODEL, EngineName, Manifest, Precision, damaged
from webapp.engine.base import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine at a precision."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


CANDIDATES = (
    Candidate("native", "int8"),
    Candidate("openvino", "int8"),
    Candidate("openvino", "bf16"),
    Candidate("openvino", "fp32"),
    Candidate("torch", "fp16"),
    Candidate("torch", "bf16"),
    Candidate("torch", "fp32"),
)
"""All there are, in the order in which `prepare` tries them; torch's first where a card computes (`_on_card`).

The native engine comes first: it is ready in a second, where OpenVINO's int8 takes a minute to calibrate. Which of two
engines is faster here is measured while the service is idle (`releases.comparison`).
"""


LEAST_PARAMETERS = 20_000_000
"""Of a model that `auto` puts on a card. The smallest that was measured on one, MiniLM-L6, has 22 million."""


def candidates(settings: Settings, report: Callable[[str], None], parameters: int = 0) -> list[Candidate]:
    """Return what to try for a model here, in this order; the first that passes the gate is served.

    Args:
        settings: the engine and the precision that are asked for.
        report: takes a line for each candidate that is left out, and one that says why a card computes or does not.
        parameters: of the model; 0: unknown, and no card is taken unless the settings say torch.

    Raises:
        SetupError: this machine can't serve with the engine and precision of the settings.
    """
    engine, asked = settings.engine, settings.precision
    on_card = _on_card(settings, report, parameters)
    chosen, reasons = [], []
    for each in sorted(CANDIDATES, key=lambda each: on_card and each.engine != "torch"):
        if engine != each.engine and (engine != "auto" or (each.engine == "torch" and not on_card)):
            continue
        if asked not in ("auto", each.precision) or (engine == "auto" and each == SLOW_ON_CARD):
            continue
        if not (why := _obstacle(each, engine, asked, on_card=on_card)):
            chosen.append(each)
        elif each.precision in ("int8", asked):  # that a processor has no bf16 is usual, and no news
            reasons.append(f"{each} is left out: {why}")
    if not chosen:
        why = "; ".join(reasons) or f"{engine} does not compute in {asked}"
        named = {f"RERANK_ENGINE={engine}": engine, f"RERANK_PRECISION={asked}": asked}
        to_change = [name for name, value in named.items() if value != "auto"]
        which = "it" if len(to_change) == 1 else "one of them"
        raise SetupError(f"{', '.join(to_change)}: {why}; set {which} to auto")
    for reason in reasons:
        report(reason)
    return chosen


SLOW_ON_CARD = Candidate("torch", "fp32")
"""Flash attention has no float32: on a card it is for those who ask for it."""


def _on_card(settings: Settings, report: Callable[[str], None], parameters: int) -> bool:
    """Return whether a card is to compute, and report why. CUDA is started where there is one.

    Raises:
        SetupError: torch is asked for, there is a card, and torch can't use it.
    """
    if settings.engine not in ("auto", "torch") or not cards():
        return False  # the usual case, in which torch is not imported
    from webapp.engine.runtimes.gpu.card import find_device  # noqa: PLC0415

    name = cards()[0].name
    if why := obstacle():
        report(f"{name} is left out: {why}")
        return False
    if settings.engine == "auto" and parameters < LEAST_PARAMETERS:
        report(f"{name} is left out: below {LEAST_PARAMETERS / 1e6:.0f} million parameters the processor computes")
        return False
    try:
        on_card: bool = find_device().type == "cuda"
    except SetupError as error:
        if settings.engine == "torch":
            raise
        report(f"{name} is left out: {error}")
        return False
    if on_card:
        report(f"{name} computes: the model has {parameters / 1e6:,.0f} million parameters")
    return on_card


def _obstacle(candidate: Candidate, engine: str, asked: str, *, on_card: bool) -> str:
    """Return why a candidate is not tried on this machine; empty: it is. What is only slow may be asked for."""
    if candidate.engine == "native":
        from webapp.engine.runtimes.native import PORTABLE, instruction_sets  # noqa: PLC0415

        usable = instruction_sets()
        if not usable:
            return "its kernels are not built here, or from other sources; install again, with a C compiler"
        if usable == [PORTABLE] and engine == "auto":
            return "of its kernels only those in plain C run here, which are slow"
    elif candidate.engine == "openvino":
        from webapp.engine.runtimes.openvino import has_bf16, has_fast_int8  # noqa: PLC0415

        if candidate.precision == "int8" and asked == "auto" and not has_fast_int8():
            return "without VNNI, as here, it is slower than fp32"
        if candidate.precision == "bf16" and not has_bf16():
            return "this processor has no bf16 instructions"
    elif candidate.precision in ("fp16", "bf16") and asked == "auto" and not on_card:
        return "it is for GPUs"
    return ""


def open_runtime(directory: Path, manifest: Manifest) -> Runtime:
    """Return the runtime of an artifact.

    Raises:
        SetupError: a file of it is damaged.
    """
    if manifest.engine == "torch" and (directory / PACKED_MODEL).is_file():
        from webapp.engine.runtimes.gpu.device import GpuRuntime  # noqa: PLC0415

        gpu = GpuRuntime(directory / PACKED_MODEL, manifest.precision)
        if gpu.tables != manifest.tables:
            raise damaged(directory / PACKED_MODEL, f"{gpu.tables}, not {manifest.tables} as its manifest says")
        return gpu
    if manifest.engine == "torch":
        from webapp.engine.runtimes.torch import TorchRuntime  # noqa: PLC0415

        return TorchRuntime(manifest)
    if manifest.engine == "native":
        from webapp.engine.runtimes.native import PORTABLE, NativeRuntime  # noqa: PLC0415

        native = NativeRuntime(directory / PACKED_MODEL)
        if native.tables != manifest.tables:
            raise damaged(directory / PACKED_MODEL, f"{native.tables}, not {manifest.tables} as its manifest says")
        if native.kernels.startswith(PORTABLE):
            log.warning(
                "only the native kernels in plain C run here: scores are right, and take at least 9 times as long"
            )
        return native
    from webapp.engine.runtimes.openvino import OpenVINORuntime  # noqa: PLC0415

    return OpenVINORuntime(directory / MODEL, manifest.precision)
