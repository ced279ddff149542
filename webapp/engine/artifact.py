"""A prepared model on disk: where it lies, its files and whether they are whole, and what engines it was compared with.

`webapp.stack.releases.comparison` compares them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from webapp.config.cards import usable
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.types import ModelInfo, ScoreScale, Tuning
from webapp.engine.recipes import Recipe

FORMAT = 9
"""Increased when artifacts of older releases must be prepared again."""

NAMED_VARIABLE = "STACK_ARTIFACT"
"""Environment variable: the artifact that the release of a stack's programs names."""

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MODEL = "model.xml"
GOLDEN = "golden.json"
PACKED_MODEL = "model.safetensors"
VERDICT = "compared.json"

EngineName = Literal["native", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


class Template(msgspec.Struct, frozen=True):
    """How a tokenizer frames its input: `prefix query middle document suffix`, or without query and middle.

    A decoder may have the document first. It is read off the tokenizer once (`prepare.export`), so that a query is
    encoded once a request, apart from the documents.
    """

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    document_type: int
    """Token type of the document and the suffix; the query's is 0."""
    pad_id: int
    max_length_tokens: int
    truncation_side: Literal["left", "right"] = "right"
    """Which end of a long text is cut off."""
    names_are_text: bool = False
    """Whether the name of a special token in a query or a document is text like any other."""

    @property
    def special_tokens(self) -> int:
        """Tokens that frame the texts."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @property
    def room_tokens(self) -> int:
        """Tokens left for texts."""
        return self.max_length_tokens - self.special_tokens


class Tables(msgspec.Struct, frozen=True):
    """Rows of a model's embedding tables for token ids, positions and token types; None: it has no such table."""

    vocabulary: int | None
    positions: int | None
    types: int | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of an artifact's manifest.json."""

    format: int
    model: str
    revision: str
    kind: Literal["cross-encoder", "embedding"]
    engine: EngineName
    precision: Precision
    score_scale: ScoreScale
    template: Template
    tables: Tables
    recipe: Recipe | None
    """A decoder's words and score rule; None: query and document are read as they are."""
    prompts: tuple[str, str]
    """What a bi-encoder puts before a query and before a document."""
    pools_prompts: bool
    """Whether the prompts' tokens count in a bi-encoder's vectors."""
    activation: str
    """What the model itself puts its logits through. Scores don't depend on it."""
    fingerprint: str
    """Hash of all that scores depend on: the original's files, and what was read off them."""
    unit_vectors: bool
    """Whether a bi-encoder's vectors are normalized to length 1 before they are compared."""
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
    card_bytes: int = 0
    """Memory of a card that a worker takes, as measured; 0: no card computes."""

    @property
    def max_length_tokens(self) -> int:
        """Longest input, special tokens counted."""
        return self.template.max_length_tokens

    @property
    def temperature(self) -> float:
        """What a logit is divided by before it becomes a score in 0..1."""
        return self.recipe.score.temperature if self.recipe else 1.0

    @property
    def instruction(self) -> str | None:
        """The instruction where a request has none, empty: none; None: the model takes none."""
        return self.recipe.instruction if self.recipe and self.recipe.takes_instructions else None

    def info(self) -> ModelInfo:
        """Return the part that clients may see."""
        return msgspec.convert(self, ModelInfo, from_attributes=True)


class GoldenQuery(msgspec.Struct, frozen=True):
    """A query, documents, and the scores that sentence-transformers gives them."""

    query: str
    documents: list[str]
    scores: list[float]
    """In the documents' order."""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of golden.json: texts with the original model's scores, asked again before a release serves."""

    raw: bool
    """Whether scores are the model's own numbers; else they are 0..1."""
    tolerance: float
    """Largest difference of a served score: what `prepare` measured, and a little for other batches."""
    queries: list[GoldenQuery]
    instruction: str = ""
    """With which they were scored, whatever the default; empty: the model takes none."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of compared.json: what the comparison of engines found for an artifact, once a machine."""

    summary: str = msgspec.field(name="said")
    """In words, for `/info`, `reranking status` and the log."""
    machine: str
    """Where the engines were compared; see `machine`."""
    faster: str = ""
    """Name of the artifact that was found faster; empty: none was."""
    settled: bool = True
    """False until all were compared, and the release of the faster artifact serves or was refused."""
    findings: dict[str, str] = {}
    """Engine and precision -> what was found, in words: they are not built again where a comparison was stopped."""


def directory_of(model: str) -> Path | None:
    """Return the local directory that a model's name means; None if there is none."""
    try:
        directory = Path(model).expanduser()
        return directory.absolute() if directory.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, not to be read, a home of nobody, a NUL
        return None


def artifact_dir(settings: Settings) -> Path:
    """Return where the artifact for these settings lies, prepared or not.

    It is the one that the comparison of engines found faster, if a release was made of it and it is still there.
    """
    first = first_artifact_dir(settings)
    if settings.faster_artifact:
        found = read_verdict(first)
        faster = settings.models_dir / settings.faster_artifact
        if found is not None and found.faster == settings.faster_artifact and (faster / MANIFEST).is_file():
            return faster
    return first


def first_artifact_dir(settings: Settings) -> Path:
    """Return where the artifact lies that `prepare` makes for these settings.

    The name holds a hash of all settings that matter, so that another choice is another artifact, and of whether a card
    can compute: what is made for one is of no use without. A local model's files
    and a recipe's count by size and time: a model that is retrained in place is prepared again.
    """
    asked = [
        str(FORMAT),
        settings.model,
        str(settings.model_is_default),
        settings.engine,
        settings.precision,
        str(settings.max_length_tokens),
        settings.recipe,
        # Another gate may choose another precision.
        *(str(value) for name, value in sorted(settings) if name.startswith("gate_")),
    ]
    if settings.engine in ("auto", "torch") and usable():
        asked.append("card")
    local = directory_of(settings.model)
    files = [] if local is None else [(path, path.relative_to(local)) for path in sorted(local.rglob("*"))]
    if settings.recipe:
        files.append((Path(settings.recipe).expanduser(), Path(settings.recipe)))
    for path, name in files:
        if path.is_file():
            stat = path.stat()
            asked.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    key = hashlib.blake2b("\0".join(asked).encode(), digest_size=6).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", settings.model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[:60]
    return settings.models_dir / f"{slug}-{key}"


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of an artifact and check its files; None if there is no artifact.

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


def read_served(directory: Path, settings: Settings) -> Manifest | None:
    """Return the manifest of an artifact as `with_instruction` does; None if there is no artifact.

    Raises:
        SetupError: the artifact is damaged, or its model takes no instruction.
    """
    manifest = read_manifest(directory)
    return manifest and with_instruction(manifest, settings)


def with_instruction(manifest: Manifest, settings: Settings) -> Manifest:
    """Return a manifest with the default instruction of the settings, if they have one.

    Raises:
        SetupError: the model takes none.
    """
    if not settings.instruction.strip():
        return manifest
    if manifest.recipe is None or manifest.instruction is None:
        raise SetupError(f"RERANK_INSTRUCTION: {manifest.model} takes no instruction; leave it empty")
    recipe = msgspec.structs.replace(manifest.recipe, instruction=settings.instruction)
    return msgspec.structs.replace(manifest, recipe=recipe)


def read_golden(directory: Path) -> Golden:
    """Return the golden pairs of an artifact.

    Raises:
        SetupError: they are missing or damaged.
    """
    try:
        return msgspec.json.decode((directory / GOLDEN).read_bytes(), type=Golden)
    except (OSError, ValueError) as error:
        raise damaged(directory / GOLDEN, error) from error


def read_verdict(directory: Path) -> Verdict | None:
    """Return the verdict on an artifact; None if none was made on this machine."""
    try:
        found = msgspec.json.decode((directory / VERDICT).read_bytes(), type=Verdict)
    except (OSError, ValueError):
        return None
    return found if found.machine == machine() else None


def comparison_is_due(settings: Settings) -> bool:
    """Return whether an artifact serves that was chosen without a comparison of engines, and one can be made here."""
    verdict = read_verdict(first_artifact_dir(settings))
    settled = verdict is not None and (verdict.settled or verdict.faster == settings.faster_artifact != "")
    return _may_choose(settings) and not settled and _can_prepare(settings) and not _is_on_card(settings)


def comparison_summary(settings: Settings) -> str:
    """Return what is known of the other engines, in words; empty if the settings name the engine or the precision."""
    if not _may_choose(settings):
        return ""
    if verdict := read_verdict(first_artifact_dir(settings)):
        return verdict.summary
    if _is_on_card(settings):
        return "no other engine was compared: a card computes"
    if _can_prepare(settings):
        return "other engines are still to be compared, while the service is idle"
    return "other engines were not compared: no model can be prepared here"


def _may_choose(settings: Settings) -> bool:
    return not settings.model_fields_set & {"engine", "precision"}


def _is_on_card(settings: Settings) -> bool:
    """Return whether a card computes, beside which no processor is worth a comparison."""
    try:
        contents = (artifact_dir(settings) / MANIFEST).read_bytes()
        return msgspec.json.decode(contents, type=_Engine).engine == "torch"
    except (OSError, ValueError):
        return False


class _Engine(msgspec.Struct):
    """A manifest, read for its engine alone."""

    engine: EngineName


def _can_prepare(settings: Settings) -> bool:
    """Return whether torch is installed and models can be written; neither is true in an image."""
    directory = first_artifact_dir(settings)
    return (
        find_spec("sentence_transformers") is not None
        and (directory / MANIFEST).is_file()
        and os.access(directory, os.W_OK)
        and os.access(settings.models_dir, os.W_OK)
    )


def write_json(path: Path, contents: msgspec.Struct) -> None:
    """Replace a file of an artifact by these contents, in one step."""
    staged = path.with_name(f"{path.name}.new")
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(contents)))
    staged.replace(path)


@functools.cache
def machine() -> str:
    """Return what tells machines apart: the names and instructions of their processors, and the cores we may use."""
    which = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(which)}
    digest = hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=6).hexdigest()
    return f"{digest} x{len(os.sched_getaffinity(0))}"


def damaged(path: Path, why: object) -> SetupError:
    """Return the error to raise for a damaged file of an artifact: one line, with the remedy."""
    first_line = next(iter(str(why).splitlines()), type(why).__name__)
    return SetupError(f"{path} is damaged ({first_line}); remove {path.parent} and prepare again")


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
