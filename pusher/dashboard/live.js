// State -> elements of the live view.

import { $, h, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { showReleases } from "./releases.js";
import { GRAVE, STATUS, etaSeconds, failed, lamps } from "./store.js";

const SHOWN_RECENT = 40;
const MOST_RUNNING = 60;

// `now` is the server's clock, in unix seconds.
export function show(state, now) {
  showLamps(lamps(state));
  showFigures(state);
  showRunning(state, now);
  showWorkers([...state.workers.values()]);
  showReleases(state.releases, now);
  showRecent(state, now);
  showHappenings(state.happenings, now);
  showLost(state.counts);
}

const SHOWN_HAPPENINGS = 12;

function showHappenings(all, now) {
  $("happenings-panel").hidden = !all.length;
  const latest = all.slice(-SHOWN_HAPPENINGS).reverse();
  keep($("happenings"), latest, (each) => `${each.worker} ${each.at} ${each.what}`, makeHappening, (row, each) => setText(row.lastChild, format.ago(now - each.at)));
}

function makeHappening(each) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  return h(
    "li",
    { "data-level": GRAVE[each.what] ?? "off" },
    h("span", { class: "what" }, dot, each.what.replace("_", "-")),
    h("span", { class: "id" }, `worker ${each.colour ? `${each.colour} ` : ""}${each.pid}`),
    h("span", { class: "ago" }),
  );
}

const LOSSES = [
  ["dropped_events", "event dropped by workers", "events dropped by workers"],
  ["lost_frames", "frame lost", "frames lost"],
  ["malformed", "malformed frame skipped", "malformed frames skipped"],
  ["newer", "frame of a newer release skipped", "frames of a newer release skipped"],
  ["ignored", "event over the limit ignored", "events over the limit ignored"],
];

function showLost(counts) {
  const told = LOSSES.filter(([name]) => counts[name]).map(([name, one, many]) => `${format.count(counts[name])} ${counts[name] === 1 ? one : many}`);
  $("lost").hidden = !told.length;
  setText($("lost"), told.length ? `Not shown here: ${told.join(", ")}.` : "");
}

function showLamps(list) {
  const make = (lamp) => h("li", {}, h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "name" }, lamp.name), h("span", { class: "value" }));
  keep($("lamps"), list, (lamp) => lamp.name, make, (element, lamp) => {
    element.dataset.level = lamp.level;
    setText(element.lastChild, lamp.value);
  });
}

function showFigures(state) {
  const point = state.points.at(-1) ?? {};
  const number = (value, text) => (value === undefined ? "–" : text(value));
  const list = [
    ["Pairs/s", number(point.pairs_per_s, format.rate)],
    ["Requests/s", number(point.requests_per_s, format.rate)],
    ["p50", format.ms(point.p50)],
    ["p95", format.ms(point.p95)],
    ["p99", format.ms(point.p99)],
    ["Queue", number(point.queue_pairs, format.count)],
    ["In flight", number(point.in_flight, format.count)],
  ];
  keep($("figures"), list, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (element, [, value]) => setText(element.lastChild, value));
}

function showRunning(state, now) {
  const runs = [...state.running.values()].sort((a, b) => a.began - b.began).slice(0, MOST_RUNNING);
  const total = state.counts.running ?? runs.length;
  setText($("running-count"), total ? format.count(total) : "");
  $("running-empty").hidden = runs.length > 0;
  keep($("running"), runs, (run) => run.key, makeRun, (row, run) => updateRun(row, run, now));
}

function makeRun(run) {
  return h(
    "li",
    {},
    h("span", { class: "id", title: run.id }, run.query || run.id),
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

function showWorkers(workers) {
  $("workers-empty").hidden = workers.length > 0;
  workers.sort((a, b) => (a.colour ?? "").localeCompare(b.colour ?? "") || a.pid - b.pid);
  keep($("workers"), workers, (worker) => worker.id, makeWorker, updateWorker);
}

const VITALS = [
  ["Pairs/s", (worker) => format.rate(worker.pairs_per_s)],
  ["In flight", (worker) => format.count(worker.in_flight)],
  ["Queue", (worker) => `${format.count(worker.queue_pairs)} pairs`],
  ["Tokens", (worker) => format.count(worker.queue_tokens)],
  ["Batch fill", (worker) => format.percent(worker.batch_fill)],
  ["Cache hits", (worker) => format.percent(worker.cache_hit_ratio)],
  ["Hub lag", (worker) => format.ms(worker.hub_lag_ms ?? 0)],
  ["Memory", (worker) => format.megabytes(worker.rss_bytes ?? 0)],
];

function makeWorker(worker) {
  const vitals = VITALS.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, "–")));
  const colour = worker.colour ? `${worker.colour} ` : "";
  return h(
    "li",
    {},
    h("p", { class: "who" }, h("span", { class: "dot", "aria-hidden": "true" }), h("b", {}, `${colour}${worker.pid}`), h("span", { class: "state" })),
    h("dl", {}, ...vitals),
  );
}

const LEVELS = { ready: "good", loading: "warn", draining: "warn", down: "off", lost: "bad" };

function updateWorker(card, worker) {
  card.dataset.level = LEVELS[worker.state] ?? "bad";
  const breaker = worker.breaker && worker.breaker !== "closed" ? `, breaker ${worker.breaker.replace("_", "-")}` : "";
  setText(card.querySelector(".state"), worker.state + breaker + (worker.degraded ? ", degraded" : ""));
  if (worker.queue_pairs === undefined) return; // no pulse yet
  [...card.querySelectorAll("dd")].forEach((cell, index) => setText(cell, VITALS[index][1](worker)));
}

function showRecent(state, now) {
  const ended = Object.values(state.counts.ended ?? {}).reduce((sum, each) => sum + each, 0);
  const failures = ended - (state.counts.ended?.ok ?? 0);
  setText($("recent-count"), ended ? `${format.count(ended)}${failures ? `, ${format.count(failures)} failed` : ""}` : "");
  $("recent-empty").hidden = state.recent.length > 0;
  keep($("recent"), state.recent.slice(0, SHOWN_RECENT), (request) => `${request.key} ${request.ended}`, makeRecent, (row, request) =>
    setText(row.lastChild, format.ago(now - request.ended)),
  );
}

function makeRecent(request) {
  const notes = [
    request.reason && request.reason !== "full" ? request.reason : null,
    request.degraded ? "degraded" : null,
    request.truncated ? `${format.count(request.truncated)} cut` : null,
    request.cached ? `${format.count(request.cached)} cached` : null,
    failed(request) && request.scored ? `${format.count(request.scored)} scored` : null,
  ].filter(Boolean);
  return h(
    "li",
    { "data-level": failed(request) ? "bad" : "good" },
    h("span", { class: "status" }, h("span", { class: "dot", "aria-hidden": "true" }), STATUS[request.status] ?? request.status.replaceAll("_", " ")),
    h("span", { class: "id", title: request.id }, request.query || request.id),
    h("span", { class: "dialect" }, request.dialect),
    h("span", { class: "pairs" }, format.plural(request.pairs, "pair")),
    h("span", { class: "latency" }, request.status === "shed" ? "" : format.ms(request.latency_ms)),
    h("span", { class: "notes" }, notes.join(", ")),
    h("span", { class: "ago" }),
  );
}
