"""Which engines and precisions are tried for a model here: it follows from the settings and the processor alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import EngineName, Precision
from webapp.engine.prepare.progress import Report
from webapp.engine.runtimes.native import library


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine at a precision."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def candidates(settings: Settings, report: Report) -> list[Candidate]:
    """Return what to try, in this order; the first that passes the gate is served.

    The native engine comes first: it is ready in a second, where OpenVINO's int8 takes a minute to calibrate. Which of
    two engines of the same precision is faster here is measured while the service is idle (`releases.comparison`).

    Raises:
        SetupError: this machine can't serve with the engine or precision of the settings.
    """
    if settings.engine == "torch":
        return [_torch(settings)]
    from webapp.engine.runtimes.openvino import has_bf16

    asked, engine = settings.precision, settings.engine
    if engine == "native" and asked not in ("auto", "int8"):
        raise SetupError(f"RERANK_PRECISION: the native engine computes in int8, not {asked}; set RERANK_ENGINE=auto")
    if asked == "bf16" and not has_bf16():
        raise SetupError("RERANK_PRECISION: this processor has no bf16 instructions; set it to auto or fp32")
    chosen = _native(settings, report) if engine != "openvino" and asked in ("auto", "int8") else []
    if engine != "native":
        chosen += _openvino(asked, report)
    return chosen


def _native(settings: Settings, report: Report) -> list[Candidate]:
    if library() is not None:
        return [Candidate("native", "int8")]
    why = "this processor has no AVX2, or no C compiler was there at installation"
    if settings.engine == "native":
        raise SetupError(f"RERANK_ENGINE: no native engine: {why}; set it to auto")
    report(f"the native engine is left out: {why}")
    return []


def _openvino(asked: str, report: Report) -> list[Candidate]:
    from webapp.engine.runtimes.openvino import has_bf16, has_fast_int8

    if asked != "auto":
        return [Candidate("openvino", cast(Precision, asked))]
    fast_int8 = has_fast_int8()
    if not fast_int8:
        report("OpenVINO's int8 is left out: without VNNI, as here, it is slower than fp32")
    tried: list[tuple[Precision, bool]] = [("int8", fast_int8), ("bf16", has_bf16()), ("fp32", True)]
    return [Candidate("openvino", precision) for precision, here in tried if here]


def _torch(settings: Settings) -> Candidate:
    from webapp.engine.runtimes.torch import device

    if settings.precision == "int8":
        raise SetupError("RERANK_PRECISION: the torch engine has no int8; set RERANK_ENGINE=auto")
    on_gpu = device() == "cuda"
    return Candidate(
        "torch", "bf16" if settings.precision == "bf16" or (settings.precision == "auto" and on_gpu) else "fp32"
    )
