"""Two real stacks behind the real Traefik: deploy.sh as it ships, by the real Compose, under load."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from running import wait_for
from traefik import kit

pytestmark = [pytest.mark.platforms, pytest.mark.slow]

FOLLOWED = 50

SWITCHES = int(os.environ.get("TRAEFIK_SWITCHES", "2"))
"""Deploys in the test of switches; a rollback follows. Each takes about ten seconds."""

MB = 10**6


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    if missing := kit.why_no_host():
        pytest.skip(missing)
    with kit.Project(tmp_path_factory.mktemp("traefik")) as project:
        project.deploy(image=project.next_image())
        yield project


def assert_nothing_failed(load, least=500):
    assert len(load.rows) > least, load.told()
    assert load.failed == 0, load.told()


def test_a_switch_under_traefik_loses_no_request(project):
    with project.load() as load:
        for _ in range(SWITCHES):
            with load.phase("deploy"):
                project.deploy(image=project.next_image())
        with load.phase("rollback"):
            project.deploy("rollback")
        with load.phase("after"):
            kit.run_for(2)
    assert_nothing_failed(load, 1000)


def test_a_killed_container_of_two_loses_no_request(project):
    project.deploy(image=project.next_image(), REPLICAS="2")
    (color,) = project.up()
    with project.load() as load:
        for container in project.engine.of_project(f"reranking-{color}"):
            with load.phase("kill"):
                container.kill()
                wait_for(lambda one=container: one.restarts and one.health == "healthy", "it is back", 60)
            with load.phase("after"):
                kit.run_for(2)
    assert_nothing_failed(load)


@pytest.mark.parametrize("image", ["reranking:ends", "reranking:never"])
def test_an_image_that_never_serves_is_refused_and_no_request_is_lost(project, image):
    before = project.up()
    with project.load() as load, load.phase("refused"):
        process = project.begin(image=image, PATIENCE_S="8")
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert f"{image} was refused" in said
    assert project.up() == before
    assert_nothing_failed(load, 100)


@pytest.mark.parametrize("at", ["comes up with", "finishes what it has"])
def test_after_a_term_in_the_middle_of_a_deploy_the_next_one_ends_it_and_no_request_is_lost(project, at):
    with project.load() as load:
        with load.phase("interrupted"):
            process = project.begin(image=project.next_image())
            for line in process.stdout:
                if at in line:
                    os.killpg(process.pid, signal.SIGTERM)
                    break
            assert process.wait(60) != 0
            process.stdout.close()
            assert project.up(), "somebody serves"
        with load.phase("again"):
            project.deploy(image=project.next_image())
    assert len(project.up()) == 1
    assert_nothing_failed(load)


def test_callers_keep_their_addresses_and_a_body_above_the_limit_gets_the_services_own_refusal(project, tmp_path):
    project.settings(RERANK_REQUESTS_PER_MINUTE="3")
    project.deploy(image=project.next_image())
    project.settings()
    body, large = '{"query": "bees", "documents": ["a bee"]}', tmp_path / "large"
    first, second = kit.CALLERS[:2]

    def ask(address, *arguments):
        return project.curl("-w", " %{http_code}", *arguments, address=address).rpartition(" ")

    statuses = [ask(first, "-d", body, f"{project.url}/rerank")[2] for _ in range(4)]
    assert statuses == ["200", "200", "200", "429"]
    assert ask(second, "-d", body, f"{project.url}/rerank")[2] == "200"
    large.write_bytes(b" " * (33 * 1024 * 1024))
    for way in ([], ["-H", "Transfer-Encoding: chunked"]):
        said = ask(kit.CALLERS[2], *way, "-T", str(large), "-X", "POST", f"{project.url}/rerank")
        assert said[2] == "413"
        assert json.loads(said[0])["error"]["code"] == "payload_too_large"


def test_requests_are_followed_through_traefik_whichever_replica_or_color_computes_them(project):
    image = project.next_image()
    project.deploy(image=image, REPLICAS="2")
    pusher = project.beside("pusher")
    assert project.follow(FOLLOWED) == ["ok"] * FOLLOWED
    # The same image in the other color: the pusher stays, and what either color computes is heard.
    heard = []
    with ThreadPoolExecutor(1) as pool:
        deploy = pool.submit(project.deploy, image=image)
        while not deploy.done():
            heard += project.follow(10)
    deploy.result()
    missed = len(heard) - heard.count("ok")
    print(f"followed during a deploy: {missed} of {len(heard)} failed")  # noqa: T201 - its point
    assert heard == ["ok"] * len(heard)
    assert project.beside("pusher") is pusher


def test_a_pusher_that_does_not_start_or_dies_fails_no_request(project):
    with project.load() as load:
        with load.phase("killed"):
            project.beside("pusher").kill()
            kit.run_for(2)
        with load.phase("deploy"):
            said = project.deploy(image="reranking:no-pusher")
    assert "the pusher of reranking:no-pusher does not start" in said
    assert_nothing_failed(load)
    project.deploy(image=project.next_image())
    assert project.follow(10) == ["ok"] * 10


def test_traefik_takes_no_more_memory_than_its_container_has_however_many_large_bodies_come(project):
    project.deploy(image=project.next_image())
    limits = yaml.safe_load((project.traefik / "proxy.compose.yaml").read_text())["services"]["traefik"]["deploy"]
    most_mb = int(limits["resources"]["limits"]["memory"].removesuffix("m"))
    seen, ended = [], threading.Event()

    def watch():
        while not ended.wait(0.05):
            seen.append(project.proxy_memory_mb())

    watching = threading.Thread(target=watch)
    watching.start()
    statuses = project.send_slowly({31 * MB: 40, 900_000: 300, 50_000: 100})
    ended.set()
    watching.join()
    print(f"Traefik: {max(seen):.0f} MB at most, {statuses}")  # noqa: T201 - its point
    assert max(seen) < most_mb
    # 429 is Traefik's; 503 the service's own, which has room for so many bytes of requests.
    assert set(statuses) <= {"200", "429", "503"}, statuses
    assert statuses["200"] > 100, statuses
    assert statuses["429"] > 0, statuses


def test_traefik_knows_every_label_and_setting(project):
    lines = [json.loads(line) for line in project.beside("traefik").log.read_text().splitlines()]
    assert [line for line in lines if line["level"] in {"error", "fatal"}] == []
    assert project.engine.unknown == []
