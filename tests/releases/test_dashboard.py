"""A dashboard that stays open while releases come and go. DEPLOYS=5 for the trial of docs/reliability.md."""

import os

import pytest
import requests
from browsing import browser, needs_chromium, page

pytestmark = [needs_chromium, pytest.mark.slow]

DEPLOYS = int(os.environ.get("DEPLOYS", "2"))

WATCH = """() => {
  window.steps = new Set();
  window.breaks = 0;
  new MutationObserver(() => {
    const steps = document.querySelectorAll("#releases > li:first-child .steps b");
    for (const step of steps) window.steps.add(step.textContent);
  }).observe(document.querySelector("#releases"), {subtree: true, childList: true, characterData: true});
  new MutationObserver(() => (window.breaks += document.querySelector("#connection").dataset.level !== "good"))
    .observe(document.querySelector("#connection"), {attributes: true, attributeFilter: ["data-level"]});
}"""


def test_it_sees_every_step_and_is_never_cut(faulty_stack):
    with browser() as chromium, page(chromium) as opened:
        opened.goto(f"{faulty_stack.url}/dashboard")
        opened.wait_for_selector('#connection[data-level="good"]')
        opened.evaluate(WATCH)
        for number in range(2, 2 + DEPLOYS):
            code, said = faulty_stack.reranking("deploy", "--again", "--watch", "1")
            assert code == 0, said
            color = faulty_stack.colors()["active"]
            row = f"#releases > li:first-child:has-text('{number}, {color}')"
            opened.wait_for_selector(f"{row} .state:has-text('serving')")
            opened.wait_for_selector(f"{row} .what:has-text('stub (stub, none)')")
            others = opened.locator("#releases > li:not(:first-child) .state").all_inner_texts()
            assert set(others) <= {"replaced"}, "one release serves"
        opened.wait_for_selector("#recent-empty:visible")
        figures = requests.get(f"{faulty_stack.url}/metrics", timeout=60).text
        assert "rerank_request_duration_seconds_count 0.0" in figures, "what the gate asks is nobody's request"
        steps = set("prepare room start ready gate switch watch drain".split())
        assert set(opened.evaluate("[...window.steps]")) == steps
        assert opened.locator("#releases > li").count() == min(DEPLOYS, 5)
        (faulty_stack.state_dir / "fault").write_text("no room")
        assert faulty_stack.reranking("deploy", "--again")[0] == 1
        opened.wait_for_selector("#releases > li:first-child[data-level='bad'] .why:has-text('two colors')")
        assert opened.evaluate("window.breaks") == 0, "one connection, from the first step to the last"
