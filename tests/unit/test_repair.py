"""What `serve` makes again, on real sockets, links and files."""

import os
import shutil
import socket

import pytest

from webapp.config.settings import Settings
from webapp.stack.nginx.traffic_split import FALLBACK, LINKS, color_of, point, shares_for
from webapp.stack.releases import canary, state
from webapp.stack.repair import BAD, SETTLED_S, SPARE, Repair, listens, missing
from webapp.stack.supervisor.client import Program
from webapp.stack.tls import certificate, is_published, publish_certificate, served_certificate

NAMES = ("webapp-blue.sock", "pusher.sock", "metrics.sock", "events.sock", "supervisor.sock", "nginx/direct.sock")


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


class Kept:
    """A run directory as a stack has it, and what looks after it."""

    def __init__(self, state_dir):
        self.settings = Settings(state_dir=state_dir)
        self.run = self.settings.run_dir
        self.colors_file = state_dir / state.FILE
        (self.run / "nginx" / "body").mkdir(parents=True)
        self.files = ("nginx.conf", "address.json", "own.key", "supervisord.pid", canary.LOG)
        for name in self.files:
            (self.run / name).write_text(name)
        self.listeners = {name: listen(self.run / name) for name in NAMES}
        self.colors = state.begin("blue")
        state.write(state_dir, self.colors)
        point(self.run, "blue")
        self.said = []
        self.repair = Repair(self.settings, self.colors, self.said.append)
        self.repair.step()
        assert self.said == []

    def reaches(self, name):
        """Return whether a connection by that name reaches the first listener."""
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.settimeout(1)
            try:
                visitor.connect(str(self.run / name))
            except OSError:
                return False
            self.listeners[name].accept()[0].close()
            return True

    def close(self):
        for listener in self.listeners.values():
            listener.close()


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path)
    yield kept
    kept.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_socket_gets_its_name_back_and_one_line_says_so(kept, name):
    before = (kept.run / name).stat()
    (kept.run / name).unlink()
    kept.repair.step()
    kept.repair.step()
    assert kept.reaches(name)
    assert (kept.run / name).stat().st_mode == before.st_mode
    assert kept.said == [f"Removed or damaged, and made again: {name}"]


def test_all_that_was_removed_at_once_is_there_again_and_told_in_one_line(kept):
    for path in kept.run.glob("*.sock"):
        path.unlink()
    shutil.rmtree(kept.run / "nginx")
    kept.repair.step()
    assert all(map(kept.reaches, NAMES))
    assert {color_of(kept.run / name, state.COLORS) for name in LINKS} == {"blue"}
    (line,) = kept.said
    assert all(name in line for name in (*NAMES, *LINKS))


def test_what_lies_in_a_socket_s_place_gives_way(kept):
    (kept.run / "pusher.sock").unlink()
    (kept.run / "pusher.sock").write_text("no socket")
    kept.repair.step()
    assert kept.reaches("pusher.sock")
    (kept.run / "pusher.sock").unlink()
    (kept.run / "pusher.sock").symlink_to("nowhere")
    kept.repair.step()
    assert kept.reaches("pusher.sock")


def test_a_socket_that_its_program_bound_anew_is_the_one_that_is_kept(kept):
    kept.listeners["metrics.sock"].close()
    (kept.run / "metrics.sock").unlink()
    kept.repair.step()
    assert not (kept.run / "metrics.sock").exists(), "nobody listens: there is nothing to give back"
    kept.listeners["metrics.sock"] = listen(kept.run / "metrics.sock")
    kept.repair.step()
    assert kept.said == []
    (kept.run / "metrics.sock").unlink()
    kept.repair.step()
    assert kept.reaches("metrics.sock")


def test_a_program_that_came_later_is_kept_too(kept):
    kept.listeners["webapp-green.sock"] = listen(kept.run / "webapp-green.sock")
    kept.repair.step()
    (kept.run / "webapp-green.sock").unlink()
    kept.repair.step()
    assert kept.reaches("webapp-green.sock")


def test_with_its_second_name_gone_too_a_socket_stays_away_and_nothing_else_suffers(kept):
    (kept.run / "pusher.sock").unlink()
    shutil.rmtree(kept.run / SPARE)
    (kept.run / FALLBACK).unlink()
    kept.repair.step()
    assert not (kept.run / "pusher.sock").exists()
    assert color_of(kept.run / FALLBACK, state.COLORS) == "blue"
    (kept.run / "metrics.sock").unlink()
    kept.repair.step()
    assert kept.reaches("metrics.sock"), "second names were made again"


def test_a_removed_link_names_the_color_that_it_named_even_in_a_canary(kept):
    point(kept.run, "green", other="blue", percent=10, fallback="blue")
    kept.repair.step()
    (mine,) = shares_for(10)
    (kept.run / LINKS[mine]).unlink()
    (kept.run / LINKS[0]).unlink()
    (kept.run / LINKS[0]).symlink_to("elsewhere.sock")
    (kept.run / FALLBACK).unlink()
    (kept.run / FALLBACK).write_text("no link")
    kept.repair.step()
    named = [color_of(kept.run / LINKS[place], state.COLORS) for place in (mine, 0)]
    assert named == ["green", "blue"]
    assert color_of(kept.run / FALLBACK, state.COLORS) == "blue"


def test_a_removed_file_comes_back_as_the_one_that_programs_have_open(kept):
    with (kept.run / canary.LOG).open("a") as of_nginx:
        for name in kept.files:
            (kept.run / name).unlink()
        shutil.rmtree(kept.run / "nginx")
        kept.repair.step()
        of_nginx.write(" and more")
    assert (kept.run / "nginx.conf").read_text() == "nginx.conf"
    assert (kept.run / canary.LOG).read_text() == f"{canary.LOG} and more"
    assert (kept.run / "nginx" / "body").is_dir()
    assert len(kept.said) == 1


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_directory(path):
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def as_link(target):
    def damage(path):
        path.unlink()
        path.symlink_to(target)

    return damage


DAMAGES = {
    "garbage": lambda path: path.write_bytes(os.urandom(500)),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "other JSON": lambda path: path.write_text('{"active": "red", "idle": "blue", "serves": {}}'),
    "deep": lambda path: path.write_text('{"x":' + "[" * 100_000),
    "removed": lambda path: path.unlink(),
    "a directory": as_directory,
    "a pipe": as_pipe,
    "a link to nowhere": as_link("nowhere"),
    "a link to itself": as_link(state.FILE),
    "a disk that fails": as_link("/proc/self/mem"),  # EIO
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_colors_are_written_again_as_they_were_read_last(kept, damage):
    deployed = kept.colors.with_release("green", state.Release(number=2)).switched()
    state.write(kept.settings.state_dir, deployed)
    kept.repair.step()
    for _ in range(2):
        damage(kept.colors_file)
        kept.repair.step()
        assert state.read(kept.settings.state_dir) == deployed
    assert kept.said == [f"Removed or damaged, and made again: {state.FILE}"] * 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_colors_that_may_not_be_read_are_written_again(kept):
    kept.colors_file.chmod(0)
    kept.repair.step()
    assert state.read(kept.settings.state_dir) == kept.colors


def test_what_stood_in_damaged_colors_is_kept_for_its_author(kept):
    kept.colors_file.write_text("an edit, with a typo")
    kept.repair.step()
    assert (kept.settings.state_dir / BAD).read_text() == "an edit, with a typo"


def test_what_can_t_be_made_again_is_told_once_until_it_can(kept):
    aside = kept.settings.state_dir / f"{state.FILE}.new"
    aside.mkdir()
    kept.colors_file.unlink()
    for _ in range(3):
        kept.repair.step()
    assert kept.said == [f"{state.FILE} was removed or damaged, and can't be made again (Is a directory)"]
    aside.rmdir()
    kept.repair.step()
    assert kept.said[1:] == [f"Removed or damaged, and made again: {state.FILE}"]


def test_what_is_missing_is_known_by_the_programs_that_run(kept):
    def running(*names):
        return [Program(name, "RUNNING", 1, SETTLED_S + 1) for name in names]

    programs = running("webapp-blue", "pusher", "metrics", "nginx")
    assert missing(kept.run, programs) == []
    for name in ("webapp-blue.sock", "pusher.sock", "share-1.sock"):
        (kept.run / name).unlink()
    assert missing(kept.run, programs) == ["webapp-blue.sock", "pusher.sock", "share-1.sock"]
    assert missing(kept.run, [aged(each, uptime_s=1) for each in programs]) == ["share-1.sock"], "they may start"
    assert missing(kept.run, [Program("webapp-blue", "STOPPED", 0, 0)]) == ["share-1.sock"]


def aged(program, **changes):
    return Program(program.name, program.state, program.pid, **changes)


def test_a_listener_without_time_listens(tmp_path):
    path = tmp_path / "busy.sock"
    with listen(path) as busy:
        busy.listen(0)
        waiting = []
        for _ in range(5):
            visitor = socket.socket(socket.AF_UNIX)
            visitor.setblocking(False)
            visitor.connect_ex(str(path))
            waiting.append(visitor)
        assert listens(path)
        for visitor in waiting:
            visitor.close()
    assert not listens(path)


def test_the_certificate_that_nginx_shows_is_made_again_and_a_file_that_can_t_be_used_is_told_once(tmp_path):
    settings = Settings(state_dir=tmp_path, tls="self-signed")
    said = []
    publish_certificate(settings)
    point(settings.run_dir, "blue")
    state.write(tmp_path, state.begin("blue"))
    repair = Repair(settings, state.begin("blue"), said.append)
    repair.step()
    assert said == []
    shutil.rmtree(served_certificate(settings).parent)
    repair.step()
    assert is_published(settings)
    assert said == ["Removed or damaged, and made again: tls"]
    shutil.rmtree(served_certificate(settings).parent)
    certificate(settings).key.write_text("rubbish")
    repair.step()
    repair.step()
    assert len(said) == 2
    assert said[1].startswith("tls was removed or damaged, and can't be made again (RERANK_TLS_CERT")
