"""The profile `traefik` of docker-compose.yml, by the real Compose and Traefik."""

import secrets
import shutil

import pytest
from running import wait_for
from traefik import kit

pytestmark = [pytest.mark.platforms, pytest.mark.slow]

UP = ("up", "--detach", "--wait")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    if missing := kit.why_no_host():
        pytest.skip(missing)
    with kit.Project(tmp_path_factory.mktemp("compose"), outer="reranking") as project:
        shutil.copy(kit.ROOT / "docker-compose.yml", project.folder / "project")
        yield project


def test_without_a_key_of_events_neither_colors_nor_pusher_start_and_their_logs_say_why(project):
    assert project.compose(*UP, "traefik", "pusher", "blue").returncode == 1
    for service in ("pusher", "blue"):
        log = project.beside(service).log  # up ends with the first of them that does
        wait_for(lambda log=log: "without RERANK_EVENTS_KEY" in log.read_text(), f"{service} says why", 60)
        assert "openssl rand -hex 32" in log.read_text()


def test_requests_are_followed_through_both_colors_and_through_the_one_that_stays(project):
    project.settings(RERANK_EVENTS_KEY=secrets.token_hex(32))
    for services in (("traefik", "pusher", "blue"), ("green",)):
        done = project.compose(*UP, *services)
        assert done.returncode == 0, done.stderr
    assert project.follow(20) == ["ok"] * 20
    assert project.compose("stop", "blue").returncode == 0
    assert project.follow(5) == ["ok"] * 5
