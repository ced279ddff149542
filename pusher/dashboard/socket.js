// The live connection. Comes back by itself; after every return a snapshot makes the page whole.

import { io } from "./vendor/socket.io.js";

export function connect({ key, onSnapshot, onDelta, onStatus }) {
  const socket = io({
    path: new URL("../socket.io", location.href).pathname,
    transports: ["websocket", "polling"],
    auth: { key },
    reconnectionDelay: 250, // a restarted pusher listens again in about a second
    reconnectionDelayMax: 1000,
    randomizationFactor: 0.3,
    timeout: 5000,
  });
  const watch = () =>
    socket.emit("watch", (answer) => {
      if (!answer.ok) onStatus("forbidden");
    });
  socket.on("connect", () => {
    onStatus("connected");
    watch();
  });
  socket.on("disconnect", (reason) => {
    onStatus("lost");
    if (reason === "io server disconnect") socket.connect(); // it let us go, which the client takes as final
  });
  socket.on("connect_error", (error) => onStatus(error.message === "unauthorized" ? "unauthorized" : "lost"));
  socket.on("snapshot", onSnapshot);
  socket.on("delta", onDelta);
  return { resync: watch, close: () => socket.close() };
}
