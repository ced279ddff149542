// What the page knows. PURE: no DOM, no socket, no clock. A snapshot replaces everything, a delta follows a number.

export const MOST_POINTS = 300;
export const MOST_EVENTS = 50;
export const MOST_RELEASES = 20;
export const MOST_ENDED = { done: 120, failed: 60, refused: 40, left: 40 }; // as pusher/runs.py
export const DONE_STAYS_S = 1.2; // a full bar is seen before it goes,
const SHORT_S = 1; // unless it was there for a moment only

// Status of a request -> how it is told. What is not here is an error code of the API.
export const STATUS = {
  ok: "done",
  running: "running",
  shed: "service full",
  expired: "out of time",
  cancelled: "client left",
  lost: "end unseen",
  engine_failed: "model failed",
  invalid_request: "not valid",
  payload_too_large: "too large",
  unsupported_encoding: "encoding not accepted",
  unauthorized: "no valid key",
  not_found: "no such path",
  model_not_found: "no such model",
  method_not_allowed: "wrong method",
  rate_limited: "over its limit",
  unavailable: "unavailable",
  internal: "internal error",
};

// Kind of a request -> how grave it is. Only what the service could not do is bad.
export const LEVEL = { running: "good", done: "good", failed: "bad", refused: "warn", left: "off" };

export function said(status) {
  return STATUS[status] ?? status.replaceAll("_", " ");
}

export function empty() {
  return { seq: null, at: 0, running: new Map(), recent: [], workers: new Map(), releases: new Map(), points: [], events: [], counts: {} };
}

export function fromSnapshot(snapshot) {
  return {
    seq: snapshot.seq,
    at: snapshot.at,
    running: byKey(new Map(), snapshot.running, "key"),
    recent: withEnded([], snapshot.recent),
    workers: byKey(new Map(), snapshot.workers, "id"),
    releases: withReleases(new Map(), snapshot.releases),
    points: withPoints([], snapshot.points),
    events: withEvents([], snapshot.events),
    counts: snapshot.counts,
  };
}

// The next state, or null when a delta was missed: then only a snapshot helps.
export function withDelta(state, delta) {
  if (state.seq === null || delta.seq > state.seq + 1) return null;
  if (delta.seq <= state.seq) return state; // the snapshot has it already
  const running = new Map(state.running);
  for (const [key, run] of running) if (run.done && delta.at - run.done > DONE_STAYS_S) running.delete(key);
  for (const [key, status] of Object.entries(delta.ended ?? {})) {
    const run = running.get(key);
    if (run && status === "ok" && delta.at - run.began > SHORT_S) running.set(key, { ...run, scored: run.pairs, done: delta.at });
    else running.delete(key);
  }
  const workers = byKey(state.workers, delta.workers, "id");
  for (const id of delta.gone ?? []) workers.delete(id);
  return {
    seq: delta.seq,
    at: delta.at,
    running: byKey(running, delta.running, "key"), // last: a request id that ended may run again
    workers,
    releases: withReleases(state.releases, delta.releases),
    recent: delta.recent ? withEnded(state.recent, delta.recent) : state.recent,
    points: delta.point ? withPoints(state.points, [delta.point]) : state.points,
    events: delta.events ? withEvents(state.events, delta.events) : state.events,
    counts: delta.counts,
  };
}

// Each of these keeps one entry a key, whatever it is told twice, and no more than it has room for.

function byKey(known, told = [], name) {
  return new Map([...known, ...told.map((each) => [each[name], each])]);
}

// The latest first; each kind has room of its own, so that a flood of one pushes no other out.
function withEnded(known, told) {
  const all = [...byKey(byKey(new Map(), known, "number"), told, "number").values()].sort((a, b) => b.number - a.number);
  const seen = {};
  return all.filter(({ kind }) => (seen[kind] = (seen[kind] ?? 0) + 1) <= (MOST_ENDED[kind] ?? 0));
}

function withEvents(known, told) {
  return [...byKey(byKey(new Map(), known, "number"), told, "number").values()].slice(-MOST_EVENTS);
}

function withPoints(known, told) {
  return [...byKey(byKey(new Map(), known, "t"), told, "t").values()].slice(-MOST_POINTS);
}

// Each is told whole; one that is rolled back to has its number again, and each host counts for itself.
export function keyOfRelease({ host = "", number, began }) {
  return `${host} ${number} ${began}`;
}

function withReleases(known, told = []) {
  return new Map([...known, ...told.map((release) => [keyOfRelease(release), release])].slice(-MOST_RELEASES));
}

// Host, color and pid, as far as they tell workers or releases apart: one host needs no name.
export function nameOf({ host, color, pid }, several) {
  return [several ? host : "", color, pid].filter(Boolean).join(" ");
}

export function haveSeveralHosts(all) {
  return new Set(all.map(({ host }) => host ?? "")).size > 1;
}

// Points with an empty one in every hole, so that no line is drawn over a time of which nothing is known.
const HOLE_S = 3;

export function withHoles(points) {
  return points.flatMap((point, i) => (i && point.t - points[i - 1].t > HOLE_S ? [{ t: points[i - 1].t + 1 }, point] : [point]));
}

// What became of a worker or its breaker -> how grave it is; what is not here is no matter.
export const GRAVE = { "breaker open": "bad", lost: "bad", "breaker half_open": "warn", draining: "warn", loading: "warn", ready: "good", "breaker closed": "good" };

// Failures lead for a minute after the latest end, then they take their place in time.
const FAILURES_LEAD_S = 60;
// Among all others no more are listed that the service was not to blame for; the filter shows them all.
export const MOST_REFUSED_AMONG_ALL = 6;

// What of the requests is listed: `text` in an id or a query, one `kind` (or "running"), one `format`; "" is any.
export function chosen(state, { text = "", kind = "", format = "" }) {
  const wanted = text.trim().toLowerCase();
  const fits = (request) =>
    (!wanted || request.id.toLowerCase().includes(wanted) || (request.query ?? "").toLowerCase().includes(wanted)) && (!format || request.dialect === format);
  const filtered = Boolean(wanted || kind || format);
  let refused = 0;
  const latest = state.recent.reduce((most, request) => Math.max(most, request.ended), 0);
  const leads = (request) => !filtered && request.kind === "failed" && latest - request.ended < FAILURES_LEAD_S;
  const recent = state.recent
    .filter((request) => fits(request) && (!kind || request.kind === kind))
    .filter((request) => filtered || request.kind !== "refused" || ++refused <= MOST_REFUSED_AMONG_ALL)
    .sort((a, b) => leads(b) - leads(a) || b.number - a.number);
  const running = kind && kind !== "running" ? [] : [...state.running.values()].filter(fits).sort((a, b) => a.began - b.began);
  return { running, recent, filtered };
}

export function formatsOf(state) {
  return [...new Set([...state.running.values(), ...state.recent].map((request) => request.dialect))].sort();
}

// Where a request's time went, in milliseconds; null where nothing was scored for it.
export function phasesOf(request) {
  const known = { queue: request.queue_ms ?? 0, tokenise: request.tokenise_ms ?? 0, score: request.score_ms ?? 0 };
  const sum = known.queue + known.tokenise + known.score;
  return sum ? { ...known, other: Math.max(0, (request.latency_ms ?? 0) - sum) } : null;
}

// What serves, one entry a model: while a release comes in there may be two. Those that are ready go first.
export function modelsOf(state) {
  const workers = [...state.workers.values()].filter((worker) => worker.serves && !["lost", "down"].includes(worker.state));
  const ready = workers.filter((worker) => worker.state === "ready");
  const found = new Map((ready.length ? ready : workers).map(({ serves }) => [`${serves.model} ${serves.engine} ${serves.precision}`, serves]));
  return [...found.values()];
}

// A path on the server is no name; its last part is.
export function modelName(model) {
  return model.startsWith("/") ? model.replace(/\/+$/, "").split("/").at(-1) : model;
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
