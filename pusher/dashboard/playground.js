// Query and documents in, ranked cards out.

import { $, setText } from "./dom.js";
import { read, textOf } from "./documents.js";
import { follow } from "./follow.js";
import * as format from "./format.js";
import { UNREACHABLE, fromAnswer } from "./problems.js";
import { showResults } from "./results.js";
import { curl, isShortened, python } from "./snippets.js";

const SHOW_PROGRESS_AFTER_MS = 300;

const EXAMPLE = {
  query: "how do bees find their way home",
  documents: [
    "Milk keeps three days in a cold place.",
    "A bee remembers landmarks and the angle of the sun.",
    "The last train leaves at midnight.",
    "Foragers dance in the hive to tell others where flowers are.",
    "To find your way home without a map, follow the river downstream.",
    "Honey bees can see polarised light, and so the sun's direction through clouds.",
  ],
};

export function startPlayground({ keyOf, askKey }) {
  let file = null; // { documents, note, problem } when a file was dropped
  let running = null;
  let asked = null; // the input of the results that are shown
  const given = () => file ?? read($("documents").value);
  const input = () => [$("query").value, file ?? $("documents").value, $("top").value, $("raw").checked];

  const compare = () => {
    const outdated = asked !== null && input().some((part, place) => part !== asked[place]);
    $("outdated").hidden = !outdated;
    $("ranked").classList.toggle("stale", outdated);
    $("timing").classList.toggle("stale", outdated);
  };

  const recount = () => {
    const { documents, note, problem } = given();
    $("rank").disabled = Boolean(problem);
    setText($("file-problem"), problem ? `It can't be read. ${problem.charAt(0).toUpperCase()}${problem.slice(1)}.` : "");
    $("file-problem").hidden = !problem;
    compare();
    const number = documents.length ? format.plural(documents.length, "document") : "No documents yet";
    setText($("documents-count"), [number, note].filter(Boolean).join(". "));
  };

  const load = async (chosen) => {
    if (!chosen) return;
    const { documents, query, note, problem } = read(await chosen.text(), chosen.name);
    file = { documents, note, problem };
    if (query) $("query").value = query;
    setText($("file-name"), problem ? chosen.name : `${chosen.name}, ${format.plural(documents.length, "document")}`);
    useFile(true);
  };

  const useFile = (there) => {
    if (!there) file = null;
    $("file").hidden = !there;
    $("documents").hidden = there;
    recount();
  };

  const body = () => {
    const { documents, query } = given();
    if (query && !$("query").value.trim()) $("query").value = query;
    const top = Number.parseInt($("top").value, 10);
    return {
      query: $("query").value,
      // Bare texts would ask for another dialect, which answers in its own form.
      documents: documents.map((document) => (typeof document === "string" ? { content: document } : document)),
      top_k: Number.isFinite(top) && top > 0 ? top : 0,
      ...($("raw").checked ? { raw_scores: true } : {}),
    };
  };

  const rank = async () => {
    if ($("rank").disabled) return;
    running?.abort();
    const sent = body();
    const from = input();
    const problem = !sent.documents.length ? "Give at least one document." : !sent.query.trim() ? "Give a query." : null;
    tell(problem);
    if (problem) return;
    const key = keyOf();
    const abort = (running = new AbortController());
    const id = `playground-${Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    const working = setTimeout(() => showWorking(sent.documents.length), SHOW_PROGRESS_AFTER_MS);
    follow(id, key, showProgress, abort.signal).catch(() => {}); // a bar that stands still harms nobody
    const began = performance.now();
    try {
      const reply = await fetch("../rerank", {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Request-Id": id, ...(key ? { Authorization: `Bearer ${key}` } : {}) },
        body: JSON.stringify(sent),
        signal: abort.signal,
      });
      const answer = await reply.json().catch(() => null);
      if (running !== abort) return;
      if (reply.ok && answer?.results) {
        showResults(answer, sent.documents, Boolean(sent.raw_scores), performance.now() - began);
        showSnippets(sent, Boolean(key));
        asked = from;
        compare();
      } else {
        tell(fromAnswer(reply.status, answer));
        if (reply.status === 401) askKey();
      }
    } catch (error) {
      if (running !== abort) return;
      if (error.name === "AbortError") tell("Stopped waiting.", "off");
      else tell(UNREACHABLE);
    } finally {
      clearTimeout(working);
      if (running === abort) {
        running = null;
        $("working").hidden = true;
      }
      abort.abort(); // ends the follower
    }
  };

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    rank();
  });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      rank();
    }
  });
  $("cancel").addEventListener("click", () => running?.abort());
  $("documents").addEventListener("input", recount);
  for (const id of ["query", "top", "raw"]) $(id).addEventListener("input", compare);
  $("documents").addEventListener("paste", (event) => pasteMuch(event, recount));
  $("open").addEventListener("change", (event) => load(event.target.files[0]).finally(() => (event.target.value = "")));
  $("file-remove").addEventListener("click", () => useFile(false));
  $("example").addEventListener("click", () => {
    $("query").value = EXAMPLE.query;
    $("documents").value = EXAMPLE.documents.map(textOf).join("\n");
    useFile(false);
  });
  acceptDrops($("drop"), load);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  recount();
}

// Browsers type a pasted text in, line by line, which takes half a minute for thousands of lines; this puts it there.
const MUCH_CHARS = 5000;

function pasteMuch(event, then) {
  const text = event.clipboardData?.getData("text") ?? "";
  if (text.length < MUCH_CHARS) return;
  event.preventDefault();
  const { selectionStart, selectionEnd } = event.target;
  event.target.setRangeText(text, selectionStart, selectionEnd, "end");
  then();
}

function acceptDrops(area, load) {
  const over = (event, is) => {
    event.preventDefault();
    area.classList.toggle("over", is);
  };
  area.addEventListener("dragover", (event) => over(event, true));
  area.addEventListener("dragleave", (event) => over(event, false));
  area.addEventListener("drop", (event) => {
    over(event, false);
    load(event.dataTransfer.files[0]);
  });
}

// `level`: what one did oneself is no fault.
function tell(problem, level = "bad") {
  $("problem").dataset.level = level;
  setText($("problem"), problem ?? "");
  $("problem").hidden = !problem;
}

function showWorking(total) {
  $("working").hidden = false;
  $("progress").removeAttribute("value"); // how far is not known yet
  setText($("progress-said"), `Scoring ${format.plural(total, "document")}`);
}

function showProgress(state) {
  if (state.status !== "running" || !state.pairs) return;
  $("progress").max = state.pairs;
  $("progress").value = state.scored;
  setText($("progress-said"), `${format.count(state.scored)} of ${format.plural(state.pairs, "document")} scored`);
}

function showSnippets(asked, withKey) {
  const url = new URL("../rerank", location.href).href;
  const note = isShortened(asked) ? "# the first documents only; add the others\n" : "";
  setText($("curl"), note + curl(url, asked, withKey));
  setText($("python"), note + python(url, asked, withKey));
  $("snippets").hidden = false;
}

async function copy(button) {
  const pre = $(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(pre.textContent);
    setText(button, "Copied");
  } catch {
    getSelection().selectAllChildren(pre); // no clipboard without https: select it, so that Ctrl+C does
    setText(button, "Press Ctrl+C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}
