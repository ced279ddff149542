// What the page knows. PURE: no DOM, no socket, no clock. A snapshot replaces everything, a delta follows a number.

export const MOST_POINTS = 300;
export const MOST_RECENT = 80;
export const MOST_HAPPENINGS = 50;
export const MOST_RELEASES = 20;
export const DONE_STAYS_S = 1.2; // a full bar is seen before it goes,
const SHORT_S = 1; // unless it was there for a moment only

// Status of a request -> how it is told. What is not here is an error code of the API.
export const STATUS = {
  ok: "done",
  shed: "refused: full",
  expired: "out of time",
  cancelled: "client left",
  lost: "end unseen",
  engine_failed: "model failed",
  invalid_request: "not valid",
  unavailable: "unavailable",
  internal: "internal error",
};

export function empty() {
  return { seq: null, at: 0, running: new Map(), recent: [], workers: new Map(), releases: new Map(), points: [], happenings: [], counts: {} };
}

export function fromSnapshot(snapshot) {
  return {
    seq: snapshot.seq,
    at: snapshot.at,
    running: byId(snapshot.running, "key"),
    recent: failuresFirst(snapshot.recent),
    workers: byId(snapshot.workers, "id"),
    releases: withReleases(new Map(), snapshot.releases),
    points: snapshot.points.slice(-MOST_POINTS),
    happenings: snapshot.happenings ?? [],
    counts: snapshot.counts,
  };
}

// The next state, or null when a delta was missed: then only a snapshot helps.
export function withDelta(state, delta) {
  if (state.seq === null || delta.seq > state.seq + 1) return null;
  if (delta.seq <= state.seq) return state; // the snapshot has it already
  const running = new Map(state.running);
  for (const run of delta.running ?? []) running.set(run.key, run);
  for (const [key, run] of running) if (run.done && delta.at - run.done > DONE_STAYS_S) running.delete(key);
  for (const [key, status] of Object.entries(delta.ended ?? {})) {
    const run = running.get(key);
    if (run && status === "ok" && delta.at - run.began > SHORT_S) running.set(key, { ...run, scored: run.pairs, done: delta.at });
    else running.delete(key);
  }
  const workers = new Map(state.workers);
  for (const worker of delta.workers ?? []) workers.set(worker.id, worker);
  for (const id of delta.gone ?? []) workers.delete(id);
  return {
    seq: delta.seq,
    at: delta.at,
    running,
    workers,
    releases: withReleases(state.releases, delta.releases),
    recent: delta.recent ? failuresFirst([...delta.recent, ...state.recent]) : state.recent,
    points: delta.point ? [...state.points, delta.point].slice(-MOST_POINTS) : state.points,
    happenings: delta.happenings ? [...state.happenings, ...delta.happenings].slice(-MOST_HAPPENINGS) : state.happenings,
    counts: delta.counts,
  };
}

// Points with an empty one in every hole, so that no line is drawn over a time of which nothing is known.
const HOLE_S = 3;

export function withHoles(points) {
  return points.flatMap((point, i) => (i && point.t - points[i - 1].t > HOLE_S ? [{ t: points[i - 1].t + 1 }, point] : [point]));
}

// What became of a worker or its breaker -> how grave it is; what is not here is no matter.
export const GRAVE = { "breaker open": "bad", lost: "bad", "breaker half_open": "warn", draining: "warn", loading: "warn", ready: "good", "breaker closed": "good" };

export function failed(request) {
  return request.status !== "ok";
}

// Failures lead for a minute after the latest end, then they take their place in time.
const FAILURES_LEAD_S = 60;

function failuresFirst(requests) {
  const latest = requests.reduce((most, request) => Math.max(most, request.ended), 0);
  const leads = (request) => failed(request) && latest - request.ended < FAILURES_LEAD_S;
  const sorted = [...requests].sort((a, b) => leads(b) - leads(a) || b.ended - a.ended);
  return sorted.slice(0, MOST_RECENT);
}

// Each is told whole; one that is rolled back to has its number again.
function withReleases(known, told = []) {
  return new Map([...known, ...told.map((release) => [`${release.number} ${release.began}`, release])].slice(-MOST_RELEASES));
}

function byId(list, name) {
  return new Map(list.map((each) => [each[name], each]));
}

// Seconds until a request is done, by its pace so far; null while that says nothing: others may have gone before it.
const LEAST_SHARE = 0.03;

export function etaSeconds(run, now) {
  const elapsed = now - run.began;
  if (run.scored <= 0 || elapsed < 0.3 || run.scored < run.pairs * LEAST_SHARE) return null;
  return ((run.pairs - run.scored) * elapsed) / run.scored;
}

export function lamps(state) {
  const alive = [...state.workers.values()].filter((worker) => !["lost", "down"].includes(worker.state));
  const point = state.points.at(-1);
  const breakers = alive.map((worker) => worker.breaker ?? "closed");
  const breaker = ["open", "half_open"].find((kind) => breakers.includes(kind)) ?? "closed";
  const states = alive.map((worker) => worker.state);
  const serving = !alive.length ? "no worker" : states.includes("ready") ? "ready" : states[0];
  const draining = states.filter((each) => each === "draining").length;
  return [
    { name: "Service", value: serving, level: serving === "ready" ? "good" : "bad" },
    { name: "Breaker", value: breaker.replace("_", "-"), level: { closed: "good", half_open: "warn", open: "bad" }[breaker] },
    { name: "Degraded", value: point?.degraded ? "yes" : "no", level: point?.degraded ? "warn" : "good" },
    { name: "Shedding", value: point?.shed ? `${point.shed} in 10 s` : "no", level: point?.shed ? "bad" : "good" },
    { name: "Draining", value: draining ? `${draining} of ${alive.length}` : "no", level: draining ? "warn" : "good" },
  ];
}
