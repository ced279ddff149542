"""From a source model to an artifact: build each candidate, judge it, measure it, keep the best."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from webapp.engine.artifact import FORMAT, GOLDEN, MANIFEST, PACKED_MODEL, Manifest, sha256_of
from webapp.engine.opening import open_engine
from webapp.engine.prepare import autotune, export, fidelity
from webapp.engine.prepare.calibration import Examples
from webapp.engine.prepare.candidates import Candidate
from webapp.engine.prepare.pack import pack
from webapp.engine.prepare.resolve import Say, Source
from webapp.engine.source_model import SourceModel
from webapp.engine.template import Template
from webapp.errors import SetupError
from webapp.settings import Settings
from webapp.types import Tuning

VERSIONS_OF = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")


class NotForThisModelError(SetupError):
    """An engine does not know the model's architecture."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A built directory that passed the gate."""

    directory: Path
    manifest: Manifest


def build_best(
    tried: Sequence[Candidate], *, settings: Settings, source: Source, examples: Examples, aside: Path, say: Say
) -> Artifact:
    """The first precision that passes the gate, by the fastest engine that has it.

    Args:
        tried: best precision first.
        settings: limits of the gate, and of the length.
        source: files of the original.
        examples: texts to calibrate with and to judge by.
        aside: an empty directory to build in.
        say: told what is going on.

    Raises:
        SetupError: sentence-transformers can't load the model, or nothing passes.
    """
    try:
        original = SourceModel(source.directory)
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"sentence-transformers can't load {source.directory}: {error}") from error
    if settings.max_length_tokens > original.max_length_tokens:
        asked, limit = settings.max_length_tokens, original.max_length_tokens
        say(f"RERANK_MAX_LENGTH_TOKENS is {asked}, but this model reads {limit}: texts are cut there")
    elif settings.max_length_tokens:
        original.max_length_tokens = settings.max_length_tokens
    passed: list[Artifact] = []
    reasons: list[str] = []
    for candidate in tried:
        if passed and candidate.precision != passed[0].manifest.precision:
            break
        directory = aside / str(candidate).replace(" ", "-")
        directory.mkdir()
        try:
            template = export.export_tokenizer(original, directory, original.max_length_tokens)
            manifest = _manifest(candidate, original, source, template)
            _export_model(manifest, original, examples, directory, say)
            manifest = _judged(
                manifest, original=original, examples=examples, directory=directory, settings=settings, say=say
            )
        except (NotForThisModelError, fidelity.GateError) as error:
            reasons.append(str(error))
            say(reasons[-1])
            continue
        tuning = autotune.tune(directory, manifest, examples.tuning)
        reasons.append(f"{candidate} passes the gate at {tuning.tokens_per_s:,.0f} tokens a second")
        say(reasons[-1])
        passed.append(Artifact(directory, msgspec.structs.replace(manifest, tuning=tuning)))
    if not passed:
        raise SetupError(f"{reasons[-1]}; try another RERANK_PRECISION, or RERANK_ENGINE=torch")
    best = max(passed, key=lambda artifact: artifact.manifest.tuning.tokens_per_s)
    _write_golden(best, original)
    return _finished(best, "; ".join(reasons))


def _export_model(manifest: Manifest, original: SourceModel, examples: Examples, directory: Path, say: Say) -> None:
    """Write the model in the form and precision that the manifest names."""
    if manifest.engine == "native":
        say("packing it for the native engine")
        if not pack(original, directory / PACKED_MODEL):
            raise NotForThisModelError("the native engine does not know this architecture")
    elif manifest.engine == "openvino":
        converted = directory.with_name("converted")
        if not converted.exists():
            say("converting it to OpenVINO")
            converted.mkdir()
            export.export_openvino(original, converted)
        shutil.copytree(converted, directory, dirs_exist_ok=True)
        if manifest.precision == "int8":
            from webapp.engine.prepare.quantise import quantise

            say(f"quantising it to int8 with {len(examples.calibration)} pairs")
            quantise(open_engine(directory, manifest), examples.calibration, directory)


def _judged(
    manifest: Manifest, *, original: SourceModel, examples: Examples, directory: Path, settings: Settings, say: Say
) -> Manifest:
    """The manifest with the figures of the gate.

    Raises:
        GateError: it does not pass.
    """
    say(f"comparing its {manifest.precision} scores with sentence-transformers' own")
    engine = open_engine(directory, manifest)
    engine.start(1)
    figures = fidelity.measure(engine, original, examples.judged)
    fidelity.accept(figures, Candidate(manifest.engine, manifest.precision), settings)
    return msgspec.structs.replace(manifest, fidelity=figures)


def _write_golden(artifact: Artifact, original: SourceModel) -> None:
    """What the artifact has to score as long as it serves, for those who check it again."""
    found = fidelity.golden(original, artifact.manifest.fidelity)
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
