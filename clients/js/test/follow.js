// Prints the changes of a collection, after a line when it follows them.

import WebSocket from "ws";
import { connect } from "../steadfast.js";

const client = connect(process.argv[2], { WebSocket });
const changes = client.db("shop").collection("orders").changes();
let isLive = false;
client.watch(({ state }) => {
  if (state === "live" && !isLive) console.log("live");
  isLive ||= state === "live";
});
for await (const { type, data } of changes) console.log(type === "change" ? data.n : type);
