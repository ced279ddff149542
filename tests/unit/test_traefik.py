"""deploy/traefik: the script against a stand-in for docker that records what it is told, the files by their schemas."""

import fcntl
import http.server
import json
import os
import re
import stat
import subprocess
import threading
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "traefik"

DOCKER = """#!/bin/sh
cd "$STAND_IN"
echo "$*" >> calls
color=proxy
case "$*" in *reranking-blue*) color=blue ;; *reranking-green*) color=green ;; *" pusher") color=pusher ;; esac
case "$*" in
    *" up "*)
        [ "$color" != "$FAILS" ] || exit 1
        touch "up/$color"
        cp "$EVENTS_FILE" "events-$color"
        echo "${PUSHER_IMAGE:-$RERANK_IMAGE}" > "image-$color" ;;
    *" down "*) rm -f "up/$color" ;;
    *" ps "*) printf 'one\\ntwo\\n' ;;
esac
[ "$(wc -l < calls)" -lt "${KILLED_AT:-1000}" ] || kill -9 0
"""


class Docker:
    """The stand-in, and a proxy before the colors that are up, in turns."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "docker").write_text(DOCKER)
        (folder / "docker").chmod(0o755)
        (folder / "up").mkdir()
        stand_in, turn = self, iter(range(10**9))

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                colors = sorted(stand_in.colors - stand_in.silent)
                self.send_response(200 if colors else 404)
                self.end_headers()
                if colors:
                    body = {"color": colors[next(turn) % len(colors)], "release": 1}
                    self.wfile.write(json.dumps(body, separators=(",", ":")).encode())

            def log_message(self, *_):
                pass

        self.silent = set()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def up(self):
        return {path.name for path in (self.folder / "up").iterdir()}

    @property
    def colors(self):
        return self.up - {"proxy", "pusher"}

    @property
    def calls(self):
        return (self.folder / "calls").read_text().splitlines()

    def image(self, color):
        return (self.folder / f"image-{color}").read_text().strip()

    def run(self, *arguments, image="", **more):
        environment = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "STAND_IN": str(self.folder),
            "STATE_FILE": str(self.folder / ".colors"),
            "RERANK_URL": f"http://127.0.0.1:{self.server.server_port}",
            "RERANK_IMAGE": image,
            **more,
        }
        (self.folder / "calls").write_text("")
        return subprocess.run(
            [FOLDER / "deploy.sh", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # KILLED_AT kills its group
        )

    def state(self):
        return dict(line.split("=", 1) for line in (self.folder / ".colors").read_text().splitlines())


@pytest.fixture
def docker(tmp_path):
    stand_in = Docker(tmp_path)
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def test_colors_take_turns_and_the_old_one_goes_when_the_new_one_answers(docker):
    assert docker.run(image="reranking:1").returncode == 0
    assert docker.up == {"proxy", "pusher", "green"}
    done = docker.run(image="reranking:2", REPLICAS="3")
    assert done.returncode == 0, done.stderr
    assert docker.up == {"proxy", "pusher", "blue"}
    assert docker.image("blue") == "reranking:2"
    assert docker.state() == {"active": "blue", "blue": "reranking:2", "green": "reranking:1"}
    order = [call for call in docker.calls if "proxy" not in call]
    assert "reranking-blue" in order[1]
    assert "--scale webapp=3" in order[1]
    assert "reranking-green" in order[-1]
    assert "down" in order[-1]


def test_a_rollback_brings_the_image_before_back(docker):
    for image in ("reranking:1", "reranking:2"):
        docker.run(image=image)
    assert docker.run("rollback").returncode == 0
    assert docker.up == {"proxy", "pusher", "green"}
    assert docker.image("green") == "reranking:1"


@pytest.mark.parametrize("how", ["it does not come up", "it never answers"])
def test_an_image_that_is_no_good_is_refused_and_the_old_one_serves(docker, how):
    docker.run(image="reranking:1")
    before = docker.state()
    docker.silent = {"blue"}
    done = docker.run(image="reranking:bad", PATIENCE_S="1", FAILS="blue" if "come up" in how else "")
    assert done.returncode == 1
    assert "reranking:bad was refused" in done.stderr
    assert docker.up == {"proxy", "pusher", "green"}
    assert docker.state() == before


def test_each_container_of_the_old_color_says_that_it_leaves_before_it_is_stopped(docker):
    docker.run(image="reranking:1")
    docker.run(image="reranking:2")
    *_, first, second, last = docker.calls
    for number, call in enumerate(sorted([first, second]), 1):
        assert f"exec -T --index {number} webapp reranking drain --notice-s 3 --no-stop" in call
        assert "-p reranking-green" in call
    assert " down " in last


@pytest.mark.parametrize("at", range(1, 9))
def test_after_a_kill_at_any_command_the_next_run_leaves_one_color_and_clients_had_one(docker, at):
    docker.run(image="reranking:1")
    assert docker.run(image="reranking:2", KILLED_AT=str(at)).returncode == -9
    assert docker.colors, "somebody serves"
    done = docker.run(image="reranking:3")
    assert done.returncode == 0, done.stderr
    (color,) = docker.colors
    assert docker.image(color) == "reranking:3"
    assert docker.state()["active"] == color
    assert docker.image("pusher") == "reranking:3"


def test_colors_and_pusher_have_one_key_of_events_that_is_made_once_and_only_its_owner_reads(docker):
    for image in ("reranking:1", "reranking:2"):
        docker.run(image=image)
    file = docker.folder / ".colors.env"
    key = file.read_text()
    assert re.fullmatch(r"RERANK_EVENTS_KEY=[0-9a-f]{64}\n", key)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {(docker.folder / f"events-{name}").read_text() for name in ("green", "blue", "pusher")} == {key}


def test_a_key_that_was_half_written_is_made_anew(docker):
    (docker.folder / ".colors.env.new").write_text("RERANK_EVENTS_KEY=half")
    docker.run(image="reranking:1")
    assert len((docker.folder / ".colors.env").read_text()) > 64


def test_the_pusher_gets_the_release_once_that_serves_and_one_that_does_not_start_stops_no_deploy(docker):
    docker.run(image="reranking:1")
    assert [call.rsplit(" ", 1)[-1] for call in docker.calls if " up " in call][-1] == "pusher"
    done = docker.run(image="reranking:2", FAILS="pusher")
    assert done.returncode == 0, done.stderr
    assert "the pusher of reranking:2 does not start" in done.stderr
    assert docker.up == {"proxy", "pusher", "blue"}
    assert docker.image("pusher") == "reranking:1"
    docker.run(image="reranking:3")
    assert docker.image("pusher") == "reranking:3"


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [(["nonsense"], "usage"), (["deploy"], "set RERANK_IMAGE"), (["rollback"], "nothing was deployed")],
    ids=["nonsense", "deploy", "rollback"],
)
def test_a_command_that_can_t_be_done_says_why(docker, arguments, refusal):
    done = docker.run(*arguments)
    assert done.returncode == 1
    assert refusal in done.stderr


def test_two_deploys_at_once_and_rubbish_in_the_state_file_are_refused_in_a_sentence(docker):
    with (docker.folder / ".colors.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another deploy runs" in docker.run("status").stderr
    (docker.folder / ".colors").write_text("active=red\n")
    assert "red is no color" in docker.run(image="reranking:1").stderr
