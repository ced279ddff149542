"""Build artifacts of a model, one candidate after the other, until one passes the gate."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import io
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.domain.types import Tuning
from webapp.engine.artifact import FORMAT, GOLDEN, MANIFEST, PACKED_MODEL, Manifest, Template, sha256_of, write_json
from webapp.engine.loader import open_engine
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare import autotune, export, gate
from webapp.engine.prepare.calibration import Examples
from webapp.engine.prepare.candidates import Candidate
from webapp.engine.prepare.pack import pack
from webapp.engine.prepare.progress import Report, ReportShare, Stages
from webapp.engine.prepare.resolve import Source

CONVERTING, JUDGING, MEASURING = 3, 4, 5
"""Numbers of these stages in reports; after a refused candidate the next one begins with the first again."""

VERSIONS_OF = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")


class NotForThisModelError(SetupError):
    """An engine does not know the model's architecture."""


def load_original(settings: Settings, source: Source, report: Report) -> SourceModel:
    """Return the model as sentence-transformers loads it, cut to the length of the settings; report a shorter limit.

    Raises:
        SetupError: sentence-transformers can't load it, or a weight is not a number.
    """
    try:
        original = SourceModel(source.directory)
    except SetupError:
        raise
    except Exception as error:  # of safetensors, tokenizers, torch, ...: each has its own
        raise SetupError(f"sentence-transformers can't load {source.directory}: {reason_of(error)}") from error
    for name, weight in original.model.named_parameters():
        if not weight.isfinite().all():
            raise SetupError(f"{name} of {source.directory} holds NaN or infinity; name another RERANK_MODEL")
    if settings.max_length_tokens > original.max_length_tokens:
        asked, limit = settings.max_length_tokens, original.max_length_tokens
        report(f"RERANK_MAX_LENGTH_TOKENS is {asked}, but this model reads {limit}: texts are cut there")
    elif settings.max_length_tokens:
        original.max_length_tokens = settings.max_length_tokens
    return original


def build_first(
    tried: Sequence[Candidate],
    original: SourceModel,
    *,
    settings: Settings,
    source: Source,
    examples: Examples,
    staging: Path,
    stages: Stages,
) -> tuple[Path, Manifest]:
    """Return the directory and the manifest of the first candidate that passes the gate.

    Args:
        tried: in the order in which they are to be tried.
        original: the model to build them of.
        settings: limits of the gate.
        source: files of the original.
        examples: texts to calibrate with and to judge by.
        staging: an empty directory to build in.
        stages: reports the progress.

    Raises:
        SetupError: nothing passes.
    """
    cached = gate.CachedOriginal(original)
    reasons: list[str] = []
    for candidate in tried:
        directory = staging / str(candidate).replace(" ", "-")
        directory.mkdir()
        try:
            template = export.export_tokenizer(original, directory, original.max_length_tokens)
            manifest = _manifest(candidate, original, source, template)
            with stages.stage(CONVERTING, _conversion(candidate)):
                _export_model(manifest, original, examples, directory)
            with stages.stage(JUDGING, f"comparing {candidate} scores with sentence-transformers' own") as report_share:
                figures = _measure(manifest, cached, examples, directory, report_share)
                gate.accept(figures, candidate, settings)
        except (NotForThisModelError, gate.GateError) as error:
            reasons.append(str(error))
            stages.report(reasons[-1])
            continue
        with stages.stage(MEASURING, f"measuring how fast {candidate} is"):
            tuning = autotune.tune(directory, manifest, examples.tuning)
        reasons.append(f"{candidate} passes the gate, at {tuning.tokens_per_s:,.0f} tokens a second")
        stages.report(reasons[-1])
        (directory / GOLDEN).write_bytes(msgspec.json.encode(gate.golden(cached, figures)))
        manifest = msgspec.structs.replace(
            manifest,
            fidelity=figures,
            tuning=tuning,
            chosen_because="; ".join(reasons),
            files={path.name: sha256_of(path) for path in sorted(directory.iterdir())},
        )
        write_json(directory / MANIFEST, manifest)
        return directory, manifest
    raise SetupError(f"{reasons[-1]}; try another RERANK_PRECISION, or RERANK_ENGINE=torch")


def _conversion(candidate: Candidate) -> str:
    """Return what is done to the model, in words."""
    if candidate.engine == "torch":
        return "taking its files as they are"
    if candidate.engine == "native":
        return "packing it for the native engine"
    return "converting it to OpenVINO" + (" and quantizing it to int8" if candidate.precision == "int8" else "")


def _export_model(manifest: Manifest, original: SourceModel, examples: Examples, directory: Path) -> None:
    """Write the model in the form and precision that the manifest names."""
    if manifest.engine == "native":
        if not manifest.template.special_tokens:
            raise NotForThisModelError(
                "the native engine needs a tokenizer that adds special tokens: a row has one at least"
            )
        if not pack(original, directory / PACKED_MODEL):
            raise NotForThisModelError("the native engine does not know this architecture")
    elif manifest.engine == "openvino":
        converted = directory.with_name("converted")
        if not converted.exists():
            converted.mkdir()
            export.export_openvino(original, converted)
        shutil.copytree(converted, directory, dirs_exist_ok=True)
        if manifest.precision == "int8":
            with redirect_stdout(io.StringIO()):  # nncf draws bars of its own
                export.quantize(open_engine(directory, manifest), examples.calibration, directory)


def _measure(
    manifest: Manifest, cached: gate.CachedOriginal, examples: Examples, directory: Path, report_share: ReportShare
) -> dict[str, float]:
    """Return the figures for the gate. The engine is closed at the end: memory has room for one."""
    engine = open_engine(directory, manifest)
    engine.start(1)
    return gate.measure(engine, cached, examples.judged, report_share)


def _manifest(candidate: Candidate, original: SourceModel, source: Source, template: Template) -> Manifest:
    """Return the manifest of a candidate that is not judged yet."""
    return Manifest(
        format=FORMAT,
        model=source.model,
        revision=source.revision,
        kind=original.kind,
        engine=candidate.engine,
        precision=candidate.precision,
        score_scale=original.score_scale,
        template=template,
        tables=original.tables,
        prompts=original.prompts,
        unit_vectors=original.unit_vectors,
        source=str(source.directory),
        substitute_for=source.substitute_for,
        fidelity={},
        tuning=Tuning(),
        chosen_because="",
        files={},
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF},
        prepared_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
