"""Which engine and precision is tried where there is a card, and what is said of it."""

from types import SimpleNamespace

import pytest

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine import artifact, runtimes
from webapp.engine.artifact import first_artifact_dir
from webapp.engine.runtimes import candidates
from webapp.engine.runtimes.gpu import card

LARGE, SMALL = 100_000_000, 4_000_000


@pytest.fixture
def machine(monkeypatch):
    """A machine with one card that torch can use, unless `obstacle` or `fault` say why it can't."""
    found = SimpleNamespace(obstacle="", fault="", cards=[SimpleNamespace(name="NVIDIA H200", id="GPU-1")])

    def find_device():
        if found.fault:
            raise SetupError(found.fault)
        return SimpleNamespace(type="cuda")

    monkeypatch.setattr(runtimes, "obstacle", lambda: found.obstacle)
    monkeypatch.setattr(artifact, "usable", lambda: not found.obstacle)
    monkeypatch.setattr(runtimes, "cards", lambda: found.cards)
    monkeypatch.setattr(card, "find_device", find_device)
    return found


def tried(parameters=LARGE, **asked):
    told = []
    found = candidates(Settings(**asked), told.append, parameters)
    return [str(each) for each in found], " ".join(told)


@pytest.mark.usefixtures("machine")
def test_a_card_comes_first_in_fp16_then_in_bf16_and_the_processor_after_it():
    found, told = tried()
    assert found[:2] == ["torch fp16", "torch bf16"]
    assert "torch fp32" not in found
    assert found[-1] == "openvino fp32"
    assert told.startswith("NVIDIA H200 computes: the model has 100 million parameters")


@pytest.mark.usefixtures("machine")
def test_a_small_model_stays_on_the_processor_and_the_log_says_so():
    found, told = tried(SMALL)
    assert not [each for each in found if each.startswith("torch")]
    assert "NVIDIA H200 is left out: below 20 million parameters the processor computes" in told


@pytest.mark.parametrize("why", ["torch 2.13.0+cpu is built for CPUs; install again", "there is no driver"])
def test_a_card_that_torch_can_t_use_is_left_out_in_words(machine, why):
    machine.obstacle = why
    found, told = tried()
    assert not [each for each in found if each.startswith("torch")]
    assert f"NVIDIA H200 is left out: {why}" in told


def test_a_driver_that_is_too_old_leaves_auto_to_the_processor_and_stops_torch(machine):
    machine.fault = "torch can't use NVIDIA H200 (the driver is too old); update NVIDIA's driver"
    found, told = tried()
    assert not [each for each in found if each.startswith("torch")]
    assert "the driver is too old" in told
    with pytest.raises(SetupError, match="the driver is too old"):
        tried(engine="torch")


def test_without_a_card_nothing_is_said_of_one_and_cuda_is_not_started(machine):
    machine.cards = []
    machine.fault = "CUDA was started"
    found, told = tried()
    assert not [each for each in found if each.startswith("torch")]
    assert "card" not in told


@pytest.mark.parametrize(
    ("cards", "expected"),
    [(True, ["torch fp16", "torch bf16", "torch fp32"]), (False, ["torch fp32"])],
)
def test_torch_that_is_asked_for_takes_16_bits_on_a_card_alone(machine, cards, expected):
    machine.cards = machine.cards if cards else []
    assert tried(engine="torch", parameters=SMALL)[0] == expected
    assert tried(engine="torch", precision="fp16")[0] == ["torch fp16"]
    assert tried(engine="torch", precision="bf16")[0] == ["torch bf16"]


@pytest.mark.usefixtures("machine")
def test_another_engine_that_is_asked_for_takes_no_card():
    assert tried(engine="openvino", precision="fp32") == (["openvino fp32"], "")


def test_what_is_made_for_a_card_is_another_artifact_than_what_is_made_without(machine, tmp_path):
    def names():
        return {
            engine: first_artifact_dir(Settings(state_dir=tmp_path, engine=engine)).name
            for engine in ("auto", "torch", "native")
        }

    with_card = names()
    machine.obstacle = "there is none"
    without = names()
    assert with_card["auto"] != without["auto"]
    assert with_card["torch"] != without["torch"]
    assert with_card["native"] == without["native"]
