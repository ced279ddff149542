"""Where a clone may lie: scripts/setup.sh says so before it installs anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "setup.sh"


def set_up(folder):
    """Its first words in a clone there that can't install: no PATH."""
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(SETUP, folder / "scripts")
    script = folder / "scripts" / "serve"
    script.write_text('source "${0%/*}/setup.sh" torch\n')
    programs = folder.parent / "bin"
    programs.mkdir()
    for name in ("dirname", "basename"):
        (programs / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(programs)}
    done = subprocess.run(["/bin/bash", script], env=environment, capture_output=True, text=True, check=False)
    return done.stderr


@pytest.mark.parametrize("character", ['"', "\\", "$", "%", "`", ":", "\n"])
def test_a_character_that_can_t_be_quoted_is_named_before_anything_is_installed(tmp_path, character):
    said = set_up(tmp_path / f"a{character}b")
    assert "can't stand in the path of this folder" in said
    assert (character if character != "\n" else "\\n") in said.partition(" can't stand")[0]
    assert not (tmp_path / f"a{character}b" / ".venv").exists()


def test_what_can_be_quoted_is_taken(tmp_path):
    assert "can't stand" not in set_up(tmp_path / "My Data; {é'#}&!()[]*?~")
