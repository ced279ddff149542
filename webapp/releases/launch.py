"""What supervisor runs for a colour: becomes the gunicorn of the release that this colour serves.

A release remembers which interpreter and which folder it was deployed from, so two versions of the code may lie side by
side, and a rollback brings the older one back.
"""

from __future__ import annotations

import os
from pathlib import Path

from webapp.errors import SetupError
from webapp.releases import state


def main() -> None:
    """Exec gunicorn; exits 1 with one line when that can't be."""
    state_dir, colour = Path(os.environ["RERANK_STATE_DIR"]), os.environ["RERANK_COLOUR"]
    try:
        colours = state.read(state_dir)
        if colours and _started_by_mistake(colours, colour, state_dir):
            return
    except SetupError as error:
        raise SystemExit(f"reranking: {error}") from None
    release = colours.serves.get(colour) if colours else None
    if release is None:
        raise SystemExit(f"reranking: {colour} serves nothing yet; run: reranking deploy")
    own_root = os.environ["STACK_ROOT"]
    python, root = release.python or os.environ["STACK_PYTHON"], release.root or own_root
    try:
        if root != own_root:
            os.chdir(root)  # gunicorn puts the current folder before the interpreter's own packages
        os.execv(python, [python, "-m", "gunicorn", "-c", f"{root}/gunicorn_config.py"])  # noqa: S606 # nosec B606
    except OSError as error:
        raise SystemExit(f"reranking: {python} in {root} can't be run ({error.strerror}); deploy again") from None


def _started_by_mistake(colours: state.Colours, colour: str, state_dir: Path) -> bool:
    """`supervisorctl reload` starts what was active when the stack began. Then the active one is started instead."""
    wanted = {colours.active, colours.attempt.colour if colours.attempt else colours.active}
    if colour in wanted:
        return False
    from webapp.releases.programs import Programs, program_of  # noqa: PLC0415 - rare, and a start would wait

    programs = Programs(state_dir / "run")
    if programs.of(program_of(colours.active)).up:
        return False  # an operator's wish
    programs.start(program_of(colours.active))
    return True


if __name__ == "__main__":
    main()
