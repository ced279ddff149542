// Entry: views, key, connection, and when to draw.

import { showDetail, startDetail } from "./detail.js";
import { $, setText } from "./dom.js";
import { show, startLive } from "./live.js";
import { startPlayground } from "./playground.js";
import { empty, fromSnapshot, withDelta } from "./store.js";
import { bannerOf, noticeOf, saidOf } from "./words.js";

const STALE_S = 4; // a living pusher sends something every second
const KEY = "reranking-key";

let state = empty();
let connection = null;
let status = "connecting";
let heardAt = performance.now();
let clockAhead = 0; // server's clock minus ours, in seconds
let plots = null;
let drawn = true;

function keyOf() {
  return sessionStorage.getItem(KEY) ?? "";
}

function changeState(next) {
  state = next;
  clockAhead = state.at - Date.now() / 1000;
  heardAt = performance.now();
  drawn = false;
}

function onDelta(delta) {
  const next = withDelta(state, delta);
  if (next) changeState(next);
  else connection.resync();
}

function onStatus(next) {
  if (next === "lost") {
    findOut();
    if (["silent", "starting", "unreachable"].includes(status)) return; // one of them still holds
  }
  status = next;
  heardAt = performance.now();
  if (next === "unauthorized") askKey();
  showConnection();
}

// Why there is no connection: the service answers and its pusher doesn't, or nothing does.
let finding = false;

async function findOut() {
  if (finding) return;
  finding = true;
  const found = await fetch("../live", { cache: "no-store" }).then((reply) => (reply.ok ? "silent" : "starting"), () => "unreachable");
  finding = false;
  if (!["connected", "unauthorized", "forbidden"].includes(status)) status = found;
  showConnection();
}

function showConnection() {
  const silence = (performance.now() - heardAt) / 1000;
  const stale = status === "connected" && silence > STALE_S;
  const [level, said] = stale ? ["warn", "No news"] : saidOf(status);
  $("connection").dataset.level = level;
  setText($("connection").lastChild, said);
  const known = state.seq !== null;
  const since = new Date(Date.now() - silence * 1000).toLocaleTimeString("en-GB");
  const text = stale ? `No news since ${since}: these figures are old.` : known ? bannerOf(status) : "";
  setText($("banner"), text);
  $("banner").hidden = !text || $("live").hidden;
  $("banner").dataset.level = level;
  $("overview").hidden = !known;
  $("overview").classList.toggle("stale", stale || Boolean(bannerOf(status)));
  $("notice").hidden = known;
  const notice = noticeOf(status, Boolean(keyOf()));
  setText($("notice-title"), notice.title);
  setText($("notice-said"), notice.said);
  if (notice.button) setText($("notice-key"), notice.button);
  $("notice-buttons").hidden = !notice.button;
  $("key-open").hidden = !keyOf() && !notice.button;
}

function askKey() {
  const dialog = $("key-dialog");
  if (dialog.open) return;
  const refused = status === "unauthorized" && keyOf();
  setText($("key-said"), refused ? "The service did not accept that key. Try another; it is kept in this tab only." : "A key for this service. It is kept in this tab only.");
  $("key-forget").hidden = !keyOf();
  dialog.showModal();
}

// What one key could see is not for the next one.
function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  $("key").value = "";
  $("key-dialog").close();
  $("detail").close();
  state = empty();
  status = "connecting";
  connect();
}

async function connect() {
  connection?.close();
  try {
    const [socket, plotting] = await Promise.all([import("./socket.js"), import("./plots.js")]);
    plots ??= plotting.drawPlots();
    connection = socket.connect({ key: keyOf(), onSnapshot: (snapshot) => changeState(fromSnapshot(snapshot)), onDelta, onStatus });
  } catch (error) {
    console.error(error);
    onStatus("missing");
  }
}

function chooseView() {
  const view = location.hash === "#playground" ? "playground" : "live";
  for (const name of ["live", "playground"]) {
    $(name).hidden = name !== view;
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  document.title = view === "live" ? "Reranking, live" : "Reranking playground";
  drawn = false;
}

// Elapsed times and ETAs move even when no news comes; a hidden page costs nothing.
function draw() {
  showConnection();
  if (document.hidden || $("live").hidden || state.seq === null) return;
  const now = Date.now() / 1000 + clockAhead;
  show(state, now);
  showDetail(state, now);
  if (!drawn) plots?.show(state.points);
  drawn = true;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-forget").addEventListener("click", () => useKey(""));
for (const id of ["key-open", "notice-key"]) $(id).addEventListener("click", askKey);
addEventListener("hashchange", chooseView);
startPlayground({ keyOf, askKey });
startLive(draw);
startDetail(draw);
chooseView();
draw();
setInterval(draw, 250);
connect();
