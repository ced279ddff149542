import shutil
import subprocess
import warnings
from types import SimpleNamespace

import pytest
import requests
from ray_kit import NO_RAY, ROOT, RayCluster
from running import PATIENCE_S, free_port, wait_for

from webapp.engine.prepare.pipeline import prepare


def pytest_collection_modifyitems(items):
    """A cluster takes half a minute to start, and an environment of its own."""
    for item in items:
        if "tests/ray/" in str(item.path):
            item.add_marker(pytest.mark.slow)
            if NO_RAY:
                item.add_marker(pytest.mark.skip(reason=NO_RAY))


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One for all tests; each deploys what it needs."""
    with RayCluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def two_models(bert_settings, xlm_roberta, tmp_path_factory):
    """A state directory with the artifacts of two models that score differently, and nothing else."""
    state = tmp_path_factory.mktemp("ray-state")
    shutil.copytree(bert_settings.state_dir / "models", state / "models")
    settings = bert_settings.model_copy(update={"model": str(xlm_roberta), "state_dir": state})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(settings, lambda _: None)
    return SimpleNamespace(state=state, bert=bert_settings.model, xlm=str(xlm_roberta))


@pytest.fixture
def stack(ray_cluster, two_models):
    """The tests' usual name for a service that answers; here it is two replicas with the small BERT."""
    ray_cluster.deploy(
        {
            "state_dir": str(two_models.state),
            "model": two_models.bert,
            "engine": "openvino",
            "precision": "fp32",
        },
        num_replicas=2,
        max_ongoing_requests=640,
        max_queued_requests=256,
        user_config={},
    )
    return ray_cluster


@pytest.fixture
def front(stack, tmp_path):
    """What is shipped to stand before it: nginx."""
    port = free_port()
    text = (ROOT / "deploy" / "ray" / "nginx.conf").read_text()
    assert text.count(":8000") == 2
    text = text.replace(":8000", f":{stack.port}").replace(":8080", f":{port}")
    (tmp_path / "nginx.conf").write_text(text)
    command = ["/usr/sbin/nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
    command += ["-g", "daemon off; user root;"]  # another user could not read this test's folder
    process = subprocess.Popen(command)
    wait_for(lambda: answers(port), "nginx answers")
    yield port
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok
    except requests.ConnectionError:
        return False
