"""deploy/ray/Dockerfile, built on the image that scripts/test-image has built, and run as rayservice.yaml runs it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from running import PATIENCE_S

pytestmark = pytest.mark.platforms

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy" / "ray"
IMAGE = "localhost/reranking-ray"

# The image's command, then what KubeRay does; at last TERM, as Kubernetes sends it. It prints one JSON object.
SCRIPT = """
"$@" >/tmp/said 2>&1 &
head=$!
trap 'cat /tmp/said >&2' EXIT
until serve deploy /tmp/serve.yaml >/tmp/deployed 2>&1; do kill -0 $head; done
until wget -q -O /tmp/answer --post-data '{"query": "how do bees find home", "texts": ["milk", "bees fly home"]}' \
    http://127.0.0.1:8000/rerank; do kill -0 $head; done
pip="$(python -m pip --version 2>&1 || true)"
kill -TERM $head
wait $head || true  # Ray ends with 1
printf '{"user": %s, "pip": "%s", "answer": %s}' "$(id -u)" "$pip" "$(cat /tmp/answer)"
"""


class Buildah:
    """Runs buildah with the images of scripts/test-image."""

    def __init__(self) -> None:
        work = Path(os.environ.get("IMAGE_WORK", ROOT / "var" / "image"))
        driver = "overlay" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "vfs"
        stored = ["--root", work / "storage", "--runroot", work / "runroot", "--storage-driver", driver]
        self.command = ["buildah", *map(str, stored)]

    def run(self, *arguments) -> str:
        """Run one of its commands; return what it printed."""
        command = [*self.command, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def has(self, image: str) -> bool:
        command = [*self.command, "inspect", "--type", "image", image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def buildah():
    for tool in ("buildah", "unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")
    if os.geteuid() != 0:
        pytest.skip("root is missing: buildah needs it here")
    running = Buildah()
    if not running.has("localhost/reranking"):
        pytest.skip("the image is missing: scripts/test-image builds it")
    return running


def test_the_image_with_ray_is_built_and_serves_what_the_manifest_deploys(buildah, tmp_path):
    paths = [path.partition(":") for path in os.environ.get("IMAGE_VOLUMES", "").split()]
    volumes = [part for here, _, there in paths for part in ("--volume", f"{here}:{there or here}:ro")]
    base = ("--build-arg", "BASE=localhost/reranking")
    build = ["bud", "--isolation", "chroot", "--layers", "--format", "docker", *base, *volumes, "-t", IMAGE]
    buildah.run(*build, "-f", FILES / "Dockerfile", ".")
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_load((FILES / "rayservice.yaml").read_text())["spec"]["serveConfigV2"])
    command = json.loads(buildah.run("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]["Cmd"]
    container = buildah.run("from", IMAGE).strip()
    try:
        inside = [
            *buildah.command,
            "run",
            "--isolation",
            "chroot",
            "--volume",
            f"{config}:/tmp/serve.yaml:ro",
            container,
        ]
        # Its ports are free in a network of its own, and what Ray leaves behind ends with its other processes.
        shell = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
        said = subprocess.run(
            [*shell, 'ip link set lo up && "$@"; exit $?', "_", *inside, "--", "bash", "-ec", SCRIPT, "_", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    finally:
        buildah.run("rm", container)
    assert said.returncode == 0, said.stderr[-4000:]
    seen = json.loads(said.stdout)
    assert [one["index"] for one in seen["answer"]] == [1, 0]
    assert seen["user"] == 10001
    assert "No module named pip" in seen["pip"]
