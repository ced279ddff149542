// State -> elements of the live view.

import { $, h, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { showReleases } from "./releases.js";
import { showRequests, startRequests } from "./requests.js";
import { GRAVE, haveSeveralHosts, lamps, modelName, modelsOf, nameOf } from "./store.js";

export function startLive(draw) {
  startRequests(draw);
}

// `now` is the server's clock, in unix seconds.
export function show(state, now) {
  showModels(modelsOf(state));
  showLamps(lamps(state));
  showFigures(state);
  showRequests(state, now);
  showWorkers([...state.workers.values()]);
  showReleases(state.releases, now);
  showEvents(state.events, now);
  showLost(state.counts);
}

function showModels(models) {
  $("serves").hidden = !models.length;
  const keyOf = (serves) => `${serves.model} ${serves.engine} ${serves.precision} ${serves.substitute_for ?? ""}`;
  keep($("serves"), models, keyOf, makeModel, () => {});
}

function makeModel(serves) {
  const name = h("b", { title: serves.model }, modelName(serves.model));
  const how = h("span", { class: "how" }, `${serves.engine}, ${serves.precision}`);
  const standsIn = serves.substitute_for ? h("span", { class: "stand-in" }, `stands in for ${modelName(serves.substitute_for)}, which could not be fetched`) : null;
  return h("li", {}, name, how, standsIn);
}

const SHOWN_EVENTS = 12;

function showEvents(all, now) {
  $("events-panel").hidden = !all.length;
  const latest = all.slice(-SHOWN_EVENTS).reverse();
  const several = haveSeveralHosts(latest);
  keep($("events"), latest, (event) => event.number, makeEvent, (row, event) => {
    setText(row.querySelector(".id"), `worker ${nameOf(event, several)}`);
    setText(row.lastChild, format.ago(now - event.at));
  });
}

function makeEvent(event) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  return h(
    "li",
    { "data-level": GRAVE[event.what] ?? "off" },
    h("span", { class: "what" }, dot, event.what.replace("_", "-")),
    h("span", { class: "id" }),
    h("span", { class: "ago" }),
  );
}

const LOSSES = [
  ["dropped_events", "event dropped by workers", "events dropped by workers"],
  ["lost_frames", "frame lost", "frames lost"],
  ["malformed", "malformed frame skipped", "malformed frames skipped"],
  ["newer", "frame of a newer release skipped", "frames of a newer release skipped"],
  ["ignored", "event over the limit ignored", "events over the limit ignored"],
  ["refused", "connection without the key refused", "connections without the key refused"],
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

function showWorkers(workers) {
  $("workers-empty").hidden = workers.length > 0;
  workers.sort((a, b) => (a.host ?? "").localeCompare(b.host ?? "") || (a.color ?? "").localeCompare(b.color ?? "") || a.pid - b.pid);
  const several = haveSeveralHosts(workers);
  keep($("workers"), workers, (worker) => worker.id, makeWorker, (card, worker) => updateWorker(card, worker, several));
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

function makeWorker() {
  const vitals = VITALS.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, "–")));
  return h(
    "li",
    {},
    h("p", { class: "who" }, h("span", { class: "dot", "aria-hidden": "true" }), h("b"), h("span", { class: "state" })),
    h("dl", {}, ...vitals),
  );
}

const LEVELS = { ready: "good", loading: "warn", draining: "warn", down: "off", lost: "bad" };

function updateWorker(card, worker, several) {
  setText(card.querySelector("b"), nameOf(worker, several));
  card.dataset.level = LEVELS[worker.state] ?? "bad";
  const breaker = worker.breaker && worker.breaker !== "closed" ? `, breaker ${worker.breaker.replace("_", "-")}` : "";
  setText(card.querySelector(".state"), worker.state + breaker + (worker.degraded ? ", degraded" : ""));
  if (worker.queue_pairs === undefined) return; // no pulse yet
  [...card.querySelectorAll("dd")].forEach((cell, index) => setText(cell, VITALS[index][1](worker)));
}
