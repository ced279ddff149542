"""prepare: resolve, export, check, and only then put the artifact where serving looks for it."""

from __future__ import annotations

import datetime as dt
import fcntl
import importlib.metadata
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from webapp.engine.artifact import (
    FORMAT,
    MANIFEST,
    Manifest,
    Precision,
    artifact_dir,
    open_engine,
    read_manifest,
    sha256_of,
)
from webapp.engine.prepare.calibration import DEFAULT_FILE, Examples, read_examples
from webapp.engine.prepare.resolve import Say, Source, resolve
from webapp.errors import SetupError
from webapp.settings import Settings

VERSIONS_OF = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")


def prepare(
    settings: Settings, say: Say, *, again: bool = False, calibration_data: Path = DEFAULT_FILE
) -> Manifest | None:
    """Make the artifact for these settings, unless it is there.

    Args:
        settings: which model, engine and precision.
        say: told what is going on, a line at a time.
        again: prepare even if there is an artifact, as after the hub came back.
        calibration_data: JSONL of {"query", "documents"}, to quantise with and to judge by.

    Returns:
        The artifact's manifest; None for the stub engine, which needs none.

    Raises:
        SetupError: it can't be made, or its scores are not the original's.
    """
    if settings.engine == "stub":
        return None
    directory = artifact_dir(settings)
    with _one_at_a_time(settings.models_dir):
        present = None if again else read_manifest(directory)
        if present is not None:
            return present
        examples = read_examples(calibration_data)
        source = resolve(settings, say)
        aside = directory.with_name(f".{directory.name}.{os.getpid()}")
        try:
            aside.mkdir()
            built, manifest = _build(settings, source, examples, aside, say)
            _put_in_place(built, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _build(settings: Settings, source: Source, examples: Examples, aside: Path, say: Say) -> tuple[Path, Manifest]:
    """The first precision that passes the gate, in a directory of its own below `aside`."""
    say(f"loading {source.model} with sentence-transformers")
    _quiet_libraries()
    try:
        from webapp.engine.source_model import SourceModel
    except ImportError as error:
        raise SetupError(f"preparing a model needs {error.name}; run: pip install 'reranking[torch]'") from error
    from webapp.engine.prepare import export, fidelity

    began = time.monotonic()
    try:
        original = SourceModel(source.directory)
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"sentence-transformers can't load {source.directory}: {error}") from error
    if settings.max_length_tokens:
        original.max_length_tokens = min(settings.max_length_tokens, original.max_length_tokens)
    plain = aside / "plain"
    plain.mkdir()
    if settings.engine == "openvino":
        say("converting it to OpenVINO")
        export.export_openvino(original, plain)
    template = export.export_tokenizer(original, plain, original.max_length_tokens)
    manifest = Manifest(
        format=FORMAT,
        model=source.model,
        revision=source.revision,
        kind=original.kind,
        engine="torch" if settings.engine == "torch" else "openvino",
        precision="fp32",
        score_scale="sigmoid" if original.kind == "cross-encoder" else "cosine",
        template=template,
        prompts=original.prompts,
        source=str(source.directory),
        substitute_for=source.substitute_for,
        fidelity={},
        files={},
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF},
        prepared_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    candidates = _precisions(settings, say)
    for precision in candidates:
        manifest = msgspec.structs.replace(manifest, precision=precision)
        built = aside / precision
        shutil.copytree(plain, built)
        if precision == "int8":
            from webapp.engine.prepare.quantise import quantise

            say(f"quantising it to int8 with {len(examples.calibration)} pairs")
            quantise(open_engine(built, manifest), examples.calibration, built)
        say(f"comparing {precision} scores with sentence-transformers' own")
        engine = open_engine(built, manifest)
        engine.start(1)
        figures = fidelity.measure(engine, original, examples.judged)
        try:
            fidelity.accept(figures, precision, settings)
        except fidelity.GateError as error:
            if precision == candidates[-1]:
                raise SetupError(f"{error}; try another RERANK_PRECISION, or RERANK_ENGINE=torch") from error
            say(str(error))
            continue
        break
    files = {path.name: sha256_of(path) for path in sorted(built.iterdir())}
    manifest = msgspec.structs.replace(manifest, fidelity=figures, files=files)
    (built / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    say(
        f"{source.model} is prepared in {precision}, {time.monotonic() - began:.0f} s; scores differ from"
        f" sentence-transformers' by at most {figures['max_score_error']:.1g}, on average"
        f" {figures['mean_score_error']:.1g};"
        f" Kendall tau {figures['kendall_tau']:.3f}, top-10 overlap {figures['top10_overlap']:.3f}"
    )
    return built, manifest


def _precisions(settings: Settings, say: Say) -> list[Precision]:
    """What to try, best first; the last one must do."""
    if settings.engine == "torch":
        from webapp.engine.torch_engine import device

        if settings.precision == "int8":
            raise SetupError("RERANK_PRECISION: int8 is of the openvino engine; set RERANK_ENGINE=openvino")
        return [
            "bf16" if settings.precision == "bf16" or (settings.precision == "auto" and device() == "cuda") else "fp32"
        ]
    from webapp.engine.openvino_engine import has_bf16, has_fast_int8

    if settings.precision == "bf16" and not has_bf16():
        raise SetupError("RERANK_PRECISION: this processor has no bf16 instructions; set it to auto or fp32")
    if settings.precision != "auto":
        return [settings.precision]
    chosen: list[Precision] = ["fp32"]
    if has_bf16():
        chosen.insert(0, "bf16")
    if has_fast_int8():
        chosen.insert(0, "int8")
    else:
        say("int8 is not tried: this processor has no VNNI instructions, without which it is slower than fp32")
    return chosen


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
def _one_at_a_time(models_dir: Path) -> Iterator[None]:
    """Hold the lock that keeps two prepares apart; the kernel lets go of it when a process dies."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
