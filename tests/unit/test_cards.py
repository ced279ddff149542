"""NVIDIA cards: what is found, why torch can't use one, which worker computes on which. NVML is a stand-in."""

import os
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import yaml

from webapp.config import cards as module
from webapp.config.cards import Card, cards, driver, obstacle, take_card
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack import doctor
from webapp.stack.preflight import check_cards

ROOT = Path(__file__).resolve().parents[2]

STAGES = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]

GIB = 1024**3

UUIDS = ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]


class Nvml:
    """NVML's functions, for a machine with these cards; without a driver nothing can be started."""

    NVMLError = pynvml.NVMLError

    def __init__(self, uuids, *, has_driver=True, cuda=13000):
        self._uuids, self._has_driver, self._cuda = uuids, has_driver, cuda
        self.parts, self.silent = {}, set()
        self.open = 0

    @property
    def _all(self):
        return [*self._uuids, *(part for parts in self.parts.values() for part in parts)]

    def nvmlInit(self):  # noqa: N802 - NVML's name, as those below
        if not self._has_driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self):  # noqa: N802
        return self._cuda

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self._uuids)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if index >= len(self._uuids):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self._uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self._all:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        if handle not in self.parts:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return bool(self.parts[handle]), False

    def nvmlDeviceGetMaxMigDeviceCount(self, _handle):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):  # noqa: N802
        if index >= len(self.parts[handle]):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.parts[handle][index]

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"NVIDIA {handle[-1].upper()}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        assert handle in self._all
        if handle in self.silent:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=80 * GIB, free=60 * GIB)


@pytest.fixture
def machine(monkeypatch):
    """Make a machine with so many cards, and this build of torch."""

    def make(count, *, torch="2.13.0", torch_cuda="13.0", visible=None, has_driver=True, cuda=13000, compiles=True):
        nvml = Nvml(UUIDS[:count], has_driver=has_driver, cuda=cuda)
        monkeypatch.setattr(module, "_library", lambda: nvml)
        monkeypatch.setattr(module, "torch_build", lambda: torch)
        monkeypatch.setattr(doctor, "torch_build", lambda: torch)
        monkeypatch.setattr(doctor, "cuda_of_torch", lambda: torch_cuda)
        monkeypatch.setattr(doctor, "_can_compile", lambda: compiles)
        monkeypatch.setenv(module.VISIBLE, visible or "")  # what a test changes there is undone at its end
        if visible is None:
            monkeypatch.delenv(module.VISIBLE)
        return nvml

    return make


def ids():
    return [card.id for card in cards()]


def test_cards_are_named_by_uuid_with_their_memory_and_nvml_is_closed_again(machine):
    nvml = machine(2)
    assert cards() == [
        Card("GPU-aaaa", "NVIDIA A", 80 * GIB, 60 * GIB),
        Card("GPU-bbbb", "NVIDIA B", 80 * GIB, 60 * GIB),
    ]
    assert driver() == "580.65.06"
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("1", ["1"]),
        ("GPU-cccc, 0", ["GPU-cccc", "0"]),
        ("0,7,1", ["0"]),
        ("GPU-none,0", []),
        ("-1", []),
        ("", []),
    ],
)
def test_only_cards_that_cuda_sees_are_found_and_none_after_an_unknown_one(machine, visible, seen):
    machine(3, visible=visible)
    assert ids() == seen


def test_a_card_that_is_divided_is_its_parts_and_one_without_parts_is_itself(machine):
    nvml = machine(3)
    nvml.parts = {"GPU-aaaa": ["MIG-a1", "MIG-a2"], "GPU-bbbb": []}
    assert ids() == ["MIG-a1", "MIG-a2", "GPU-bbbb", "GPU-cccc"]


def test_a_card_that_does_not_tell_its_memory_hides_no_other(machine):
    machine(2).silent = {"GPU-aaaa"}
    assert [card.free_bytes for card in cards()] == [0, 60 * GIB]


@pytest.mark.parametrize(("torch", "seen"), [("2.13.0", True), ("2.13.0+cpu", False), ("", False)])
def test_a_card_is_usable_by_a_torch_for_cuda_and_else_nobody_asks_for_cards(machine, monkeypatch, torch, seen):
    machine(1, torch=torch)
    if not seen:
        monkeypatch.setattr(module, "_library", lambda: pytest.fail("NVML takes 40 ms to import"))
    assert module.usable() is seen


def test_without_a_driver_there_are_no_cards_and_no_errors(machine):
    machine(0, has_driver=False)
    assert (cards(), driver(), module.cuda_of_driver()) == ([], "", "")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"count": 1, "torch": ""}, "torch is not installed"),
        ({"count": 0, "has_driver": False}, "no NVIDIA card here, or its driver does not answer"),
        ({"count": 0}, "the driver knows of no card"),
        ({"count": 1, "visible": "-1"}, "CUDA_VISIBLE_DEVICES hides all cards"),
        ({"count": 1, "torch": "2.13.0+cpu"}, "torch 2.13.0+cpu is built for CPUs; run: TORCH_INDEX=none "),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_what_keeps_torch_from_a_card_is_said(machine, there, words):
    machine(**there)
    assert words in obstacle()


@pytest.mark.parametrize("build", ["2.13.0", "2.13.0+cu130"])
def test_nothing_keeps_torch_for_cuda_from_a_card(machine, build):
    machine(1, torch=build)
    assert obstacle() == ""


@pytest.mark.parametrize(
    ("line", "version"), [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda: Optional[str] = None", "")]
)
def test_the_cuda_of_torch_is_read_without_importing_it(monkeypatch, tmp_path, line, version):
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\ncuda_like = '9'\n")
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(module, "find_spec", {"torch": package}.get)
    assert module.cuda_of_torch() == version


def test_there_is_no_cuda_of_a_torch_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(module, "find_spec", {}.get)
    assert module.cuda_of_torch() == ""


def test_the_cuda_of_the_driver_is_told(machine):
    machine(1, cuda=12080)
    assert module.cuda_of_driver() == "12.8"


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Take a card as a new worker does; returns its id and the file that is locked until the worker ends.

    A lock belongs to an open file, so one process can stand for several.
    """
    held = []
    monkeypatch.setattr(module, "_held", held)

    def take():
        monkeypatch.delenv(module.VISIBLE, raising=False)  # a worker before it saw its own card alone
        card = take_card(tmp_path / "cards")
        assert os.environ[module.VISIBLE] == card.id, "it sees no other"
        return card.id, held[-1]

    yield take
    for file in held:
        file.close()


def test_each_worker_takes_a_card_of_its_own_and_one_more_shares_the_first(machine, worker):
    machine(2)
    workers = [worker() for _ in range(3)]
    assert [card for card, _ in workers] == ["GPU-aaaa", "GPU-bbbb", "GPU-aaaa"]


def test_a_worker_takes_the_card_of_one_that_has_ended(machine, worker):
    machine(2)
    (_, held_first), second = worker(), worker()
    held_first.close()
    assert worker()[0] == "GPU-aaaa"
    assert second[0] == "GPU-bbbb"


def test_where_there_is_no_card_none_is_taken_and_nothing_is_written(machine, tmp_path):
    machine(0)
    assert take_card(tmp_path / "cards") is None
    assert not (tmp_path / "cards").exists()


def test_more_workers_than_cards_are_refused_with_the_number_to_set(machine):
    machine(2)
    check_cards(Settings(engine="torch", workers=2))
    with pytest.raises(SetupError, match=r"RERANK_WORKERS is 3.*2 cards.*one worker.*; set RERANK_WORKERS=2$"):
        check_cards(Settings(engine="torch", workers=3))


@pytest.mark.parametrize(
    ("there", "engine"),
    [
        ({"count": 1}, "auto"),
        ({"count": 1}, "native"),
        ({"count": 0}, "torch"),
        ({"count": 1, "torch": "2+cpu"}, "torch"),
    ],
    ids=["another engine may serve", "on the CPU", "no card", "torch can't use it"],
)
def test_any_number_of_workers_may_compute_where_no_card_does(machine, there, engine):
    machine(**there)
    check_cards(Settings(engine=engine, workers=4))


def found(**settings):
    (finding,) = (each for each in doctor.examine(Settings(**settings)) if each.about == "card")
    return finding.verdict, finding.seen, finding.remedy


def test_doctor_names_the_cards_their_memory_the_driver_and_torch(machine):
    machine(2)
    verdict, seen, remedy = found(engine="torch", workers=2)
    assert (verdict, remedy) == ("good", "")
    assert "NVIDIA A, 60.0 GiB of 80.0 GiB free" in seen
    assert seen.endswith("NVIDIA B, 60.0 GiB of 80.0 GiB free; driver 580.65.06, torch 2.13.0")


@pytest.mark.parametrize("there", [{"has_driver": False}, {"torch": ""}], ids=["no driver", "no torch"])
def test_doctor_finds_it_good_that_a_machine_has_no_card(machine, there):
    machine(0, **there)
    assert found() == ("good", "none: the CPU computes", "")


def test_doctor_says_that_another_engine_is_faster_than_torch_on_a_cpu(machine):
    machine(0)
    verdict, seen, remedy = found(engine="torch")
    assert (verdict, remedy) == ("poor", "set RERANK_ENGINE=auto: on a CPU other engines are faster")
    assert "the driver knows of no card" in seen


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize(
    ("there", "verdict", "seen", "remedy"),
    [
        ({"torch": "2.13.0+cpu"}, "poor", "2.13.0+cpu is built for CPUs", "run: TORCH_INDEX=none "),
        ({"torch": ""}, "poor", "torch is not installed", "install it: docs/gpu.md"),
        ({"cuda": 12080}, None, "torch is built for CUDA 13.0, the driver for 12.8", "update NVIDIA's driver"),
        ({"compiles": False}, "poor", "nothing can be compiled for it", "apt-get install gcc libc6-dev python3-dev"),
    ],
    ids=["torch for CPUs", "no torch", "an old driver", "no compiler"],
)
def test_doctor_says_what_keeps_a_card_from_computing_or_makes_it_slow(machine, engine, there, verdict, seen, remedy):
    machine(1, **there)
    outcome = found(engine=engine)
    assert outcome[0] == (verdict or {"auto": "poor", "torch": "bad"}[engine])  # auto serves by the CPU then
    assert seen in outcome[1]
    assert outcome[2].startswith(remedy)


def test_a_driver_that_is_newer_than_torch_s_cuda_is_good(machine):
    machine(1, cuda=14010)
    assert found()[0] == "good"


def test_doctor_lets_a_card_rest_where_another_engine_is_asked_for(machine):
    machine(1, torch="2.13.0+cpu")
    assert found(engine="native")[0] == "good"


def test_doctor_refuses_more_workers_than_cards(machine):
    machine(1)
    verdict, seen, remedy = found(engine="torch", workers=2)
    assert (verdict, remedy) == ("bad", "set RERANK_WORKERS=1")
    assert "1 card" in seen


def stage(name):
    return next(text for text in STAGES if text.splitlines()[0].endswith(f" AS {name}"))


def test_the_image_that_is_built_by_default_comes_last_and_takes_nothing_of_the_one_for_cards():
    assert re.search(r" AS \w+$", STAGES[-1].splitlines()[0]) is None
    assert not any(re.search(r"^gpu|--from=gpu", text, re.MULTILINE) for text in STAGES)
    healths = [
        text.partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0] for text in (stage("gpu"), STAGES[-1])
    ]
    assert healths[0] == healths[1]


def test_the_image_for_cards_has_what_the_extra_torch_has_without_nncf():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["torch"]
    wanted = {re.match(r"[\w-]+", requirement)[0] for requirement in extra} - {"nncf"}
    commands = re.sub(r"^#.*$", "", stage("gpu"), flags=re.MULTILINE)
    assert "TORCH_INDEX=none" in commands
    assert {name for name in wanted | {"nncf"} if re.search(rf"[ -]{name}( |$)", commands, re.MULTILINE)} == wanted
    pinned = (ROOT / "constraints.txt").read_text()
    assert [name for name in wanted if f"\n{name}==" not in pinned] == []


def test_compose_starts_the_service_on_cards_only_by_its_profile_with_a_worker_for_each():
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gpu"]
    assert (service["profiles"], service["build"]["target"]) == (["gpu"], "gpu")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert device["count"] == service["environment"]["RERANK_WORKERS"]


def test_a_pod_for_cards_has_one_card_and_one_worker():
    text = (ROOT / "deploy" / "kubernetes" / "service-gpu.yaml").read_text()
    (container,) = next(yaml.safe_load_all(text))["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "RERANK_WORKERS", "value": "1"} in container["env"]
