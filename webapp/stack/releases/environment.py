"""What a color runs: its release's interpreter and code, and the release's settings over the environment's.

supervisor runs the stack's own gunicorn, which becomes the gunicorn of the color's release. A release remembers the
interpreter and the folder that it was deployed from, so two versions of the code may lie side by side, and a rollback
brings the older one back. Settings are changed in the environment only, so all readers agree.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.config.paths import ROOT
from webapp.domain.errors import SetupError
from webapp.stack.releases import state
from webapp.stack.releases.state import Release

if TYPE_CHECKING:
    from webapp.config.settings import Settings

_DONE = "STACK_LAUNCHED"
"""Process id of a program that `run_as_release` has started; exec keeps the id."""

_hidden: dict[str, str | None] = {}
"""Variables that this process' release replaced, with their old values; None: the variable was not set."""


def become_release() -> None:
    """Replace this process by the gunicorn of its color's release, where that is another one. For gunicorn_config.py.

    Do nothing where no stack runs. The caller has imported nothing large yet, so this module must not do so either.

    Raises:
        SystemExit: the color has nothing to serve, or the release can't be run; one line says why.
    """
    if "STACK_ROOT" not in os.environ or os.environ.get(_DONE) == str(os.getpid()):
        return
    color = os.environ["RERANK_COLOR"]
    try:
        colors = state.read(Path(os.environ["RERANK_STATE_DIR"]))
    except SetupError as error:
        raise SystemExit(f"reranking: {error}") from None
    release = colors.serves.get(color) if colors else None
    if release is None:
        raise SystemExit(f"reranking: {color} serves nothing yet; run: reranking deploy")
    run_as_release(release, lambda python, root: [python, "-m", "gunicorn", "-c", f"{root}/gunicorn_config.py"])


def run_as_release(release: Release, command_of: Callable[[str, str], list[str]]) -> None:
    """Replace this process by a release's, where its interpreter or code is another one.

    Args:
        release: whose.
        command_of: returns the command for an interpreter and a folder of code.

    Raises:
        SystemExit: it can't be run; one line says why.
    """
    # A comparison may be run by hand, without the stack's variables.
    own_python, own_root = os.environ.get("STACK_PYTHON", sys.executable), os.environ.get("STACK_ROOT", str(ROOT))
    python, root = release.python or own_python, release.root or own_root
    if (python, root) == (own_python, own_root) or os.environ.get(_DONE) == str(os.getpid()):
        return
    older = Path(root, "webapp", "releases").is_dir() or Path(root).name == "packed"  # its clone, or its wheel
    if older and "RERANK_COLOR" in os.environ:
        os.environ["RERANK_COLOUR"] = os.environ.pop("RERANK_COLOR")  # it refuses the new name
    try:
        if root != own_root:
            os.chdir(root)  # Python puts the current folder before the interpreter's own packages
        os.environ[_DONE] = str(os.getpid())
        os.execv(python, command_of(python, root))  # noqa: S606 # nosec B606
    except OSError as error:
        raise SystemExit(f"reranking: {python} in {root} can't be run ({error.strerror}); deploy again") from None


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables for the length of a `with` block."""
    hidden = _set(values)
    try:
        yield
    finally:
        _restore(hidden)


def settings_with(values: Mapping[str, str]) -> Settings:
    """Return the settings that a process with these variables would read.

    Raises:
        SetupError: a value is wrong.
    """
    with environment(values):
        return _load_settings()


def load_release(serving: Settings | None = None) -> Settings:
    """Return the settings of this process' color, and make them its environment. For gunicorn_config.py.

    Without RERANK_COLOR or without a stack, these are the environment's settings.

    Args:
        serving: the settings in use. They stay unless the color has another release that can be read.

    Raises:
        SetupError: a value is wrong, or the state can't be read; never raised with `serving`.
    """
    from webapp.engine.artifact import NAMED_VARIABLE  # noqa: PLC0415 - it would delay `become_release`

    try:
        settings = serving or _load_settings()
        colors = state.read(settings.state_dir) if settings.color else None
        release = colors.serves.get(settings.color) if colors else None
        if serving is not None and (release is None or release.number == serving.release):
            return serving
        _restore(_hidden)
        _hidden.clear()
        if release is not None:
            its_own = {"RERANK_RELEASE": str(release.number), NAMED_VARIABLE: release.artifact}
            _hidden.update(_set({**release.settings, **its_own}))
        return _load_settings()
    except SetupError:
        if serving is None:
            raise
        logging.getLogger(__name__).exception("the new settings can't be read; the old ones stay")
        return serving


def _load_settings() -> Settings:
    from webapp.config.settings import load_settings  # noqa: PLC0415 - pydantic would delay `become_release`

    return load_settings()


def _set(values: Mapping[str, str]) -> dict[str, str | None]:
    hidden = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    return hidden


def _restore(hidden: Mapping[str, str | None]) -> None:
    for name, value in hidden.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
