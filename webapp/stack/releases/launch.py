"""How a color starts: supervisor runs the stack's own gunicorn, which becomes that of the release that it serves.

A release remembers which interpreter and which folder it was deployed from, so two versions of the code may lie side by
side, and a rollback brings the older one back.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from webapp.domain.errors import SetupError
from webapp.stack.releases import state

_DONE = "STACK_LAUNCHED"
"""Process id of the gunicorn that is the release's already."""


def become_the_release() -> None:
    """Exec the release's gunicorn, where that is another one; nothing without a stack. For gunicorn_config.py.

    Raises:
        SystemExit: there is nothing to serve; one line says why.
    """
    if "STACK_ROOT" not in os.environ or os.environ.get(_DONE) == str(os.getpid()):
        return
    state_dir, color = Path(os.environ["RERANK_STATE_DIR"]), os.environ["RERANK_COLOR"]
    try:
        colors = state.read(state_dir)
        if colors and _started_by_mistake(colors, color, state_dir):
            raise SystemExit(0)
    except SetupError as error:
        raise SystemExit(f"reranking: {error}") from None
    release = colors.serves.get(color) if colors else None
    if release is None:
        raise SystemExit(f"reranking: {color} serves nothing yet; run: reranking deploy")
    own_python, own_root = os.environ["STACK_PYTHON"], os.environ["STACK_ROOT"]
    python, root = release.python or own_python, release.root or own_root
    if (python, root) == (own_python, own_root):
        return
    try:
        if root != own_root:
            os.chdir(root)  # gunicorn puts the current folder before the interpreter's own packages
        os.environ[_DONE] = str(os.getpid())
        os.execv(python, [python, "-m", "gunicorn", "-c", f"{root}/gunicorn_config.py"])  # noqa: S606 # nosec B606
    except OSError as error:
        raise SystemExit(f"reranking: {python} in {root} can't be run ({error.strerror}); deploy again") from None


def _started_by_mistake(colors: state.Colors, color: str, state_dir: Path) -> bool:
    """`supervisorctl reload` starts what was active when the stack began. Then the active one is started instead."""
    wanted = {colors.active, colors.attempt.color if colors.attempt else colors.active}
    if color in wanted:
        return False
    from webapp.stack.supervisor.client import Programs, program_of  # noqa: PLC0415 - rare, and a start would wait

    programs = Programs(state_dir / "run")
    if programs.of(program_of(colors.active)).up:
        return False  # an operator's wish
    programs.start(program_of(colors.active))
    return True


if __name__ == "__main__":  # what a supervisord still runs that was started before gunicorn itself did the above
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", f"{os.environ['STACK_ROOT']}/gunicorn_config.py"]
    os.execv(sys.executable, gunicorn)  # noqa: S606 # nosec B606
