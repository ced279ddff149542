"""Two real stacks behind the real Traefik: deploy.sh as it ships, by the real Compose, under load."""

import os

import pytest
from traefik import kit

pytestmark = [pytest.mark.platforms, pytest.mark.slow]

SWITCHES = int(os.environ.get("TRAEFIK_SWITCHES", "3"))
"""Deploys in the test of switches; a rollback follows. Ten take four minutes more."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    if missing := kit.why_no_host():
        pytest.skip(missing)
    with kit.Project(tmp_path_factory.mktemp("traefik")) as project:
        project.deploy(image=project.next_image())
        yield project


def test_a_switch_under_traefik_loses_no_request(project):
    with project.load() as load:
        for _ in range(SWITCHES):
            with load.phase("deploy"):
                project.deploy(image=project.next_image())
        with load.phase("rollback"):
            project.deploy("rollback")
        with load.phase("after"):
            kit.run_for(2)
    assert len(load.rows) > 1000, load.told()
    assert load.failed == 0, load.told()
