// Ranked documents as cards.

import { $, h } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 200;

export function showResults(answer, documents, raw, roundTripMs) {
  const { results } = answer;
  const list = $("ranked");
  const scores = results.map((result) => result.score);
  const low = Math.min(...scores);
  const high = Math.max(...scores);
  // 0..1 is shown as it is; raw logits by their place between the lowest and the highest.
  const share = (score) => (raw ? (high > low ? (score - low) / (high - low) : 1) : Math.min(1, Math.max(0, score)));
  list.replaceChildren(...results.slice(0, SHOWN).map((result, place) => card(result, place, share(result.score))));
  $("ranked-empty").hidden = results.length > 0;
  const parts = [
    format.plural(documents.length, "document"),
    results.length < documents.length ? `${format.count(results.length)} returned` : null,
    results.length > SHOWN ? `the first ${SHOWN} shown` : null,
    `${format.ms(answer.latency_ms)} scoring`,
    `${format.ms(roundTripMs)} in all`,
    answer.model,
  ];
  $("timing").textContent = parts.filter(Boolean).join(" · ");
  $("timing").hidden = false;
}

function card(result, place, share) {
  const moved = result.index - place;
  const word = moved > 0 ? `up ${moved}` : moved < 0 ? `down ${-moved}` : "same place";
  const sign = moved > 0 ? `↑ ${moved}` : moved < 0 ? `↓ ${-moved}` : "=";
  const bar = h("progress", { class: "score", max: 1, "aria-hidden": "true" });
  bar.value = share;
  const metadata = Object.keys(result.metadata ?? {}).length ? h("p", { class: "metadata" }, JSON.stringify(result.metadata)) : null;
  return h(
    "li",
    {},
    h("span", { class: "rank", "aria-label": `Rank ${place + 1}` }, String(place + 1)),
    h("span", { class: "moved", "data-moved": Math.sign(moved), title: `Was at place ${result.index + 1}`, "aria-label": word }, sign),
    bar,
    h("span", { class: "number" }, result.score.toFixed(4)),
    h(
      "div",
      { class: "text" },
      h("p", {}, result.content ?? ""),
      metadata,
      result.truncated ? h("p", { class: "cut" }, "Longer than the model reads: scored by its beginning.") : null,
    ),
  );
}
