"""A release's settings over the environment's. Nothing but the environment is changed, so every reader agrees."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import NAMED_VARIABLE
from webapp.stack.releases import state
from webapp.stack.releases.state import Release

_hidden: dict[str, str | None] = {}
"""What this process' release hides of the environment; None: nothing was there."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables over the environment's, for a while."""
    hidden = _put(values)
    try:
        yield
    finally:
        _put_back(hidden)


def settings_with(values: Mapping[str, str]) -> Settings:
    """Settings as a process with these variables would read them.

    Raises:
        SetupError: a value is wrong.
    """
    with environment(values):
        return load_settings()


def load_release(serving: Settings | None = None) -> Settings:
    """Settings of the release that this process' color has; they become its environment. For gunicorn_config.py.

    Without RERANK_COLOR, or without a stack, these are the environment's.

    Args:
        serving: those that it serves by already. They stay unless its color has another release, which can be read.

    Raises:
        SetupError: a value is wrong, or the state can't be read; never where something is served.
    """
    try:
        release = _release_of(serving or load_settings())
        if serving is not None and (release is None or release.number == serving.release):
            return serving
        _put_back(_hidden)
        _hidden.clear()
        if release is not None:
            its_own = {"RERANK_RELEASE": str(release.number), NAMED_VARIABLE: release.artifact}
            _hidden.update(_put({**release.settings, **its_own}))
        return load_settings()
    except SetupError:
        if serving is None:
            raise
        logging.getLogger(__name__).exception("the new settings can't be read; the old ones stay")
        return serving


def _release_of(settings: Settings) -> Release | None:
    colors = state.read(settings.state_dir) if settings.color else None
    return colors.serves.get(settings.color) if colors else None


def _put(values: Mapping[str, str]) -> dict[str, str | None]:
    hidden = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    return hidden


def _put_back(hidden: Mapping[str, str | None]) -> None:
    for name, value in hidden.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
