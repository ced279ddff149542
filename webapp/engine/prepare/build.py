"""From a source model to an artifact: build candidates one after the other until one passes the gate."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import io
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import msgspec

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.domain.types import Tuning
from webapp.engine.artifact import FORMAT, GOLDEN, MANIFEST, PACKED_MODEL, Manifest, sha256_of
from webapp.engine.models.source import SourceModel
from webapp.engine.opening import open_engine
from webapp.engine.prepare import autotune, export, fidelity
from webapp.engine.prepare.calibration import Examples
from webapp.engine.prepare.candidates import Candidate
from webapp.engine.prepare.pack import pack
from webapp.engine.prepare.progress import At, Stages
from webapp.engine.prepare.resolve import Say, Source
from webapp.engine.template import Template

CONVERTING, JUDGING, MEASURING = 3, 4, 5
"""Numbers of these stages, as they are told; after a candidate that is refused the next one begins with the first."""

VERSIONS_OF = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")


class NotForThisModelError(SetupError):
    """An engine does not know the model's architecture."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A built directory that passed the gate."""

    directory: Path
    manifest: Manifest


def load_original(settings: Settings, source: Source, say: Say) -> SourceModel:
    """The model as sentence-transformers has it, with the length that was chosen; `say` is told when it is less.

    Raises:
        SetupError: sentence-transformers can't load it.
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
        say(f"RERANK_MAX_LENGTH_TOKENS is {asked}, but this model reads {limit}: texts are cut there")
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
    aside: Path,
    stages: Stages,
) -> Artifact:
    """The first candidate that passes the gate.

    Args:
        tried: in the order in which they are to be tried.
        original: what they are made of.
        settings: limits of the gate.
        source: files of the original.
        examples: texts to calibrate with and to judge by.
        aside: an empty directory to build in.
        stages: told what is going on.

    Raises:
        SetupError: nothing passes.
    """
    scores = fidelity.Remembered(original)
    reasons: list[str] = []
    for candidate in tried:
        directory = aside / str(candidate).replace(" ", "-")
        directory.mkdir()
        try:
            template = export.export_tokenizer(original, directory, original.max_length_tokens)
            manifest = _manifest(candidate, original, source, template)
            with stages.stage(CONVERTING, _conversion(candidate)):
                _export_model(manifest, original, examples, directory)
            with stages.stage(JUDGING, f"comparing {candidate} scores with sentence-transformers' own") as at:
                figures = _judged(manifest, scores, examples, directory, at)
                fidelity.accept(figures, candidate, settings)
        except (NotForThisModelError, fidelity.GateError) as error:
            reasons.append(str(error))
            stages.say(reasons[-1])
            continue
        with stages.stage(MEASURING, f"measuring how fast {candidate} is"):
            tuning = autotune.tune(directory, manifest, examples.tuning)
        reasons.append(f"{candidate} passes the gate, at {tuning.tokens_per_s:,.0f} tokens a second")
        stages.say(reasons[-1])
        artifact = Artifact(directory, msgspec.structs.replace(manifest, fidelity=figures, tuning=tuning))
        _write_golden(artifact, scores)
        return _finished(artifact, "; ".join(reasons))
    raise SetupError(f"{reasons[-1]}; try another RERANK_PRECISION, or RERANK_ENGINE=torch")


def _conversion(candidate: Candidate) -> str:
    """What is done to the model, in words."""
    if candidate.engine == "torch":
        return "taking its files as they are"
    if candidate.engine == "native":
        return "packing it for the native engine"
    return "converting it to OpenVINO" + (" and quantising it to int8" if candidate.precision == "int8" else "")


def _export_model(manifest: Manifest, original: SourceModel, examples: Examples, directory: Path) -> None:
    """Write the model in the form and precision that the manifest names."""
    if manifest.engine == "native":
        frame = manifest.template
        if not (frame.prefix or frame.middle or frame.suffix):
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
            from webapp.engine.prepare.quantise import quantise

            with redirect_stdout(io.StringIO()):  # nncf draws bars of its own
                quantise(open_engine(directory, manifest), examples.calibration, directory)


def _judged(
    manifest: Manifest, scores: fidelity.Original, examples: Examples, directory: Path, at: At
) -> dict[str, float]:
    """The figures that the gate judges by."""
    engine = open_engine(directory, manifest)
    engine.start(1)
    return fidelity.measure(engine, scores, examples.judged, at)


def _write_golden(artifact: Artifact, scores: fidelity.Original) -> None:
    """What the artifact has to score as long as it serves, for those who check it again."""
    found = fidelity.golden(scores, artifact.manifest.fidelity)
    (artifact.directory / GOLDEN).write_bytes(msgspec.json.encode(found))


def _finished(artifact: Artifact, chosen_because: str) -> Artifact:
    """The artifact with its manifest written."""
    directory = artifact.directory
    files = {path.name: sha256_of(path) for path in sorted(directory.iterdir())}
    manifest = msgspec.structs.replace(artifact.manifest, chosen_because=chosen_because, files=files)
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return Artifact(directory, manifest)


def _manifest(candidate: Candidate, original: SourceModel, source: Source, template: Template) -> Manifest:
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
