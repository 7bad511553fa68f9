// What the client does in every runtime: it publishes, follows a live set over a cut, and ends in time.

import process from "node:process";
import { connect } from "../steadfast.js";

// Node has a WebSocket of its own since version 22.
const { WebSocket } = globalThis.WebSocket ? globalThis : await import("ws");
const client = connect(process.argv[2], { WebSocket });
const orders = client.db("shop").collection("orders");
await orders.publish([{ id: "a", n: 1 }, { id: "b", n: 2 }]);
const live = orders.where("n", ">", 1).live();

async function showNext() {
  const { value } = await live.next();
  console.log(value.type, [...live.documents.keys()].join());
}

await showNext();
client.cut();
await orders.publish({ id: "c", n: 3 });
await showNext();
const began = performance.now();
await client.close();
console.log(performance.now() - began < 2_500 ? "closed" : "late");
