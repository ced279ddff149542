import assert from "node:assert/strict";
import test from "node:test";

import { chosen, empty, etaSeconds, formatsOf, fromSnapshot, haveSeveralHosts, lamps, modelName, modelsOf, nameOf, phasesOf, withDelta, withHoles } from "../../pusher/dashboard/store.js";
import { servedBy } from "../../pusher/dashboard/releases.js";
import { bannerOf, noticeOf, saidOf } from "../../pusher/dashboard/words.js";

const snapshot = () => ({
  seq: 7, at: 100, counts: { running: 1 }, points: [], workers: [{ id: "w", state: "ready" }],
  running: [{ key: "w/a", id: "a", pairs: 10, scored: 2, began: 99, dialect: "native" }], recent: [], events: [],
});
let numbers = 0;
const ended = (key, at, kind = "done", more = {}) => ({ key, id: key, number: numbers++, ended: at, kind, status: "ok", dialect: "native", ...more });

test("a delta follows its snapshot", () => {
  const state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 101, counts: {}, running: [{ key: "w/a", scored: 5 }] });
  assert.equal(state.running.get("w/a").scored, 5);
  assert.equal(state.seq, 8);
});

test("a delta that the snapshot already holds changes nothing", () => {
  const state = fromSnapshot(snapshot());
  assert.equal(withDelta(state, { seq: 7, running: [{ key: "w/b" }] }), state);
});

test("a gap, or a delta before any snapshot, asks for a snapshot", () => {
  assert.equal(withDelta(fromSnapshot(snapshot()), { seq: 9 }), null);
  assert.equal(withDelta(empty(), { seq: 1 }), null);
});

test("what ended leaves the running requests and leads the recent ones", () => {
  let state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 101, counts: {}, ended: { "w/a": "ok" }, recent: [ended("w/a", 101)] });
  assert.equal(state.running.get("w/a").scored, 10); // its full bar is seen for a moment
  state = withDelta(state, { seq: 9, at: 103, counts: {} });
  assert.equal(state.running.size, 0);
  assert.equal(state.recent[0].key, "w/a");
});

test("what was running for a moment only leaves at once", () => {
  const state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 99.5, counts: {}, ended: { "w/a": "ok" } });
  assert.equal(state.running.size, 0);
});

test("a time of which nothing is known is a hole in the plots", () => {
  assert.deepEqual(withHoles([{ t: 1 }, { t: 2 }, { t: 50, p50: 1 }]), [{ t: 1 }, { t: 2 }, { t: 3 }, { t: 50, p50: 1 }]);
});

test("what failed leaves the running requests at once", () => {
  const state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 101, counts: {}, ended: { "w/a": "expired" } });
  assert.equal(state.running.size, 0);
});

test("a request that runs again under the id of one that ended is listed", () => {
  const state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 99.5, counts: {}, ended: { "w/a": "ok" }, running: [{ key: "w/a", id: "a", pairs: 7, scored: 0 }] });
  assert.equal(state.running.get("w/a").pairs, 7);
});

test("what a snapshot and a later delta both tell is there once", () => {
  const [request, event, point] = [ended("r", 100), { number: 3, at: 1, what: "ready" }, { t: 5 }];
  let state = fromSnapshot({ ...snapshot(), recent: [request], events: [event], points: [point] });
  state = withDelta(state, { seq: 8, at: 101, counts: {}, recent: [request], events: [event], point });
  assert.deepEqual([state.recent.length, state.events.length, state.points.length], [1, 1, 1]);
});

test("failures come first, for a minute, and what callers got wrong does not", () => {
  const first = (latest, kind) => chosen(fromSnapshot({ ...snapshot(), recent: [ended("bad", 100, kind), ended("good", latest)] }), {}).recent[0].key;
  assert.equal(first(110, "failed"), "bad");
  assert.equal(first(200, "failed"), "good");
  assert.equal(first(110, "refused"), "good");
});

test("requests are found by id, query, state and format", () => {
  const recent = [ended("one", 1), ended("two", 2, "failed"), ended("three", 3, "refused", { dialect: "tei" }), ended("x", 4, "done", { query: "Honey bees" })];
  const state = fromSnapshot({ ...snapshot(), recent });
  const keys = (filter) => chosen(state, filter).recent.map((request) => request.key);
  const running = (filter) => chosen(state, filter).running.map((run) => run.key);
  assert.deepEqual(keys({ text: " T" }), ["three", "two"]);
  assert.deepEqual(keys({ text: "honey" }), ["x"]);
  assert.deepEqual(keys({ kind: "failed" }), ["two"]);
  assert.deepEqual(keys({ format: "tei" }), ["three"]);
  assert.deepEqual(running({ kind: "running" }), ["w/a"]);
  assert.deepEqual(running({ kind: "done" }), []);
  assert.deepEqual(running({ text: "A" }), ["w/a"]);
  assert.deepEqual(formatsOf(state), ["native", "tei"]);
});

test("rubbish hides no other request, and a filter shows all of it", () => {
  const good = ended("good", 0);
  const rubbish = Array.from({ length: 30 }, (_, n) => ended(`r${n}`, n, "refused"));
  const state = fromSnapshot({ ...snapshot(), recent: [good, ...rubbish] });
  assert.equal(chosen(state, {}).recent.length, 7);
  assert.equal(chosen(state, {}).recent.at(-1).key, "good");
  assert.equal(chosen(state, { kind: "refused" }).recent.length, 30);
});

test("phases add up to what a request took, and there are none where nothing was scored", () => {
  assert.deepEqual(phasesOf({ latency_ms: 10, queue_ms: 1, tokenise_ms: 2, score_ms: 4 }), { queue: 1, tokenise: 2, score: 4, other: 3 });
  assert.equal(phasesOf({ latency_ms: 10 }), null);
});

test("what serves is named once, by the workers that are ready", () => {
  const worker = (id, model, state = "ready") => [id, { id, state, serves: { model, engine: "native", precision: "int8", release: id } }];
  const models = (...workers) => modelsOf({ ...empty(), workers: new Map(workers) }).map((serves) => serves.model);
  assert.deepEqual(models(worker(1, "a"), worker(2, "a")), ["a"]);
  assert.deepEqual(models(worker(1, "a"), worker(2, "b", "loading")), ["a"]);
  assert.deepEqual(models(worker(1, "a", "lost"), worker(2, "b", "loading")), ["b"]);
  assert.deepEqual(models(worker(1, "a"), worker(2, "b")), ["a", "b"]);
  assert.equal(modelName("/srv/models/mine/"), "mine");
  assert.equal(modelName("cross-encoder/x"), "cross-encoder/x");
});

test("a release has the name of what serves, not of what was asked for", () => {
  const serves = { model: "embedded", engine: "native", precision: "int8", substitute_for: "asked/for" };
  assert.equal(servedBy({ what: "asked/for with WORKERS=2", serves }), "embedded (native, int8), stands in for asked/for, with WORKERS=2");
  assert.equal(servedBy({ what: "asked/for" }), "asked/for");
});

test("without the right to see, nothing is said of workers, nothing is red, and another key is offered", () => {
  for (const status of ["unauthorized", "forbidden"]) {
    for (const hasKey of [true, false]) {
      const { title, said, button } = noticeOf(status, hasKey);
      assert.match(button, /key/);
      assert.doesNotMatch(title + said, /no worker|nothing is running/i);
      assert.equal(saidOf(status)[0], "off");
    }
  }
  assert.equal(noticeOf("forbidden", true).title, "Not visible with this key");
});

test("every state of the connection has words, and says that it tries again where it does", () => {
  for (const status of ["connecting", "connected", "lost", "silent", "starting", "unreachable", "unauthorized", "forbidden", "missing"]) {
    assert.equal(saidOf(status).length, 2);
    assert.ok(noticeOf(status, false).said);
  }
  for (const status of ["silent", "starting", "unreachable"]) {
    assert.match(noticeOf(status, false).said, /tries again/);
    assert.match(bannerOf(status), /connection is lost/);
  }
});

test("events are kept, the latest last, and stay bounded", () => {
  let state = fromSnapshot({ ...snapshot(), events: [{ number: 1, at: 1, what: "ready" }] });
  for (let seq = 8; seq < 100; seq++) state = withDelta(state, { seq, at: seq, counts: {}, events: [{ number: seq, at: seq, what: "breaker open" }] });
  assert.equal(state.events.length, 50);
  assert.equal(state.events.at(-1).at, 99);
});

test("points and recent requests stay bounded", () => {
  let state = fromSnapshot(snapshot());
  for (let seq = 8; seq < 700; seq++) {
    state = withDelta(state, { seq, at: seq, counts: {}, point: { t: seq }, recent: [ended(`r${seq}`, seq)] });
  }
  assert.equal(state.points.length, 300);
  assert.equal(state.recent.length, 120);
});

test("the remaining time follows the pace, and is silent while there is none", () => {
  assert.equal(etaSeconds({ pairs: 100, scored: 25, began: 0 }, 10), 30);
  assert.equal(etaSeconds({ pairs: 100, scored: 0, began: 0 }, 10), null);
  assert.equal(etaSeconds({ pairs: 100, scored: 1, began: 0 }, 10), null);
});

test("lamps show the worst of the workers that live", () => {
  const lamp = (workers, point, name) => lamps({ ...empty(), workers: new Map(workers.map((each) => [each.id, each])), points: [point] }).find((each) => each.name === name);
  const two = [{ id: 1, state: "ready", breaker: "open" }, { id: 2, state: "draining" }];
  assert.equal(lamp(two, {}, "Breaker").level, "bad");
  assert.equal(lamp(two, {}, "Draining").value, "1 of 2");
  assert.equal(lamp(two, { shed: 3 }, "Shedding").value, "3 in 10 s");
  assert.equal(lamp(two, { degraded: true }, "Degraded").level, "warn");
  assert.equal(lamp([{ id: 1, state: "lost" }], {}, "Service").value, "no worker");
});

test("a release is replaced by its later state, and one that is rolled back to is another entry", () => {
  let state = withDelta(fromSnapshot(snapshot()), { seq: 8, at: 101, counts: {}, releases: [{ number: 2, began: 1, state: "running" }] });
  state = withDelta(state, { seq: 9, at: 102, counts: {}, releases: [{ number: 2, began: 1, state: "serving" }, { number: 2, began: 5, state: "running" }] });
  assert.deepEqual([...state.releases.values()].map((release) => release.state), ["serving", "running"]);
});

test("workers of one host need no name of it, those of several do", () => {
  const [one, two] = [{ host: "pod-1", color: "blue", pid: 7 }, { host: "pod-2", color: "", pid: 7 }];
  assert.equal(haveSeveralHosts([one, one]), false);
  assert.equal(haveSeveralHosts([{ pid: 7 }, { pid: 8 }]), false); // a pusher of before
  assert.equal(haveSeveralHosts([one, two]), true);
  assert.deepEqual([nameOf(one, false), nameOf(one, true), nameOf(two, true), nameOf({ pid: 7 }, true)], ["blue 7", "pod-1 blue 7", "pod-2 7", "7"]);
});

test("releases of two hosts with one number are two", () => {
  const release = (host) => ({ host, number: 1, began: 5, state: "serving" });
  const state = fromSnapshot({ ...snapshot(), releases: [release("one"), release("two")] });
  assert.deepEqual([...state.releases.values()].map(({ host }) => host), ["one", "two"]);
});
