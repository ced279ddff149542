// Entry: views, key, connection, and when to draw.

import { $, setText } from "./dom.js";
import { show } from "./live.js";
import { startPlayground } from "./playground.js";
import { empty, fromSnapshot, withDelta } from "./store.js";

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

function onState(next) {
  status = next;
  heardAt = performance.now();
  if (next === "unauthorized") askKey();
  showConnection();
}

const SAID = {
  connecting: ["warn", "Connecting"],
  connected: ["good", "Live"],
  lost: ["bad", "Reconnecting"],
  unauthorized: ["bad", "Key needed"],
  forbidden: ["bad", "Operators only"],
  missing: ["bad", "Not installed"],
};

const BANNERS = {
  lost: "The live connection is lost. What you see is the last that was known; reconnecting by itself.",
  unauthorized: "Live figures need an API key.",
  forbidden: "This key may rank documents, but the live overview is for operators' keys.",
  missing: "The live view's packages are not installed. Run scripts/serve once where npm, or Python's package index, can be reached. The playground works.",
};

function showConnection() {
  const silence = (performance.now() - heardAt) / 1000;
  const stale = status === "connected" && silence > STALE_S;
  const [level, said] = stale ? ["warn", "No news"] : SAID[status];
  $("connection").dataset.level = level;
  setText($("connection").lastChild, said);
  const since = new Date(Date.now() - silence * 1000).toLocaleTimeString("en-GB");
  const text = stale ? `No news since ${since}: these figures are old.` : (BANNERS[status] ?? "");
  setText($("banner"), text);
  $("banner").hidden = !text;
  $("banner").dataset.level = level;
  $("live").classList.toggle("stale", stale || status === "lost");
}

function askKey() {
  const dialog = $("key-dialog");
  if (dialog.open) return;
  if (keyOf()) setText($("key-said"), "The service did not accept that key. Try another; it is kept in this tab only.");
  dialog.showModal();
}

async function startLive() {
  connection?.close();
  try {
    const [socket, plotting] = await Promise.all([import("./socket.js"), import("./plots.js")]);
    plots ??= plotting.drawPlots();
    connection = socket.connect({ key: keyOf(), onSnapshot: (snapshot) => changeState(fromSnapshot(snapshot)), onDelta, onState });
  } catch (error) {
    console.error(error);
    onState("missing");
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

// Elapsed times and ETAs move even when nothing is heard; a hidden page costs nothing.
function draw() {
  if (!document.hidden && !$("live").hidden) {
    show(state, Date.now() / 1000 + clockAhead);
    if (!drawn) plots?.show(state.points);
    drawn = true;
  }
  showConnection();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value);
  $("key").value = "";
  $("key-dialog").close();
  startLive();
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
addEventListener("hashchange", chooseView);
startPlayground({ keyOf, askKey });
chooseView();
draw();
setInterval(draw, 250);
startLive();
