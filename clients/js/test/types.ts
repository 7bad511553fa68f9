// Checked by the TypeScript compiler, never run: the declarations allow what programs write, and nothing else.

import { connect, SteadfastError, type Status } from "steadfast";
import { fileStore, memoryStore } from "steadfast/stores.js";

interface Order {
  total: number;
  state: "open" | "paid";
}

const client = connect("https://gateway.example", { token: async () => "t", store: memoryStore() });
connect(new URL("wss://gateway.example"), { token: "t", store: fileStore("positions.json") });
const stop: () => void = client.watch(({ state, cause, until }: Status) => console.log(state, cause, until));
const orders = client.db("shop").collection<Order>("orders");

async function use() {
  const live = orders.where("total", ">", 5).where("state == open").select("total", ["a.b", "c"]).live({ queue: 10 });
  for await (const item of live) {
    if (item.type === "entered") console.log(item.data.total, live.documents.get(item.id)?.state);
    if (item.type === "left") console.log(item.id);
    // @ts-expect-error a document that left has no data
    if (item.type === "left") console.log(item.data);
    if (item.type === "gap") console.log(item.gap.reason);
    if (item.type === "resync") console.log(item.resync.lostFrom);
  }
  for await (const item of orders.changes({ from: live.position, left: true, persist: "p" })) {
    if (item.type === "change") console.log(item.op, item.data.state, item.position);
    // @ts-expect-error changes have no snapshots
    if (item.type === "whole") break;
  }
  for await (const item of orders.changes({ snapshot: true })) {
    if (item.type === "document") console.log(item.data.total);
    if (item.type === "snapshotEnd") console.log(item.position);
  }
  // Options in a variable choose as options in place do.
  const withSnapshot = { snapshot: true, left: true } as const;
  for await (const item of orders.changes(withSnapshot)) if (item.type === "document") console.log(item.data.total);
  for await (const item of orders.select("total").changes()) {
    // @ts-expect-error a field that may not be selected may be absent
    if (item.type === "change") console.log(item.data.total.toFixed());
    if (item.type === "change") console.log(item.data.total?.toFixed());
  }
  for await (const item of orders.orderBy("total", "desc").limit(10).live()) {
    if (item.type === "moved") console.log(item.from, item.index);
  }
  // @ts-expect-error an order needs a limit
  orders.orderBy("total").live();
  // @ts-expect-error no such operator
  orders.where("total", "like", "x");
  // @ts-expect-error live() has no `from`
  orders.live({ from: "1" });
  const { documents, position } = await orders.get({ timeout: 1_000, at: (await orders.delete("none")).position });
  console.log(documents[0].id, documents[0].total, position);
  const { published } = await orders.publish({ id: "1", total: 5, state: "open" }, { idempotencyKey: "k" });
  await orders.publish({ id: "1", total: 5, state: "open" }, { idempotencyKey: false });
  // @ts-expect-error there is no key that is only true
  await orders.delete("1", { idempotencyKey: true });
  // @ts-expect-error a document has an id
  await orders.publish({ total: 5, state: "open" });
  await orders.delete(["1", "2"]);
  stop();
  await client.close();
  return published;
}

use().catch((error) => error instanceof SteadfastError && console.log(error.code, error.status));
