"""Clients of every dialect ask all the time, and meet no failure while releases come and go.

DEPLOYS=20 python -m pytest -s tests/releases/test_under_load.py gives the figures of docs/releases.md.
"""

import os
import re
import time

import pytest
from load import Load
from running import wait_for

pytestmark = pytest.mark.slow

DEPLOYS = int(os.environ.get("DEPLOYS", "2"))
CALM_S = 3.0


def test_deploys_and_a_rollback_cost_no_request(model_stack, bert_settings, other_model):
    stack, load = model_stack, Load(model_stack.port)
    models = {"bert": bert_settings.model, "xlm": other_model}
    load.learn("bert")
    code, said = stack.reranking("deploy", "--model", models["xlm"], "--watch", "0.5")
    assert code == 0, said
    load.learn("xlm")
    peaks = []
    with load:
        wait_for(lambda: len(load.took_s) > CALM_S * 20, "a calm while to compare with")
        calm, since = load.quantiles(), len(load.took_s)
        for number in range(DEPLOYS):
            # Every other one changes the model, the others only say the same again.
            other = ["--model", models["bert" if number % 4 == 0 else "xlm"]] if number % 2 == 0 else []
            code, said = stack.reranking("deploy", *other, "--watch", "1")
            assert code == 0, said
            peaks.append(int(re.search(r"about ([\d,]+) MB", said)[1].replace(",", "")))
        busy = load.quantiles(since)
        began = time.monotonic()
        code, said = stack.reranking("rollback")
        assert code == 0, said
        took_s = float(re.search(r"after ([\d.]+) s", said)[1])
    print(  # noqa: T201 - the figures for docs/releases.md
        f"{DEPLOYS} deploys, {sum(load.outcomes.values())} requests {dict(load.outcomes)}, {dict(load.by_model)},"
        f" p50/p99 calm {calm[0]:.0f}/{calm[1]:.0f} ms, deploying {busy[0]:.0f}/{busy[1]:.0f} ms,"
        f" rollback {took_s:.1f} s (with its drain {time.monotonic() - began:.1f} s), {max(peaks)} MB a colour"
    )
    assert set(load.outcomes) == {200}, load.outcomes
    assert set(load.by_model) == {"bert", "xlm"}, load.by_model
    assert set(load.colours) == {"blue", "green"}
    assert took_s < 15
    assert stack.reranking("deploy", "--history")[1].count("serving") == DEPLOYS + 1
