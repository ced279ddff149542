"""Whether the engines for a model are still to be compared, and what was found. `releases.comparison` does it."""

from __future__ import annotations

import os
from importlib.util import find_spec

from webapp.config.settings import Settings
from webapp.engine import verdict
from webapp.engine.artifact import MANIFEST, first_artifact_dir


def is_due(settings: Settings) -> bool:
    """Whether an artifact serves that was chosen without a comparison, and one can be made here."""
    return _is_left_to_us(settings) and not _is_settled(settings) and _can_prepare(settings)


def said(settings: Settings) -> str:
    """What is known of the other engines, in words; empty where the settings name the engine or the precision."""
    if not _is_left_to_us(settings):
        return ""
    found = verdict.read(first_artifact_dir(settings))
    if found is not None:
        return found.said
    if _can_prepare(settings):
        return "other engines are still to be compared, while the service is idle"
    return "other engines were not compared: no model can be prepared here"


def _is_left_to_us(settings: Settings) -> bool:
    return not settings.model_fields_set & {"engine", "precision"}


def _is_settled(settings: Settings) -> bool:
    found = verdict.read(first_artifact_dir(settings))
    return found is not None and (found.settled or found.faster == settings.faster_artifact != "")


def _can_prepare(settings: Settings) -> bool:
    """Whether torch is installed, and models can be written; both are not so in an image."""
    directory = first_artifact_dir(settings)
    return (
        find_spec("sentence_transformers") is not None
        and (directory / MANIFEST).is_file()
        and os.access(directory, os.W_OK)
        and os.access(settings.models_dir, os.W_OK)
    )
