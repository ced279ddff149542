import assert from "node:assert/strict";
import test from "node:test";

import { empty, etaSeconds, fromSnapshot, lamps, withDelta, withHoles } from "../../pusher/dashboard/store.js";

const snapshot = () => ({
  seq: 7, at: 100, counts: { running: 1 }, points: [], workers: [{ id: "w", state: "ready" }],
  running: [{ key: "w/a", id: "a", pairs: 10, scored: 2, began: 99 }], recent: [],
});
const ended = (key, at, status = "ok") => ({ key, id: key, ended: at, status });

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

test("failures come first, for a minute", () => {
  const recent = (latest) => fromSnapshot({ ...snapshot(), recent: [ended("good", latest), ended("bad", 100, "expired")] }).recent;
  assert.equal(recent(110)[0].key, "bad");
  assert.equal(recent(200)[0].key, "good");
});

test("what happens to workers is kept, the latest last, and stays bounded", () => {
  let state = fromSnapshot({ ...snapshot(), happenings: [{ at: 1, what: "ready" }] });
  for (let seq = 8; seq < 100; seq++) state = withDelta(state, { seq, at: seq, counts: {}, happenings: [{ at: seq, what: "breaker open" }] });
  assert.equal(state.happenings.length, 50);
  assert.equal(state.happenings.at(-1).at, 99);
});

test("points and recent requests stay bounded", () => {
  let state = fromSnapshot(snapshot());
  for (let seq = 8; seq < 700; seq++) {
    state = withDelta(state, { seq, at: seq, counts: {}, point: { t: seq }, recent: [ended(`r${seq}`, seq)] });
  }
  assert.equal(state.points.length, 300);
  assert.equal(state.recent.length, 80);
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
