// Releases -> a timeline: what each deploy did, step by step, the latest first.

import { $, h, keep, setText } from "./dom.js";
import * as format from "./format.js";
import { haveSeveralHosts, keyOfRelease, modelName, nameOf } from "./store.js";

const SHOWN = 5;
// Who stops a deploy meant to.
const LEVELS = { running: "warn", serving: "good", "rolled back": "good", replaced: "off", interrupted: "off", refused: "bad" };
const SAID = { "rolled back": "serving again, rolled back to" };

export function showReleases(releases, now) {
  const latest = [...releases.values()].sort((a, b) => b.began - a.began).slice(0, SHOWN);
  $("releases-panel").hidden = !latest.length;
  const several = haveSeveralHosts(latest);
  keep($("releases"), latest, keyOfRelease, makeRelease, (row, release) => updateRelease(row, release, now, several));
}

// What a release serves, which may not be what was asked for; before that is known, and where it never was, what was asked.
export function servedBy({ serves, what }) {
  if (!serves) return what;
  const changes = what.includes(" with ") ? `, with ${what.split(" with ").slice(1).join(" with ")}` : "";
  const standsIn = serves.substitute_for ? `, stands in for ${modelName(serves.substitute_for)}` : "";
  return `${modelName(serves.model)} (${serves.engine}, ${serves.precision})${standsIn}${changes}`;
}

function makeRelease() {
  return h(
    "li",
    {},
    h("p", { class: "who" }, h("span", { class: "dot", "aria-hidden": "true" }), h("b"), h("span", { class: "state" }), h("span", { class: "ago" })),
    h("p", { class: "what" }),
    h("ol", { class: "steps" }),
    h("p", { class: "why" }),
  );
}

function updateRelease(row, release, now, several) {
  setText(row.querySelector("b"), `${release.number}, ${nameOf({ ...release, color: release.color ?? release.colour }, several)}`);
  row.dataset.level = LEVELS[release.state] ?? "bad";
  setText(row.querySelector(".state"), SAID[release.state] ?? release.state);
  setText(row.querySelector(".what"), servedBy(release));
  row.querySelector(".what").title = release.what;
  setText(row.querySelector(".ago"), format.ago(now - release.began));
  const make = (step) => h("li", {}, h("b", {}, step.name), h("span", { class: "took" }));
  keep(row.querySelector(".steps"), release.steps ?? [], (step) => step.name, make, (element, step) => {
    element.dataset.level = { running: "warn", done: "good", failed: "bad" }[step.state];
    element.title = step.said ?? "";
    setText(element.lastChild, step.state === "running" ? "…" : format.seconds(step.took_s ?? 0));
  });
  const failed = (release.steps ?? []).find((step) => step.state === "failed");
  setText(row.querySelector(".why"), failed ? `${failed.name}: ${failed.said}` : "");
}
