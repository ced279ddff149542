"""What ships runs where procps is missing, as in python:slim: `kill` of a shell is there, and /bin/kill is not."""

import re

import pytest

from webapp.config.paths import ROOT

PROCPS = "free|pgrep|pidof|pidwait|pkill|pmap|ps|pwdx|skill|slabtop|snice|sysctl|tload|top|uptime|vmstat|w|watch"

# A command begins a line, or follows what ends or holds another one. `kill` is only wanted as a file.
COMMAND = re.compile(
    rf"(?:^|[|;&({{`]|\b(?:if|then|else|do|while|until|exec|env|sudo)\s|Exec\w+=-?|\[\"|')\s*"
    rf"(?:(?:/usr)?/s?bin/(?:kill|{PROCPS})|(?:{PROCPS}))(?=[\s\"'`)]|$)",
    re.MULTILINE,
)

SCRIPTS = ("serve", "install", "setup.sh", "stages.sh", "deploy", "smoke", "build-wheel", "install-torch")


def shipped():
    """Return the files that run where the service does."""
    folders = [path for name in ("nginx", "supervisor", "deploy") for path in (ROOT / name).rglob("*")]
    single = [ROOT / name for name in ("Dockerfile", "docker-compose.yml", "gunicorn_config.py")]
    files = [*folders, *single, *(ROOT / "scripts" / name for name in SCRIPTS)]
    return [path for path in files if path.is_file() and path.suffix not in {".json", ".pyc"}]


@pytest.mark.parametrize(
    "line",
    [
        "ExecReload=/bin/kill -HUP $MAINPID",
        'pid="$(pgrep -f gunicorn)"',
        "test -e x && /usr/bin/kill 1",
        'CMD ["ps"]',
        "RUN apt-get update; sysctl -w a=b",
        "    if ps aux; then",
    ],
)
def test_a_program_of_procps_is_noticed(line):
    assert COMMAND.search(line)


@pytest.mark.parametrize("line", ["kill -HUP $PID", "# top is free", "memory: free", "--watch", "kubectl get pods -w"])
def test_words_and_the_shell_s_own_kill_are_not(line):
    assert not COMMAND.search(line)


def test_nothing_that_ships_runs_a_program_of_procps():
    found = {
        str(file.relative_to(ROOT)): [match[0] for match in COMMAND.finditer(file.read_text())] for file in shipped()
    }
    assert len(found) > 30
    assert {name: commands for name, commands in found.items() if commands} == {}


def test_commands_of_the_documents_do_without_its_kill_and_pgrep():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert not re.search(r"/bin/kill|\b(pgrep|pkill|pidof)\b", page.read_text()), page
