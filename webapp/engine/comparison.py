"""Whether the engines for a model are still to be compared, and what was found. `releases.comparison` does it."""

from __future__ import annotations

import os
from importlib.util import find_spec

from webapp.config.settings import Settings
from webapp.engine.artifact import MANIFEST, first_artifact_dir, read_verdict


def is_due(settings: Settings) -> bool:
    """Return whether an artifact serves that was chosen without a comparison, and one can be made here."""
    return _may_choose(settings) and not _is_settled(settings) and _can_prepare(settings)


def summary(settings: Settings) -> str:
    """Return what is known of the other engines, in words; empty if the settings name the engine or the precision."""
    if not _may_choose(settings):
        return ""
    verdict = read_verdict(first_artifact_dir(settings))
    if verdict is not None:
        return verdict.summary
    if _can_prepare(settings):
        return "other engines are still to be compared, while the service is idle"
    return "other engines were not compared: no model can be prepared here"


def _may_choose(settings: Settings) -> bool:
    return not settings.model_fields_set & {"engine", "precision"}


def _is_settled(settings: Settings) -> bool:
    verdict = read_verdict(first_artifact_dir(settings))
    return verdict is not None and (verdict.settled or verdict.faster == settings.faster_artifact != "")


def _can_prepare(settings: Settings) -> bool:
    """Return whether torch is installed and models can be written; neither is true in an image."""
    directory = first_artifact_dir(settings)
    return (
        find_spec("sentence_transformers") is not None
        and (directory / MANIFEST).is_file()
        and os.access(directory, os.W_OK)
        and os.access(settings.models_dir, os.W_OK)
    )
