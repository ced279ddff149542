"""The playground of the dashboard in a real browser."""

import json

import pytest
from browsing import needs_chromium, page
from load_kit import fresh_documents
from running import wait_for

pytestmark = needs_chromium

PASTE = """(text) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text", text);
  const paste = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
  document.querySelector("#documents").dispatchEvent(paste);
}"""


def test_the_playground_ranks_a_pasted_list_by_keyboard(stack, chromium):
    with page(chromium, permissions=["clipboard-read", "clipboard-write"]) as opened:
        opened.goto(f"{stack.url}/dashboard#playground")
        opened.focus("#query")
        opened.keyboard.type("how do bees find home")
        opened.keyboard.press("Tab")
        opened.keyboard.insert_text("milk keeps\nbees find home by the sun\n\nthe last train\n" + "a long one " * 2000)
        assert opened.inner_text("#documents-count") == "4 documents"
        opened.keyboard.press("Control+Enter")
        opened.wait_for_selector("#ranked li")
        assert opened.locator("#ranked li").count() == 4
        scores = [float(text) for text in opened.locator("#ranked .number").all_inner_texts()]
        assert scores == sorted(scores, reverse=True)
        assert opened.locator("#ranked .cut").count() == 1
        assert "4 documents" in opened.inner_text("#timing")
        opened.click("#snippets summary")
        opened.click('[data-copy="python"]')
        opened.wait_for_selector("text=Copied")
        assert "requests.post" in opened.evaluate("navigator.clipboard.readText()")


def test_a_dropped_file_is_read_and_can_be_removed(stack, chromium, tmp_path):
    table = tmp_path / "articles.csv"
    table.write_text('id,text\n1,"bees, home"\n2,milk\n')
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard#playground")
        opened.set_input_files("#open", str(table))
        opened.wait_for_selector("text=articles.csv, 2 documents")
        opened.fill("#query", "bees")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")
        assert opened.locator("#ranked li").count() == 2
        opened.click("#file-remove")
        assert opened.inner_text("#documents-count") == "No documents yet"


@pytest.mark.slow
def test_a_long_run_in_the_playground_shows_how_far_it_is_and_can_be_stopped(stack, chromium, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text(
        "\n".join(json.dumps({"text": text, "id": n}) for n, text in enumerate(fresh_documents(6000, words=300)))
    )
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard#playground")
        opened.set_input_files("#open", str(many))
        opened.wait_for_selector("text=many.jsonl, 6,000 documents")
        opened.fill("#query", "bees")
        opened.click("#rank")
        wait_for(lambda: opened.evaluate("document.querySelector('#progress').value > 0.05"), "the bar moves")
        assert "of 6,000 documents scored" in opened.inner_text("#progress-said")
        opened.click("#cancel")
        opened.wait_for_selector("#problem[data-level='off']:has-text('Stopped waiting')")
        assert opened.is_hidden("#working")


def test_rubbish_in_the_playground_gets_a_sentence(stack, chromium):
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard#playground")
        opened.fill("#query", "   ")
        opened.fill("#documents", '[{"a": ')
        assert "isn't valid" in opened.inner_text("#documents-count")
        opened.click("#rank")
        assert opened.inner_text("#problem") == "Give a query."
        opened.fill("#query", "\u0000 <script>alert(1)</script> \ud83d\udca5")
        opened.fill("#documents", "<img src=x onerror=alert(1)>\n\u202e\u0007 rubbish \ufffd")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")
        assert opened.locator("#ranked img").count() == 0
        opened.fill("#documents", "")
        opened.evaluate(PASTE, "x\n" * 10_001)
        opened.click("#rank")
        opened.wait_for_selector("#problem:has-text('10001 documents')")


def test_old_results_are_greyed_when_the_input_changes_and_no_longer_when_it_is_as_it_was(stack, chromium):
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard/#playground")
        opened.click("#example")
        opened.click("#rank")
        opened.wait_for_selector("#ranked li")
        assert opened.is_hidden("#outdated")
        for change, undo in (
            (lambda: opened.press("#query", "x"), lambda: opened.press("#query", "Backspace")),
            (lambda: opened.fill("#top", "3"), lambda: opened.fill("#top", "")),
            (lambda: opened.check("#raw"), lambda: opened.uncheck("#raw")),
        ):
            opened.press("#query", "End")
            change()
            opened.wait_for_selector("#ranked.stale")
            assert opened.is_visible("#outdated")
            undo()
            opened.wait_for_selector("#outdated", state="hidden")
        opened.fill("#documents", "other")
        opened.wait_for_selector("#ranked.stale")
        opened.click("#rank")
        opened.wait_for_selector("#outdated", state="hidden")


def test_a_broken_file_disables_rank_and_says_where_it_breaks(stack, chromium, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"text": "b",}\n')
    with page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard/#playground")
        opened.fill("#query", "bees")
        opened.set_input_files("#open", str(broken))
        opened.wait_for_selector("#file-problem:has-text('Line 2, column 14')")
        assert opened.is_disabled("#rank")
        opened.focus("#query")
        opened.keyboard.press("Control+Enter")
        assert opened.is_hidden("#problem")
        opened.click("#file-remove")
        assert opened.is_enabled("#rank")
