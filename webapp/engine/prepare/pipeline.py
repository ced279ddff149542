"""prepare: resolve, export, check, and only then put the artifact where serving looks for it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from webapp.config.lockfile import lock
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.engine.artifact import Manifest, artifact_dir, read_manifest
from webapp.engine.prepare.calibration import DEFAULT_FILE, Examples, read_examples
from webapp.engine.prepare.progress import Stages
from webapp.engine.prepare.resolve import Say, Source, local_directory, resolve

if TYPE_CHECKING:
    from webapp.engine.prepare.build import Artifact


STAGES = 5
"""Finding, loading, converting, judging, measuring; the last three are `build`'s."""


def prepare(
    settings: Settings,
    say: Say,
    *,
    again: bool = False,
    calibration_data: Path = DEFAULT_FILE,
    terminal: TextIO | None = None,
) -> Manifest | None:
    """Make the artifact for these settings, unless it is there.

    Args:
        settings: which model, engine and precision.
        say: told what is going on, a line at a time.
        again: prepare even if there is an artifact, as after the hub came back.
        calibration_data: JSONL of {"query", "documents"}, to quantise with and to judge by.
        terminal: where to draw bars; None draws none.

    Returns:
        The artifact's manifest; None for the stub engine, which needs none.

    Raises:
        SetupError: it can't be made, or its scores are not the original's.
    """
    if settings.engine == "stub":
        return None
    directory = artifact_dir(settings)
    with _one_at_a_time(settings.models_dir, say):
        present = None if again else read_manifest(directory)
        if present is not None:
            return present
        if find_spec("sentence_transformers") is None:  # told before a model is fetched in vain
            raise _lacks("sentence-transformers")
        local_directory(settings)  # a missing one is all that is told
        began = time.monotonic()
        stages = Stages(STAGES, say, terminal)
        with stages.stage(1, f"finding {settings.model}"):
            examples = read_examples(calibration_data)
            source = resolve(settings, stages.say)
        aside = directory.with_name(f".{directory.name}.{os.getpid()}")
        try:
            aside.mkdir()
            artifact = _build(settings, source, examples, aside, stages)
            _put_in_place(artifact.directory, directory)
        except (SetupError, OSError):
            raise
        except Exception as error:
            raise SetupError(
                f"{source.model} can't be prepared ({reason_of(error)}); RERANK_LOG_LEVEL=debug shows where"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        say(_summary(artifact.manifest, time.monotonic() - began))
    return artifact.manifest


def _build(settings: Settings, source: Source, examples: Examples, aside: Path, stages: Stages) -> Artifact:
    """An artifact for these settings, in a directory of its own below `aside`."""
    _quiet_libraries()
    with stages.stage(2, f"loading {source.model} with sentence-transformers"):
        try:
            from webapp.engine.prepare.build import build_first, load_original
        except ImportError as error:
            raise _lacks(error.name) from error
        original = load_original(settings, source, stages.say)
    from webapp.engine.prepare.candidates import candidates

    tried = candidates(settings, stages.say)
    return build_first(tried, original, settings=settings, source=source, examples=examples, aside=aside, stages=stages)


def _summary(manifest: Manifest, took_s: float) -> str:
    figures, tuning = manifest.fidelity, manifest.tuning
    return (
        f"{manifest.model} is prepared for {manifest.engine} in {manifest.precision}, {took_s:.0f} s;"
        f" scores differ from sentence-transformers' by at most {figures['max_score_error']:.1g}, on average"
        f" {figures['mean_score_error']:.1g};"
        f" Kendall tau {figures['kendall_tau']:.3f}, top-10 overlap {figures['top10_overlap']:.3f};"
        f" batches of {tuning.batch_tokens} tokens, {tuning.engine_threads} engine threads"
    )


def _lacks(name: str | None) -> SetupError:
    return SetupError(
        f"preparing a model needs {name}, which is not here; run: pip install 'reranking[torch]'"
        " (docs/install.md#a-wheel), or prepare elsewhere and copy models/ of the state directory"
    )


def _put_in_place(aside: Path, directory: Path) -> None:
    """Rename, so that serving sees the whole artifact or none. Files reach the disk before their name does."""
    for path in (*aside.iterdir(), aside):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if directory.exists():
        # A directory can't be renamed over another; running workers keep the files they mapped.
        old = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        aside.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(directory)


@contextmanager
def _one_at_a_time(models_dir: Path, say: Say) -> Iterator[None]:
    """Hold the lock that keeps two prepares apart; the kernel lets go of it when a process dies."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / ".lock").open("w") as file:
        if not lock(file):
            say("waiting for another prepare to end")
            lock(file, wait=True)
        # What a killed prepare left behind; nobody else is writing now.
        for leftover in models_dir.glob(".*-*.[0-9]*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _quiet_libraries() -> None:
    """No progress bars, no advice for developers: `say` tells what matters."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore")
    for name in ("sentence_transformers", "transformers", "openvino"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
