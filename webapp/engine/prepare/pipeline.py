"""`reranking prepare`: find the model, build its artifact, publish it for serving. Only `build` loads torch."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from webapp.config.lockfile import lock
from webapp.config.resources import return_freed_blocks
from webapp.config.settings import Settings
from webapp.domain.errors import EngineLostError, SetupError, reason_of
from webapp.engine.artifact import Manifest, artifact_dir, read_manifest
from webapp.engine.loader import check_instruction
from webapp.engine.prepare.calibration import DEFAULT_FILE, Examples, read_examples
from webapp.engine.prepare.progress import Report, Stages
from webapp.engine.prepare.resolve import Source, local_directory, resolve
from webapp.engine.runtimes import candidates

STAGES = 6
"""Finding, loading, comparing how texts are read, converting, judging, measuring; `build` reports the last four."""

FULL_DISK_BYTES = 16 * 1024 * 1024
"""With less a file of a model can't be written."""


def prepare(
    settings: Settings,
    report: Report,
    *,
    again: bool = False,
    compare: bool = False,
    calibration_data: Path = DEFAULT_FILE,
    terminal: TextIO | None = None,
) -> Manifest | None:
    """Make the artifact for these settings, unless it exists.

    Args:
        settings: which model, engine and precision.
        report: takes the progress, a line at a time.
        again: prepare even if there is an artifact, for example after the hub came back.
        compare: build every engine and precision that passes the gate, and take the fastest; prepares again.
        calibration_data: JSONL of {"query", "documents"}, to quantize with and to judge by.
        terminal: where to draw bars; None draws none.

    Returns:
        The artifact's manifest; None for the stub engine, which needs none.

    Raises:
        SetupError: it can't be made, its scores differ too much from the original's, or the instruction of the settings
            does not fit it.
    """
    if settings.engine == "stub":
        return None
    directory = artifact_dir(settings)
    with _exclusive(settings.models_dir, report):
        present = None if again or compare else read_manifest(directory)
        if present is not None:
            check_instruction(directory, present, settings)
            return present
        if find_spec("sentence_transformers") is None:  # before a model is fetched in vain
            raise _missing("sentence-transformers")
        local_directory(settings)  # raises before any stage is reported
        began = time.monotonic()
        stages = Stages(STAGES, report, terminal)
        with stages.stage(1, f"finding {settings.model}"):
            examples = read_examples(calibration_data)
            source = resolve(settings, stages.report)
        staging = directory.with_name(f".{directory.name}.{os.getpid()}")
        try:
            staging.mkdir()
            built, manifest = _build(settings, source, examples, staging, stages, compare=compare)
            _publish(built, directory)
        except SetupError:
            raise
        except EngineLostError as error:
            raise SetupError(f"{error}; set RERANK_ENGINE to native, which computes on the processor") from error
        except Exception as error:
            raise SetupError(_reason(error, source, settings.models_dir)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        report(_summary(manifest, directory, time.monotonic() - began))
        check_instruction(directory, manifest, settings)
    return manifest


def _build(
    settings: Settings, source: Source, examples: Examples, staging: Path, stages: Stages, *, compare: bool
) -> tuple[Path, Manifest]:
    """Return an artifact for these settings, its directory below `staging` and its manifest."""
    with stages.stage(2, f"loading {source.model} with sentence-transformers"):
        try:
            return_freed_blocks()  # else glibc keeps what one stage freed while the next one takes its own
            _quiet_libraries()
            from webapp.engine.prepare.build import Builder, load_original
            from webapp.engine.runtimes.gpu.card import reference_device
        except ImportError as error:
            raise _missing(error.name) from error
        original = load_original(settings, source, stages.report)
    builder = Builder(original, settings, source, examples, staging, stages, reference_device(settings.engine))
    tried = candidates(settings, stages.report, original.parameters)
    return builder.build_fastest(tried) if compare else builder.build_first(tried)


def _reason(error: Exception, source: Source, models_dir: Path) -> str:
    """Return why a model can't be prepared. A library that can't write a file may say anything."""
    failed = f"{source.model} can't be prepared"
    if isinstance(error, MemoryError):
        return f"{failed}: there is not enough memory; prepare it on a machine with more"
    number = getattr(error, "errno", None)
    if number == errno.ENOSPC or shutil.disk_usage(models_dir).free < FULL_DISK_BYTES:
        return f"{failed}: the disk of {models_dir} is full; make room there, and run it again"
    if number is not None and isinstance(error, OSError) and error.filename:
        return f"{failed}: {error.filename}: {error.strerror}"
    return f"{failed} ({reason_of(error)}); RERANK_LOG_LEVEL=debug shows where"


def _summary(manifest: Manifest, directory: Path, took_s: float) -> str:
    figures, tuning = manifest.fidelity, manifest.tuning
    threads = f"{tuning.engine_threads} engine threads" if tuning.engine_threads else "an engine thread for each core"
    megabytes = sum(path.stat().st_size for path in directory.iterdir()) / 1e6
    return (
        f"{manifest.model} is prepared for {manifest.engine} in {manifest.precision}, {took_s:.0f} s;"
        f" scores differ from sentence-transformers' by at most {figures['max_score_error']:.1g}, on average"
        f" {figures['mean_score_error']:.1g};"
        f" Kendall tau {figures['kendall_tau']:.3f}, top-10 overlap {figures['top10_overlap']:.3f};"
        f" batches of {tuning.batch_tokens} tokens, {threads};"
        f" {megabytes:,.0f} MB in {directory}"
    )


def _missing(name: str | None) -> SetupError:
    return SetupError(
        f"preparing a model needs {name}, which is not here; run: pip install 'reranking[torch]'"
        " (docs/install.md#a-wheel), or prepare elsewhere and copy models/ of the state directory"
    )


def _publish(staging: Path, directory: Path) -> None:
    """Rename the artifact, so that serving sees all of it or nothing; its files reach the disk first."""
    for path in (*staging.iterdir(), staging):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():  # a directory can't be renamed over another; running workers keep the files they mapped
        directory.rename(old)
    staging.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _exclusive(models_dir: Path, report: Report) -> Iterator[None]:
    """Hold the lock that keeps two prepares apart; the kernel releases it when a process dies."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / ".lock").open("w") as file:
        if not lock(file):
            report("waiting for another prepare to end")
            lock(file, wait=True)
        # Left by a prepare that was killed; no other prepare writes now.
        for leftover in models_dir.glob(".*-*.[0-9]*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _quiet_libraries() -> None:
    """Turn off the libraries' progress bars and warnings."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore")
    for name in ("sentence_transformers", "transformers", "openvino"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
