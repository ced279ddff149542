"""The dashboard and the playground in a real browser."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import requests
from browsing import NO_SCROLL, needs_chromium, page
from load_kit import fresh_documents as documents
from running import PATIENCE_S, Stack, wait_for

pytestmark = needs_chromium

SCREENSHOTS = Path(__file__).resolve().parents[2] / "var" / "screenshots"

SEE_BAR = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const bar = document.querySelector('#running li progress[aria-label="Request big"]');
    if (bar && window.seen.at(-1) !== bar.value / bar.max) window.seen.push(bar.value / bar.max);
  }).observe(document.querySelector("#running"), {subtree: true, childList: true, attributes: true});
}"""


def in_background(stack, name, count, words=60, **body):
    def rerank():
        stack.rerank(documents(count, words), headers={"X-Request-Id": name}, body=body)

    thread = threading.Thread(target=rerank)
    thread.start()
    return thread


def hears_workers(stack):
    reply = requests.get(f"{stack.url}/progress", timeout=PATIENCE_S)
    return reply.status_code == 200 and reply.json()["frames"]


def listed(memory):
    """Return the ids of the requests that a restarted pusher lists."""
    return [state["id"] for state in json.loads(memory.read_text())["recent"]]


def live(opened, stack):
    opened.goto(f"{stack.url}/dashboard")
    opened.wait_for_selector('#connection[data-level="good"]')
    opened.wait_for_selector('#workers li[data-level="good"]')


@pytest.mark.slow
def test_the_bar_of_a_long_rerank_moves_and_ends_full(stack, chromium):
    with page(chromium) as opened:
        live(opened, stack)
        opened.evaluate(SEE_BAR)
        running = in_background(stack, "big", 2000, words=300)
        opened.wait_for_selector("#recent li:has-text('big')")
        running.join()
        seen = opened.evaluate("window.seen")
        assert len(set(seen)) >= 5, seen
        assert seen == sorted(seen)
        assert seen[-1] == 1
        opened.wait_for_selector("#running-empty:visible")


@pytest.mark.slow
def test_a_killed_pusher_is_back_and_the_page_whole(own_stack, chromium):
    with own_stack as stack, page(chromium) as opened:
        live(opened, stack)
        stack.rerank(headers={"X-Request-Id": "before"})
        opened.wait_for_selector("#recent li:has-text('before')")
        memory = stack.state_dir / "run" / "pusher.json"
        wait_for(lambda: "before" in listed(memory), "the pusher has written down what it told the page")
        os.kill(stack.pid_of("pusher"), signal.SIGKILL)
        opened.wait_for_selector("#banner:has-text('connection is lost')")
        assert stack.rerank().status_code == 200
        opened.wait_for_selector('#connection[data-level="good"]')
        wait_for(lambda: hears_workers(stack), "workers connected again")
        opened.wait_for_selector('#workers li[data-level="good"]')
        opened.wait_for_selector("#recent li:has-text('before')")
        assert opened.is_hidden("#banner")
        running = in_background(stack, "after", 300)
        opened.wait_for_selector("#recent li:has-text('after')")
        running.join()


@pytest.mark.slow
def test_the_page_shows_that_the_pusher_is_silent(own_stack, chromium):
    with own_stack as stack, page(chromium) as opened:
        live(opened, stack)
        pid = stack.pid_of("pusher")
        os.kill(pid, signal.SIGSTOP)
        try:
            opened.wait_for_selector("#banner:has-text('these figures are old')")
        finally:
            os.kill(pid, signal.SIGCONT)
        opened.wait_for_selector("#banner", state="hidden")


def test_without_its_packages_the_page_says_what_is_missing_and_the_playground_works(stack, chromium):
    with page(chromium) as opened:
        opened.route("**/vendor/**", lambda route: route.fulfill(status=404))
        opened.goto(f"{stack.url}/dashboard")
        opened.wait_for_selector("#notice:has-text('scripts/serve')")
        opened.click("#to-playground")
        opened.click("#example")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")


@pytest.mark.slow
def test_with_keys_the_page_asks_for_one_and_shows_operators_everything(bert_settings, tmp_path, chromium):
    keys = {"api_keys": "first,second", "operator_keys": "boss"}
    with (
        Stack(
            tmp_path / "keys", artifacts_from=bert_settings.state_dir, model=bert_settings.model, engine="stub", **keys
        ) as stack,
        page(chromium) as opened,
    ):
        opened.goto(f"{stack.url}/dashboard")
        opened.wait_for_selector("#key-dialog[open]")
        for key, then in (("wrong", "text=did not accept that key"), ("first", "text=Not visible with this key")):
            opened.fill("#key", key)
            opened.keyboard.press("Enter")
            opened.wait_for_selector(then)
        assert opened.is_hidden("#overview"), "nothing is said of workers or requests that can't be seen"
        assert opened.get_attribute("#connection", "data-level") == "off", "a key that may not see all is no fault"
        stack.rerank(headers={"X-Api-Key": "first", "X-Request-Id": "seen"})
        opened.click("#notice-key")
        opened.fill("#key", "boss")
        opened.keyboard.press("Enter")
        opened.wait_for_selector('#workers li[data-level="good"]')
        opened.wait_for_selector("#recent li:has-text('seen')")
        refused = requests.post(f"{stack.url}/rerank", json={}, headers={"X-Request-Id": "keyless"}, timeout=60)
        assert refused.status_code == 401
        opened.wait_for_selector("#recent li:has-text('keyless') .status:has-text('401')")
        opened.click("#key-open")
        opened.fill("#key", "first")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("text=Not visible with this key")
        assert "seen" not in opened.inner_text("#main"), "what an operator's key saw is gone with it"
        opened.click("#key-open")
        opened.click("#key-forget")
        opened.wait_for_selector("#notice:has-text('needs a key')")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_phone_and_is_pictured(stack, chromium, scheme):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with page(chromium, color_scheme=scheme) as opened:
        live(opened, stack)
        stack.rerank(["x"] * 10_001)
        stack.rerank(documents(12), body={"top_k": 3})
        running = [in_background(stack, f"nightly-{n}", 1200, words=300) for n in range(2)]
        opened.wait_for_selector("#running li >> nth=1")
        for width in (1240, 360):
            opened.set_viewport_size({"width": width, "height": 900 if width > 400 else 740})
            opened.wait_for_timeout(400)
            opened.screenshot(path=SCREENSHOTS / f"live-{scheme}-{width}.png", full_page=True)
            assert opened.evaluate(NO_SCROLL)
        for thread in running:
            thread.join()
        opened.click("#to-playground")
        opened.click("#example")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")
        for width in (1240, 360):
            opened.set_viewport_size({"width": width, "height": 900})
            opened.wait_for_timeout(200)
            opened.screenshot(path=SCREENSHOTS / f"playground-{scheme}-{width}.png", full_page=True)
            assert opened.evaluate(NO_SCROLL)


def test_controls_have_names_for_screen_readers(stack, chromium):
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard#playground")
        unnamed = opened.evaluate(
            """() => [...document.querySelectorAll("input, textarea, button, progress, dialog")].filter((each) =>
              each.getAttribute("autocomplete") !== "username" && !each.labels?.length && !each.textContent.trim()
              && !each.getAttribute("aria-label") && !each.getAttribute("aria-labelledby"))
              .map((each) => each.outerHTML)"""
        )
        assert unnamed == [], json.dumps(unnamed)


COUNT_ROWS = """() => [...document.querySelectorAll("#overview :is(ul, ol, dl)[id]")].flatMap((list) => {
  const keys = [...list.children].map((row) => row.dataset.key);
  return keys.length === new Set(keys).size && !keys.includes(undefined) ? [] : [`${list.id}: ${keys}`];
})"""


def test_rows_are_there_once_and_do_not_grow_through_traffic_reloads_and_reconnects(stack, chromium):
    with page(chromium) as opened:
        complaints = []
        opened.on("console", lambda message: complaints.append(message.text))
        live(opened, stack)
        for turn in range(6):
            for number in range(50):  # one id again and again, some of it rubbish
                data = b"{" if number % 10 == 0 else json.dumps({"query": "q", "documents": ["a", f"{turn} {number}"]})
                headers = {"X-Request-Id": "again" if number % 2 else f"turn-{turn}-{number}"}
                requests.post(f"{stack.url}/rerank", data=data, headers=headers, timeout=60)
                if number == 25 and turn % 2:
                    opened.reload()
            stack.rerank(headers={"X-Request-Id": f"last-{turn}"})
            opened.wait_for_selector(f"#recent li:has-text('last-{turn}')")
            assert opened.evaluate(COUNT_ROWS) == []
            assert opened.locator("#recent li").count() <= 12
        nodes = opened.evaluate("document.querySelectorAll('*').length")
        drawn = "() => new Promise((done) => { let n = 0; setInterval(() => ++n > 12 && done(), 250); })"
        opened.evaluate(drawn)  # a dozen draws of an idle service
        assert opened.evaluate("document.querySelectorAll('*').length") == nodes
        assert complaints == []


def test_a_request_that_is_not_valid_is_listed_and_one_can_be_found_and_shown_in_full(stack, chromium):
    with page(chromium) as opened:
        live(opened, stack)
        url = f"{stack.url}/v2/rerank"
        requests.post(url, data="{", headers={"X-Request-Id": "odd-one"}, timeout=60)
        requests.post(
            url, json={"query": "q", "documents": ["a b", "c"]}, headers={"X-Request-Id": "good-one"}, timeout=60
        )
        opened.wait_for_selector("#recent li:has-text('odd-one') .status:has-text('not valid (400)')")
        assert "nginx" in opened.inner_text("#not-listed"), "what is not listed is said"
        opened.fill("#find", "GOOD-o")
        opened.wait_for_selector("#recent li:has-text('good-one')")
        wait_for(lambda: opened.locator("#recent li").count() == 1, "only what was looked for is listed")
        opened.focus("#recent li button")
        opened.keyboard.press("Enter")
        opened.wait_for_selector("#detail[open]")
        facts = dict(
            zip(
                opened.locator("#detail-facts dt").all_inner_texts(),
                opened.locator("#detail-facts dd").all_inner_texts(),
                strict=True,
            )
        )
        assert facts["Documents"] == "2"
        assert int(facts["Tokens"]) > 3
        assert facts["Format"] == "cohere_v2"
        assert opened.locator("#phases-legend dt").all_inner_texts() == ["Waiting", "Tokenising", "Scoring", "Rest"]
        opened.keyboard.press("Escape")
        opened.wait_for_selector("#detail", state="hidden")
        opened.fill("#find", "")
        opened.select_option("#find-kind", "refused")
        opened.wait_for_selector("#recent li:has-text('odd-one')")
        assert opened.locator("#recent li:has-text('good-one')").count() == 0
        opened.click("#recent li:has-text('odd-one') button")
        opened.wait_for_selector("#detail-facts:has-text('invalid_request')")
        assert "HTTP status" in opened.inner_text("#detail-facts")


def test_the_live_view_names_what_serves_and_no_trial_of_our_own_is_listed(stack, chromium):
    with page(chromium) as opened:
        live(opened, stack)
        opened.wait_for_selector("#serves b")
        served = requests.get(f"{stack.url}/info", timeout=60).json()
        said = opened.inner_text("#serves")
        assert Path(served["model"]).name in said
        assert f"{served['engine']}, {served['precision']}" in said
        first, *_ = stack.logged("webapp", lambda line: line.get("path") == "/rerank")
        assert first["request_id"] not in opened.inner_html("#recent")


@pytest.mark.slow
def test_without_its_pusher_the_page_opens_and_says_what_is_missing_until_it_is_back(own_stack, chromium):
    with own_stack as stack, page(chromium) as opened:
        stack.supervisorctl("stop", "pusher")
        opened.goto(f"{stack.url}/dashboard")
        opened.wait_for_selector("#notice:has-text('The live view is not running')")
        assert opened.is_hidden("#overview")
        opened.click("#to-playground")
        opened.click("#example")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")
        opened.click("#to-live")
        stack.supervisorctl("start", "pusher")
        opened.wait_for_selector('#workers li[data-level="good"]')
        assert opened.is_hidden("#notice")
        stack.supervisorctl("stop", "pusher")
        opened.wait_for_selector("#banner:has-text('its pusher does not')")
        opened.wait_for_selector("#workers li")
