"""A prepared model on disk: where it lies, what is in it, and whether it is whole."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

import msgspec

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.types import ModelInfo, ScoreScale, Tuning
from webapp.engine import verdict
from webapp.engine.tables import Tables
from webapp.engine.template import Template

FORMAT = 7
"""Raised when artifacts of older releases must be prepared again."""

NAMED_VARIABLE = "STACK_ARTIFACT"
"""A stack's programs find here which artifact their release names."""

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MODEL = "model.xml"
GOLDEN = "golden.json"
PACKED_MODEL = "model.safetensors"


EngineName = Literal["native", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "int8"]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact directory says of itself."""

    format: int
    model: str
    revision: str
    kind: Literal["cross-encoder", "embedding"]
    engine: EngineName
    precision: Precision
    score_scale: ScoreScale
    template: Template
    tables: Tables
    prompts: tuple[str, str]
    unit_vectors: bool
    """Whether a bi-encoder's vectors are brought to length 1 before they are compared."""
    source: str
    """Directory of the original model, for the torch engine."""
    substitute_for: str | None
    fidelity: dict[str, float]
    """How the artifact's scores differ from sentence-transformers' own."""
    tuning: Tuning
    chosen_because: str
    files: dict[str, str]
    """File name -> sha256."""
    versions: dict[str, str]
    prepared_at: str

    def info(self) -> ModelInfo:
        """The part that clients may see."""
        return ModelInfo(
            model=self.model,
            revision=self.revision,
            kind=self.kind,
            engine=self.engine,
            precision=self.precision,
            max_length_tokens=self.template.max_length_tokens,
            score_scale=self.score_scale,
            substitute_for=self.substitute_for,
            fidelity=self.fidelity,
            tuning=self.tuning,
            chosen_because=self.chosen_because,
        )


def directory_of(model: str) -> Path | None:
    """Return the local directory that is meant by a model's name; None where there is none."""
    try:
        directory = Path(model).expanduser()
        return directory.absolute() if directory.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, not to be read, a home of nobody, a NUL
        return None


def artifact_dir(settings: Settings) -> Path:
    """Where the artifact for these settings lies, prepared or not.

    It is the one that the comparison of engines found faster, where a release was made of it and it is still there.
    """
    first = first_artifact_dir(settings)
    if settings.faster_artifact:
        found = verdict.read(first)
        faster = settings.models_dir / settings.faster_artifact
        if found is not None and found.faster == settings.faster_artifact and (faster / MANIFEST).is_file():
            return faster
    return first


def first_artifact_dir(settings: Settings) -> Path:
    """Where the artifact lies that `prepare` makes for these settings.

    The name holds everything that was asked for, so that another choice is another artifact. A local model's files
    count by size and time: retrained in place, it is prepared again.
    """
    asked = [
        str(FORMAT),
        settings.model,
        str(settings.model_is_default),
        settings.engine,
        settings.precision,
        str(settings.max_length_tokens),
        # Another gate may choose another precision.
        *(str(value) for name, value in sorted(settings) if name.startswith("gate_")),
    ]
    local = directory_of(settings.model)
    if local is not None:
        for path in sorted(local.rglob("*")):
            if path.is_file():
                stat = path.stat()
                asked.append(f"{path.relative_to(local)} {stat.st_size} {stat.st_mtime_ns}")
    key = hashlib.blake2b("\0".join(asked).encode(), digest_size=6).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", settings.model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[:60]
    return settings.models_dir / f"{slug}-{key}"


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a whole artifact; None when there is none to serve.

    Raises:
        SetupError: the artifact is there but damaged.
    """
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:  # not JSON, not ours, or not UTF-8
        raise damaged(directory / MANIFEST, error) from error
    for name, sha256 in manifest.files.items():
        path = directory / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise SetupError(f"{path} does not match its manifest; remove {directory} and prepare again")
    return manifest


def damaged(path: Path, why: object) -> SetupError:
    """Return what to raise for a file of an artifact that can't be what `prepare` wrote: one line, with the remedy."""
    first_line = next(iter(str(why).splitlines()), type(why).__name__)
    return SetupError(f"{path} is damaged ({first_line}); remove {path.parent} and prepare again")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
