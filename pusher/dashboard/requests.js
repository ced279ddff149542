// Requests, running and ended -> rows, searched and filtered.

import { openDetail } from "./detail.js";
import { $, h, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { LEVEL, chosen, etaSeconds, formatsOf, said } from "./store.js";

const SHOWN = 12;
const MOST_RUNNING = 60;

let all = false; // every ended request is listed

export function startRequests(draw) {
  for (const id of ["find", "find-kind", "find-format"]) $(id).addEventListener("input", draw);
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("recent-more").addEventListener("click", () => {
    all = !all;
    draw();
  });
  for (const id of ["running", "recent"]) {
    $(id).addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) openDetail(row.dataset.request, id === "recent");
    });
  }
}

export function showRequests(state, now) {
  showFormats(formatsOf(state));
  const kind = $("find-kind").value;
  const { running, recent, filtered } = chosen(state, { text: $("find").value, kind, format: $("find-format").value });
  showRunning(state, running.slice(0, MOST_RUNNING), now, filtered);
  showRecent(state, recent, now, filtered);
  $("running-part").hidden = filtered && !running.length && kind !== "running";
  $("recent-part").hidden = kind === "running";
}

function showFormats(formats) {
  const select = $("find-format");
  const wanted = select.value;
  const names = ["", ...new Set([...formats, ...(wanted ? [wanted] : [])])]; // what is chosen stays, though none is left
  keep(select, names, (name) => `format ${name}`, (name) => h("option", { value: name }, name || "All formats"), () => {});
}

function showRunning(state, runs, now, filtered) {
  const total = filtered ? runs.length : (state.counts.running ?? runs.length);
  setText($("running-count"), total ? format.count(total) : "");
  $("running-empty").hidden = runs.length > 0;
  setText($("running-empty"), filtered ? "Nothing that runs matches." : "Nothing is running.");
  keep($("running"), runs, (run) => run.key, makeRun, (row, run) => updateRun(row, run, now));
}

function nameOf(request) {
  return h("button", { type: "button", class: "id", title: request.id, "aria-haspopup": "dialog" }, request.query || request.id);
}

function makeRun(run) {
  return h(
    "li",
    { "data-request": run.key },
    nameOf(run),
    h("span", { class: "dialect" }, run.dialect),
    h("progress", { max: run.pairs, "aria-label": `Request ${run.id}` }),
    h("span", { class: "done" }),
    h("span", { class: "elapsed" }),
    h("span", { class: "eta" }),
  );
}

function updateRun(row, run, now) {
  const [, , bar, done, elapsed, eta] = row.children;
  bar.max = run.pairs;
  bar.value = run.scored;
  row.dataset.scored = run.scored;
  setText(done, `${format.count(run.scored)} / ${format.count(run.pairs)}`);
  setText(elapsed, format.seconds((run.done ?? now) - run.began));
  const left = etaSeconds(run, now);
  if (run.done) setText(eta, "done");
  else setText(eta, left === null ? (run.scored ? "" : "waiting") : `${format.seconds(left)} left`);
}

function showRecent(state, recent, now, filtered) {
  const kinds = state.counts.kinds ?? {};
  const ended = Object.values(kinds).reduce((sum, each) => sum + each, 0);
  const told = [ended ? format.count(ended) : "", ...["failed", "refused"].map((kind) => (kinds[kind] ? `${format.count(kinds[kind])} ${kind}` : ""))];
  setText($("recent-count"), filtered ? `${format.count(recent.length)} of the latest ${format.count(state.recent.length)}` : told.filter(Boolean).join(", "));
  $("recent-empty").hidden = recent.length > 0;
  setText($("recent-empty"), filtered ? "None of the latest requests matches." : "No request has ended yet.");
  const more = $("recent-more");
  more.hidden = recent.length <= SHOWN;
  more.setAttribute("aria-expanded", String(all));
  setText(more, all ? "Show fewer" : `Show all ${format.count(recent.length)}`);
  keep($("recent"), all ? recent : recent.slice(0, SHOWN), (request) => request.number, makeRecent, (row, request) => setText(row.lastChild, format.ago(now - request.ended)));
}

function makeRecent(request) {
  const failed = request.kind !== "done";
  const notes = [
    request.reason && request.reason !== "full" ? request.reason : null,
    request.field ? `at ${request.field}` : null,
    request.degraded ? "degraded" : null,
    request.truncated ? `${format.count(request.truncated)} cut` : null,
    request.cached ? `${format.count(request.cached)} cached` : null,
    failed && request.scored ? `${format.count(request.scored)} scored` : null,
  ].filter(Boolean);
  const code = request.http_status ? ` (${request.http_status})` : "";
  return h(
    "li",
    { "data-level": LEVEL[request.kind] ?? "bad", "data-request": request.number },
    h("span", { class: "status" }, h("span", { class: "dot", "aria-hidden": "true" }), said(request.status) + code),
    nameOf(request),
    h("span", { class: "dialect" }, request.dialect),
    h("span", { class: "pairs" }, request.pairs ? format.plural(request.pairs, "pair") : ""),
    h("span", { class: "latency" }, request.status === "shed" ? "" : format.ms(request.latency_ms)),
    h("span", { class: "notes" }, notes.join(", ")),
    h("span", { class: "ago" }),
  );
}
