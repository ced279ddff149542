"""Load an artifact into an engine: a runtime computes, a session of the model's kind makes scores of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.domain.types import Session
from webapp.engine.artifact import (
    FORMAT,
    MANIFEST,
    PACKED_MODEL,
    TOKENIZER,
    Manifest,
    artifact_dir,
    read_golden,
    read_served,
    with_instruction,
)
from webapp.engine.base import Engine, Forward, Runtime, score_pair
from webapp.engine.models.cross_encoder import CrossEncoderSession
from webapp.engine.models.decoder import DecoderSession, DecoderTexts
from webapp.engine.models.embedding import EmbeddingSession
from webapp.engine.runtimes import open_runtime
from webapp.engine.tokenizer import TextEncoder, check_tables

log = logging.getLogger(__name__)


FINGERPRINT_PAIRS = 3
"""Golden pairs whose logits are hashed at each start of a worker: more would hold up a big model."""

SESSIONS: dict[str, type[CrossEncoderSession | EmbeddingSession]] = {
    "cross-encoder": CrossEncoderSession,
    "embedding": EmbeddingSession,
}
"""Kind of model, as the manifest names it, to its session; with a recipe it is a decoder."""


class ModelEngine:
    """An artifact on a runtime; see `webapp.engine.base.Engine`."""

    def __init__(self, manifest: Manifest, runtime: Runtime, tokenizer_path: Path) -> None:
        """Read the tokenizer.

        Raises:
            SetupError: it is damaged, or the default instruction leaves no room for texts.
        """
        self.info = replace(manifest.info(), kernels=getattr(runtime, "kernels", ""))
        self._runtime = runtime
        self._directory = tokenizer_path.parent
        self.texts: TextEncoder
        self._open: Callable[[Forward], Session]
        if manifest.recipe is not None:
            self.texts = texts = DecoderTexts(tokenizer_path, manifest.template, manifest.recipe)
            texts.check_default()
            self._open = partial(DecoderSession, manifest, texts)
        else:
            session_class = SESSIONS[manifest.kind]
            self.texts = TextEncoder(
                tokenizer_path,
                manifest.template,
                query_takes_room=session_class.query_takes_room,
                prompts=manifest.prompts,
            )
            self._open = partial(session_class, manifest, self.texts)

    @property
    def padded(self) -> bool:
        """Whether the runtime computes each row of a batch to the longest one's end."""
        return self._runtime.padded

    @property
    def most_batches(self) -> int:
        """Batches that the runtime computes at once; 0: one in each engine thread."""
        return getattr(self._runtime, "most_batches", 0)

    def start(self, threads: int) -> None:
        """Compile the model for this process."""
        self._runtime.start(threads)

    def scores_fingerprint(self, session: Session) -> str:
        """Return a hash of the logits of the first golden query and a few documents; each pair is a batch of its own.

        Raises:
            SetupError: the golden pairs are damaged.
        """
        known = read_golden(self._directory)
        first = known.queries[0]
        texts = first.documents[:FINGERPRINT_PAIRS]
        logits = [score_pair(session, first.query, text, instruction=known.instruction) for text in texts]
        return hashlib.blake2b(np.array(logits, "<f4").tobytes(), digest_size=8).hexdigest()

    def open_session(self, forward: Forward | None = None) -> Session:
        """Return a session for the calling thread, on a forward pass of the runtime's or on the one that is given."""
        return self._open(forward or self._runtime.open())


def open_engine(directory: Path, manifest: Manifest) -> ModelEngine:
    """Return the engine of an artifact, read into memory but not compiled: safe before a fork.

    Raises:
        SetupError: a file of it is damaged, or the files do not belong together.
    """
    engine = ModelEngine(manifest, open_runtime(directory, manifest), directory / TOKENIZER)
    check_tables(manifest.tables, manifest.template, engine.texts.tokenizer)
    return engine


def check_instruction(directory: Path, manifest: Manifest, settings: Settings) -> None:
    """Check that the instruction of the settings fits the model of an artifact, without opening it.

    Raises:
        SetupError: the model takes none, or it leaves no room for texts.
    """
    if recipe := with_instruction(manifest, settings).recipe:
        DecoderTexts(directory / TOKENIZER, manifest.template, recipe).check_default()


def _is_self_contained(directory: Path) -> bool:
    """Return whether an artifact has this code's format and all that serves it; torch may read the original's files."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, ValueError, RecursionError):
        return False
    return manifest.format == FORMAT and (manifest.engine != "torch" or PACKED_MODEL in manifest.files)


def load_engine(settings: Settings, named: str = "") -> Engine:
    """Return the engine that the settings ask for.

    Args:
        settings: what to serve.
        named: artifact of the release that serves. It is kept even if the model's directory was written to since: a
            master that died comes back with what it served.

    Raises:
        SetupError: it was not prepared, its artifact is damaged, or the instruction of the settings does not fit it.
    """
    if settings.engine == "stub":
        from webapp.engine.runtimes.stub import StubEngine  # noqa: PLC0415

        return StubEngine()
    directory = artifact_dir(settings)
    if named not in {"", directory.name} and _is_self_contained(settings.models_dir / named):
        log.warning("the model's files have changed; %s still serves, and reranking deploy brings the new ones", named)
        directory = settings.models_dir / named
    manifest = read_served(directory, settings)
    if manifest is None:
        raise SetupError(f"{settings.model} is not prepared; run: reranking prepare")
    try:
        return open_engine(directory, manifest)
    except SetupError:
        raise
    except Exception as error:
        # The torch engine reads the model's own files, and OpenVINO and tokenizers have errors of their own.
        raise SetupError(
            f"{directory} can't be opened ({reason_of(error)}); prepare it again: reranking prepare --again"
        ) from error
