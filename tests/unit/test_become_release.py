"""Which gunicorn a color becomes, in processes of their own: a process that becomes another one can't tell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from webapp.stack.releases import state

CONFIG = """
from webapp.stack.releases.environment import become_release
become_release()
become_release()  # a process that has become it stays
import os
raise SystemExit({name!r} + " " + os.path.basename(os.getcwd()))
"""


@pytest.fixture
def folders(tmp_path):
    """The stack's own folder and another release's, each with a gunicorn_config.py that says where it is."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gunicorn_config.py").write_text(CONFIG.format(name=name))
    return tmp_path


def says(folders, *command):
    """Start a color and return the last line that it writes."""
    own = folders / "own"
    stack = {"STACK_ROOT": str(own), "STACK_PYTHON": sys.executable}
    variables = {**os.environ, **stack, "RERANK_STATE_DIR": str(folders), "RERANK_COLOR": "blue"}
    command = command or ("-m", "gunicorn", "-c", str(own / "gunicorn_config.py"))
    outcome = subprocess.run(
        [sys.executable, *command], env=variables, cwd=folders, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 1
    return outcome.stderr.splitlines()[-1]


def test_a_release_of_the_stacks_own_stays_in_the_gunicorn_that_was_started(folders):
    state.write(folders, state.begin("blue"))
    assert says(folders) == f"own {folders.name}"


def test_a_release_from_another_folder_is_run_there_once(folders):
    release = state.Release(number=2, root=str(folders / "other"))
    state.write(folders, state.begin("blue").with_release("blue", release))
    assert says(folders) == "other other"


@pytest.mark.parametrize("place", ["clone", "wheel"])
def test_a_release_of_an_older_version_is_given_its_color_by_the_name_that_it_knows(folders, place):
    if place == "clone":
        (folders / "other" / "webapp" / "releases").mkdir(parents=True)
    else:  # it held these files in a folder of webapp
        (folders / "other").rename(folders / "packed")
        (folders / "other").symlink_to("packed")
    names = "*(name for name in os.environ if name.startswith('RERANK_COLO'))"
    (folders / "other" / "gunicorn_config.py").write_text(f"import os\nraise SystemExit(' '.join(({names},)))\n")
    release = state.Release(number=2, root=str(folders / ("other" if place == "clone" else "packed")))
    state.write(folders, state.begin("blue").with_release("blue", release))
    assert says(folders) == "RERANK_COLOUR"


def test_a_release_by_another_interpreter_stays_in_its_folder(folders):
    python = Path(sys.executable).with_name("python3")
    state.write(folders, state.begin("blue").with_release("blue", state.Release(number=2, python=str(python))))
    assert says(folders) == f"own {folders.name}"


def test_an_interpreter_that_is_gone_is_one_line(folders):
    state.write(folders, state.begin("blue").with_release("blue", state.Release(number=2, python="/gone/python")))
    assert "reranking: /gone/python in " in says(folders)


def test_a_color_without_a_release_is_told_what_to_run(folders):
    assert says(folders) == "reranking: blue serves nothing yet; run: reranking deploy"
