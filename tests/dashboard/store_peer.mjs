// One browser's store for tests in Python: a message a line in, what the store holds a line out.

import { createInterface } from "node:readline";

import { empty, fromSnapshot, withDelta } from "../../pusher/dashboard/store.js";

let state = empty();

for await (const line of createInterface({ input: process.stdin })) {
  const { kind, message } = JSON.parse(line);
  let missed = false;
  if (kind === "forget") state = empty();
  if (kind === "snapshot") state = fromSnapshot(message);
  if (kind === "delta") {
    const next = withDelta(state, message);
    missed = next === null;
    state = next ?? state;
  }
  const { seq, at, recent, points, events, counts } = state;
  const running = [...state.running.values()].filter((run) => !run.done); // full bars stay a moment longer
  const [workers, releases] = [state.workers, state.releases].map((map) => [...map.values()]);
  console.log(JSON.stringify({ missed, seq, at, running, recent, workers, releases, points, events, counts }));
}
