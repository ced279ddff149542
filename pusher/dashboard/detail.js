// One request in full, in a dialog; it goes on while the request does.

import { $, h, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { sentenceOf } from "./problems.js";
import { LEVEL, phasesOf, said } from "./store.js";

let opened = null; // { key } of one that runs, { number } of one that ended
let redraw = () => {};

export function startDetail(draw) {
  redraw = draw;
  const dialog = $("detail");
  $("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => (opened = null));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  $("detail-copy").addEventListener("click", () => {
    const taken = navigator.clipboard?.writeText($("detail-id").textContent) ?? Promise.reject(new Error("no clipboard"));
    taken.then(() => setText($("detail-copy"), "Copied"), () => getSelection().selectAllChildren($("detail-id")));
  });
}

export function openDetail(name, ended) {
  opened = ended ? { number: Number(name) } : { key: name };
  setText($("detail-copy"), "Copy");
  $("detail").showModal();
  redraw();
}

export function showDetail(state, now) {
  if (!opened) return;
  const run = state.running.get(opened.key);
  // One that ran when it was opened has ended since: the latest with its key.
  const ended = state.recent.find((each) => (opened.key ? each.key === opened.key : each.number === opened.number));
  const request = run && !run.done ? { ...run, kind: "running" } : ended;
  if (!request) return; // too old to be known any more; what is shown stays
  setText($("detail-id"), request.id);
  $("detail-state").dataset.level = LEVEL[request.kind] ?? "bad";
  if (!$("detail-state").firstChild) $("detail-state").append(h("span", { class: "dot", "aria-hidden": "true" }), h("span"));
  setText($("detail-state").lastChild, said(request.status));
  const why = ["done", "running"].includes(request.kind) ? "" : sentenceOf(request.status);
  setText($("detail-error"), why);
  $("detail-error").hidden = !why;
  showPhases(request);
  const rows = factsOf(request, state, now).filter(([, value]) => value !== null && value !== undefined && value !== "");
  keep($("detail-facts"), rows, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (row, [, value]) => setText(row.lastChild, value));
}

function factsOf(request, state, now) {
  const worker = state.workers.get(request.worker);
  const running = request.kind === "running";
  const count = (value) => (value ? format.count(value) : null);
  const began = request.began ?? (request.latency_ms === undefined ? null : request.ended - request.latency_ms / 1000);
  return [
    ["Query", request.query],
    ["Documents", request.pairs ? format.count(request.pairs) : null],
    ["Scored", request.scored === request.pairs && !running ? null : format.count(request.scored ?? 0)],
    ["Tokens", count(request.tokens)],
    ["Cut", count(request.truncated)],
    ["From the cache", count(request.cached)],
    ["Error", ["done", "running"].includes(request.kind) ? null : request.status],
    ["HTTP status", request.http_status ? String(request.http_status) : null],
    ["Where", request.field],
    ["Reason", request.reason],
    ["Scores", request.degraded ? "by words alone (degraded)" : null],
    ["Began", began ? clock(began) : null],
    ["Ended", request.ended ? clock(request.ended) : null],
    ["Took", running ? format.seconds(now - request.began) : request.status === "shed" ? null : format.ms(request.latency_ms)],
    ["Format", request.dialect],
    ["Caller", request.caller],
    ["Worker", worker ? `${worker.color ? `${worker.color} ` : ""}${worker.pid}` : request.worker],
  ];
}

function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");
}

const PHASES = { queue: "Waiting", tokenise: "Tokenising", score: "Scoring", other: "Rest" };

function showPhases(request) {
  const phases = phasesOf(request);
  $("detail-phases").hidden = !phases;
  if (!phases) return;
  const list = Object.entries(PHASES).map(([name, label]) => ({ name, label, ms: phases[name] }));
  keep($("phases"), list, ({ name }) => name, ({ name }) => h("span", { class: name }), (part, { ms }) => (part.style.flexGrow = ms * 1000)); // below 1 in all, a row is not filled
  const make = ({ name, label }) => h("div", {}, h("dt", {}, h("i", { class: name, "aria-hidden": "true" }), label), h("dd"));
  keep($("phases-legend"), list, ({ name }) => name, make, (row, { ms }) => setText(row.lastChild, format.ms(ms)));
}
