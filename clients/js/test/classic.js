// Does what the existing TypeScript client does: authenticates and subscribes when its socket opens, and subscribes
// once more after the acknowledgement. Prints what arrives, except for heartbeats, and the code of the end. The second
// subscribe is acknowledged by itself only if the first was before it came: one acknowledgement is printed.

import WebSocket from "ws";

const socket = new WebSocket(`${process.argv[2].replace(/^http/, "ws")}/realtime/ws`);
const send = (id, type, payload) => socket.send(JSON.stringify({ id, type, payload }));
const subscribe = () => send("sub-1", "subscribe", { query: { collection: "orders", filters: [] }, includeData: true, sendSnapshot: false });

let acknowledged = false;

socket.on("open", () => {
  send("auth-init", "auth", { token: "t", database: "shop" });
  subscribe();
});
socket.on("message", (data) => {
  const { type, payload } = JSON.parse(data);
  if (type === "auth_ack") subscribe();
  else if (type === "event") console.log(payload.delta.document.n);
  else if (type === "subscribe_ack" && acknowledged) return;
  else if (type !== "heartbeat") console.log(type);
  acknowledged ||= type === "subscribe_ack";
});
socket.on("close", (code) => console.log(`closed ${code}`));
