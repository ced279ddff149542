"""The words of the code: the field's own, and the ones that were given up stay away."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = ("reranking_server", "webapp", "pusher", "contracts", "client", "gunicorn_config.py")

GIVEN_UP = (
    *("offspring", "premises", "outlet", "soundness", "footprint_", "wiring", "bootstrap", "tally", "tallies"),
    *("manners", "happenings", "discreet", "telling", "upkeep", "farewell", "vitals"),
)
"""Private words of the first layout; docs/glossary.md has what is said instead."""

MOST_WHO = 20
"""Sentences say what acts. A few need a person."""


def sources():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [ROOT / name for name in listed.splitlines()] or [*ROOT.glob("*.py"), *ROOT.glob("[!.v]*/**/*.py")]
    return [file for file in files if file.is_file()]


@pytest.mark.parametrize("word", GIVEN_UP)
def test_a_private_word_does_not_come_back(word):
    found = [
        str(file.relative_to(ROOT))
        for file in sources()
        if file.relative_to(ROOT).parts[0] in FOLDERS and re.search(rf"\b{word}", file.read_text(), re.IGNORECASE)
    ]
    assert found == []


def test_code_says_what_acts_rather_than_who_does():
    lines = [line for file in sources() for line in file.read_text().splitlines()]
    assert sum(bool(re.search(r"\b(who|whom|whoever)\b", line, re.IGNORECASE)) for line in lines) <= MOST_WHO


def test_the_module_names_of_webapp_are_few_enough_to_be_seen_at_once():
    assert len([path for path in (ROOT / "webapp").iterdir() if path.name != "__pycache__"]) <= 14
