"""The files for Kubernetes say what it knows, and the pod's first command may run again."""

import copy
import os
import subprocess
import tempfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from kubernetes_kit import VERSIONS, check

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

FILES = [*(DEPLOY / "kubernetes").glob("service*.yaml"), DEPLOY / "ray" / "rayservice.yaml"]

OBJECTS = {
    f"{file.name} {found['kind']} {found['metadata']['name']}": found
    for file in FILES
    for found in yaml.safe_load_all(file.read_text())
}

EACH = pytest.mark.parametrize("found", OBJECTS.values(), ids=OBJECTS)


@pytest.mark.parametrize("version", VERSIONS)
@EACH
def test_kubernetes_knows_every_field(found, version):
    check(found, version)


def specs(part):
    """Every `spec` in an object."""
    for name, inner in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if name == "spec":
            yield inner
        yield from specs(inner)


@EACH
def test_a_misspelled_field_is_found_at_every_depth(found):
    for number in range(len(list(specs(found)))):
        wrong = copy.deepcopy(found)
        list(specs(wrong))[number]["misspelled"] = 1
        with pytest.raises(jsonschema.ValidationError, match="misspelled"):
            check(wrong)


POD = OBJECTS["service.yaml Deployment reranking"]["spec"]["template"]["spec"]

(INIT,) = POD["initContainers"]

KILLED = "#!/bin/sh\nPATH=${PATH#*:}\n%s\nkill -9 0\n"
"""A program that kills all processes of its container, when something is done."""

HALF = {
    "copies half": ("cp", "cp -R $2/model-a $3"),
    "has copied": ("sync", ""),
    "renames": ("mv", ""),
    "has renamed": ("mv", 'mv "$@"'),
}
"""When the container is killed -> the program that it runs then, and what that does first."""


class Container:
    """The init container's command with its folders elsewhere, run by a user that is not root."""

    def __init__(self, folder: Path) -> None:
        self.image, self.volume, self.commands = folder / "image", folder / "volume", folder / "commands"
        for made in (self.image, self.volume, self.commands):
            made.mkdir()
        for model in ("model-a", "model-b"):
            (self.image / model).mkdir()
            (self.image / model / "weights").write_text(model)
        self.volume.chmod(0o2777)  # as the kubelet makes it, with fsGroup
        self.user = 10001 if os.getuid() == 0 else os.getuid()

    def run(self, umask: int = 0o022) -> int:
        *shell, script = INIT["command"]
        script = script.replace("/var/lib/reranking", str(self.image)).replace("/state", str(self.volume))
        environment = {"PATH": f"{self.commands}:{os.environ['PATH']}"}
        options = {"user": self.user, "env": environment, "umask": umask, "cwd": self.volume}
        return subprocess.run([*shell, script], check=False, start_new_session=True, **options).returncode

    def kept(self) -> dict[str, str]:
        """Return the files of the volume with their content."""
        return {
            str(file.relative_to(self.volume)): file.read_text() for file in self.volume.rglob("*") if file.is_file()
        }


WHOLE = {f"reranking/{model}/weights": model for model in ("model-a", "model-b")}


@pytest.fixture
def container():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which another user can't enter
        Path(folder).chmod(0o755)
        yield Container(Path(folder))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000], ids=oct)
def test_the_pod_gets_the_images_model_in_a_folder_of_its_own(container, umask):
    assert container.run(umask) == 0
    assert container.kept() == WHOLE
    assert (container.volume / "reranking").stat().st_mode & 0o7077 in (0, 0o2000)
    assert (container.volume / "reranking").stat().st_uid == container.user


def test_what_the_service_has_written_stays_when_the_kubelet_runs_the_command_again(container):
    assert container.run() == 0
    os.chown(container.volume / "reranking" / "model-a" / "weights", container.user, -1)
    (container.volume / "reranking" / "model-a" / "weights").write_text("prepared")
    assert container.run() == 0
    assert container.kept() == WHOLE | {"reranking/model-a/weights": "prepared"}


@pytest.mark.parametrize("when", HALF)
def test_a_copy_that_was_cut_short_is_never_taken_for_a_whole_one(container, when):
    program, does = HALF[when]
    (container.commands / program).write_text(KILLED % does)
    (container.commands / program).chmod(0o755)
    assert container.run() != 0
    assert not (container.volume / "reranking").exists() or container.kept() == WHOLE
    (container.commands / program).unlink()
    assert container.run() == 0
    assert container.kept() == WHOLE
