"""Releases that are no good are refused at their step, and clients don't notice."""

import hashlib
import json
import threading

import pytest
from load_kit import OpenLoop
from running import PATIENCE_S, wait_for

pytestmark = pytest.mark.slow


def untouched(stack, before):
    """The same processes serve, and nothing of the candidate is left."""
    after = stack.colors()
    return (
        after["active"] == before["active"]
        and after["serves"] == before["serves"]
        and "attempt" not in {name for name, value in after.items() if value}
        and stack.workers() == before["workers"]
    )


def now(stack):
    return {**stack.colors(), "workers": stack.workers()}


def test_each_bad_candidate_is_refused_at_its_step(faulty_stack):
    stack, fault = faulty_stack, faulty_stack.state_dir / "fault"
    before = now(stack)
    with OpenLoop(stack.port) as load:
        for what, step, why in (
            ("no room", "room", "two colors don't fit"),
            ("crashes at boot", "ready", "ended while it started"),
            ("never gets ready", "ready", "not ready within"),
            ("leaks", "gate", "it leaks"),
            ("fails", "gate", "status 500"),
        ):
            fault.write_text(what)
            code, said = stack.reranking("deploy", "--again", "--patience", "25")
            assert code == 1
            last = said.splitlines()[-1]
            assert last.startswith(f"reranking: refused at {step}: "), said
            assert why in last
            assert untouched(stack, before), what
    assert set(load.outcomes) == {200}, load.outcomes
    history = stack.reranking("deploy", "--history")[1]
    assert history.count("refused at") == 5


def test_new_workers_that_crash_at_boot_cost_a_change_by_hup_and_not_the_stack(faulty_stack):
    stack = faulty_stack
    assert stack.reranking("deploy", "--again", "--watch", "0")[0] == 0
    before = stack.colors()
    assert before["active"] == "green"
    (stack.state_dir / "fault").write_text("two crash at boot")
    code, said = stack.reranking("deploy", "--set", "WORKERS=2")
    assert code == 1
    assert said.splitlines()[-1].startswith("reranking: refused at reload: its workers did not start"), said
    assert stack.colors()["serves"] == before["serves"]
    assert stack.rerank().status_code == 200
    assert len(stack.workers()) == 1


def test_a_canary_is_compared_with_the_color_that_serves(faulty_stack):
    stack = faulty_stack
    before = now(stack)
    for fault, why in (("is slow", "the new color is slower"), ("fails", "the new color fails more often")):
        spoiling = threading.Thread(target=spoil, args=(stack, fault))
        spoiling.start()
        with OpenLoop(stack.port) as load:
            code, said = stack.reranking("deploy", "--again", "--canary", "40", "--for", "4", "--watch", "0")
        spoiling.join()
        assert code == 1, said
        assert f"refused at canary: {why}" in said
        assert untouched(stack, before)
        assert fault == "fails" or set(load.outcomes) == {200}, load.outcomes
        (stack.state_dir / "fault").unlink()
    with OpenLoop(stack.port) as load:
        code, said = stack.reranking("deploy", "--again", "--canary", "40", "--for", "4", "--watch", "0")
    assert code == 0, said
    assert "new: " in said
    assert set(load.outcomes) == {200}, load.outcomes
    assert load.colors["green"] > 0
    assert load.colors["blue"] > 0


def spoil(stack, fault):
    """Once clients' traffic is looked at, no sooner: the gate would see it."""
    wait_for((stack.state_dir / "run" / "comparing").exists, "the canary has begun")
    (stack.state_dir / "fault").write_text(fault)


def test_a_color_that_fails_its_clients_hands_them_back(faulty_stack):
    stack = faulty_stack
    before = now(stack)
    deploying = stack.begin_command("deploy", "--again", "--watch", "60")
    with OpenLoop(stack.port, rate=40) as load:
        wait_for((stack.state_dir / "run" / "comparing").exists, "the watch has begun")
        (stack.state_dir / "fault").write_text("fails")
        said = deploying.communicate(timeout=PATIENCE_S)[0]
        assert deploying.returncode == 1
        assert "refused at watch: " in said
        answered = load.outcomes[200]
        wait_for(lambda: load.outcomes[200] > answered + 20, "the old color answers")
    assert untouched(stack, before)


def test_a_release_whose_scores_are_not_its_model_s_is_refused(model_stack, bert_settings, other_model):
    stack, models = model_stack, model_stack.state_dir / "models"
    before = now(stack)
    wanted = {"bert": other_model, "xlmr": bert_settings.model}[
        before["serves"][before["active"]]["artifact"].split("-")[0]
    ]
    (artifact,) = [each for each in models.iterdir() if each.name.startswith(f"{wanted.rsplit('/', 1)[-1]}-")]
    kept = {name: (artifact / name).read_bytes() for name in ("golden.json", "manifest.json")}
    golden = json.loads(kept["golden.json"])
    golden["queries"][0]["scores"][3] += 0.1
    told = json.dumps(golden).encode()
    (artifact / "golden.json").write_bytes(told)
    manifest = json.loads(kept["manifest.json"])
    manifest["files"]["golden.json"] = hashlib.sha256(told).hexdigest()
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    try:
        code, said = stack.reranking("deploy", "--model", wanted)
        assert code == 1
        assert "refused at gate: golden scores are off by 0.1" in said
        assert untouched(stack, before)
        (artifact / "golden.json").write_bytes(b"damaged")
        code, said = stack.reranking("deploy", "--model", wanted)
        assert code == 1
        assert "refused at prepare" in said
        assert "does not match its manifest" in said
        code, said = stack.reranking("deploy", "--model", str(stack.state_dir / "nowhere"))
        assert code == 1
        assert "refused at prepare" in said
    finally:
        for name, content in kept.items():
            (artifact / name).write_bytes(content)
    assert untouched(stack, before)
