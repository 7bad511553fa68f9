// Subscriptions: live sets and lists, positions, gaps, credit, stores. Time is virtual.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { indexedDbStore } from "../src/index.js";
import { fileStore, memoryStore } from "../src/stores.js";
import { Bench, collect, settle } from "./bench.js";
import { ModelGateway } from "./model.js";
import { seeded } from "./virtual.js";

const at = (offset) => `0000000000000007-${offset}`;
const change = (id, offset, data, op = "update") => ({ sub: "1", type: "change", op, id, position: at(offset), data });
const types = (items) => items.map(({ type }) => type);
const orders = (bench) => bench.client.db("shop").collection("orders");

async function whole(bench, ...documents) {
  bench.socket.receive({ sub: "1", type: "snapshotBegin" });
  for (const [id, data] of documents) bench.socket.receive({ sub: "1", type: "document", id, data });
  bench.socket.receive({ sub: "1", type: "snapshotEnd", position: at(10) });
  await settle();
}

test("a query becomes the subscribe message of the protocol", async () => {
  const bench = new Bench();
  const query = orders(bench).where("total", ">", 5).where("state == open").where(["a.b", "c"], "in", ["x", null]);
  query.select("total", "state").live({ queue: 8 });
  query.changes({ from: at(3), left: true });
  orders(bench).orderBy("total", "desc").limit(10).live();
  await settle();
  const filters = ["total > 5", "state == open", '"a.b"."c" in ["x",null]'];
  const common = { type: "subscribe", database: "shop", collection: "orders" };
  assert.deepEqual(bench.sent("subscribe"), [
    { ...common, id: "1", filters, fields: ["total", "state"], snapshot: true, credit: 8 },
    { ...common, id: "2", filters, left: true, from: at(3), credit: 256 },
    { ...common, id: "3", filters: [], orderBy: { field: "total", descending: true }, limit: 10, credit: 256 },
  ]);
});

test("questions that mean nothing are refused at once", () => {
  const bench = new Bench();
  const refused = [
    () => orders(bench).where("total", ">", Number.NaN),
    () => orders(bench).where("total", ">", undefined),
    () => orders(bench).orderBy("total").live(),
    () => orders(bench).limit(5).live(),
    () => orders(bench).orderBy("total").limit(5).changes(),
    () => orders(bench).live({ from: at(1) }),
    () => orders(bench).live({ persist: "p" }),
    () => orders(bench).where("name", "==", "x".repeat(70_000)).live(),
  ];
  for (const question of refused) assert.throws(question, { name: "SteadfastError", code: "invalid" }, `${question}`);
});

test("a live set is whole first and then follows its changes", async () => {
  const bench = new Bench();
  const live = orders(bench).live();
  const items = collect(live);
  await settle();
  await whole(bench, ["a", { n: 1 }], ["b", { n: 2 }]);
  bench.socket.receive(change("a", 11, { n: 3 }), change("c", 12, { n: 4 }, "insert"));
  bench.socket.receive({ sub: "1", type: "left", op: "update", id: "b", position: at(13) });
  bench.socket.receive({ sub: "1", type: "left", op: "update", id: "unknown", position: at(14) }, change("a", 15, { n: 3 }, "delete"));
  await settle();
  assert.deepEqual(types(items), ["whole", "changed", "entered", "left", "left"]);
  assert.deepEqual(items.map(({ id }) => id), [undefined, "a", "c", "b", "a"]);
  assert.deepEqual([...live.documents], [["c", { id: "c", n: 4 }]]);
});

test("a cut in the middle of a snapshot shows no half of it", async () => {
  const bench = new Bench();
  const live = orders(bench).live();
  const items = collect(live);
  await settle();
  await whole(bench, ["a", { n: 1 }], ["b", { n: 2 }]);
  bench.socket.receive({ sub: "1", type: "resync", resync: { reason: "trimmed", lostFrom: at(10), snapshotFollows: true } });
  bench.socket.receive({ sub: "1", type: "snapshotBegin" }, { sub: "1", type: "document", id: "z", data: {} });
  await settle();
  assert.deepEqual([...live.documents.keys()], ["a", "b"]);
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal("from" in bench.sent("subscribe")[0], false, "half of a snapshot cannot be continued");
  assert.deepEqual([...live.documents.keys()], ["a", "b"]);
  await whole(bench, ["c", { n: 1 }]);
  assert.deepEqual([...live.documents.keys()], ["c"]);
  assert.deepEqual(types(items), ["whole", "resync", "whole"]);
});

test("changes that begin with documents begin anew after a cut", async () => {
  const bench = new Bench();
  const items = collect(orders(bench).changes({ snapshot: true }));
  await settle();
  bench.socket.receive({ sub: "1", type: "snapshotBegin" }, { sub: "1", type: "document", id: "z", data: {} });
  bench.socket.drop();
  await bench.advance(1_000);
  assert.deepEqual(bench.sent("subscribe").map(({ from, snapshot }) => [from, snapshot]), [[undefined, true]]);
  await whole(bench, ["a", { n: 1 }]);
  bench.socket.drop();
  await bench.advance(2_000);
  assert.equal(bench.sent("subscribe")[0].from, at(10));
  const document = ["snapshotBegin", "document"];
  assert.deepEqual(types(items), [...document, ...document, "snapshotEnd"]);
});

test("a snapshot that begins without a reason is not continued", async () => {
  const bench = new Bench();
  orders(bench).live();
  await settle();
  await whole(bench);
  bench.socket.receive({ sub: "1", type: "snapshotBegin" }, { sub: "1", type: "progress", position: at(12) });
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal("from" in bench.sent("subscribe")[0], false);
});

test("the position of a subscription is known once it is accepted", async () => {
  const bench = new Bench();
  bench.subscribedAt = at(5);
  const changes = [{}, { from: at(3) }, { snapshot: true }].map((options) => orders(bench).changes(options));
  changes.forEach((it) => collect(it));
  await settle();
  // Before its end, a snapshot has none.
  assert.deepEqual(changes.map(({ position }) => position), [at(5), at(3), undefined]);
});

test("a connection continues after the last item that arrived", async () => {
  const bench = new Bench();
  bench.subscribedAt = at(4);
  const changes = orders(bench).changes();
  await settle();
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal(bench.sent("subscribe")[0].from, at(4), "the position of the beginning");
  bench.socket.receive(change("a", 5, {}), { sub: "1", type: "progress", position: at(9) });
  bench.socket.drop();
  await bench.advance(2_000);
  assert.equal(bench.sent("subscribe")[0].from, at(9), "the progress");
  bench.socket.receive(change("b", 10, {}));
  bench.socket.drop();
  await bench.advance(4_000);
  assert.equal(bench.sent("subscribe")[0].from, at(10));
  const items = collect(changes);
  await settle();
  assert.deepEqual(items.map(({ id }) => id), ["a", "b"]);
});

test("a frame that arrives twice has one effect", async () => {
  const bench = new Bench();
  const items = collect(orders(bench).changes());
  await settle();
  for (const offset of [9, 9, 10, 9, 10, 11]) bench.socket.receive(change("a", offset, { offset }));
  // Another epoch is another history: nothing says that it is older.
  bench.socket.receive({ ...change("a", 0, { offset: 12 }), position: "0000000000000008-2" });
  await settle();
  assert.deepEqual(items.map(({ data }) => data.offset), [9, 10, 11, 12]);
});

test("each cut is a gap if the server has no positions", async () => {
  const bench = new Bench();
  const changes = orders(bench).changes();
  const live = orders(bench).live();
  await settle();
  for (let cut = 0; cut < 3; cut += 1) {
    bench.socket.drop();
    await bench.advance(bench.wait);
  }
  assert.deepEqual(bench.sent("subscribe").map(({ from, snapshot }) => [from, snapshot]), [[undefined, undefined], [undefined, true]]);
  bench.socket.receive({ ...change("a", 1, {}), position: undefined });
  const items = collect(changes);
  await settle();
  assert.deepEqual(items.map(({ type, gap }) => gap ?? type), [{ reason: "disconnected" }, "change"], "one says it all");
  bench.socket.drop();
  await bench.advance(bench.wait);
  assert.deepEqual(types(items), ["gap", "change", "gap"]);
  assert.deepEqual(types(collect(live)), []);
});

test("gaps and resyncs of the gateway are items of every kind", async () => {
  const reasons = [
    { type: "gap", gap: { reason: "overflow", dropped: 4 } },
    { type: "gap", gap: { reason: "leftProfile" } },
    { type: "resync", position: at(9), resync: { reason: "epoch", lostFrom: at(3), snapshotFollows: false } },
  ];
  const bench = new Bench();
  const all = [orders(bench).changes(), orders(bench).live(), orders(bench).orderBy("n").limit(2).live()].map((items) => collect(items));
  await settle();
  for (const reason of reasons) for (const sub of ["1", "2", "3"]) bench.socket.receive({ sub, ...reason });
  await settle();
  for (const items of all) assert.deepEqual(items.map(({ sub, ...item }) => item), reasons);
});

test("a slow consumer holds the gateway back and gets everything", async () => {
  const model = new ModelGateway();
  const bench = Bench.of(model);
  const changes = orders(bench).changes({ queue: 8 });
  await settle();
  for (let n = 1; n <= 100; n += 1) model.publish(`d${n}`, { n });
  model.pump();
  await settle();
  const [connection] = model.connections;
  assert.equal(connection.subscriptions.get("1").sent, 8);
  await bench.advance(3_600_000);
  model.pump();
  assert.equal(connection.subscriptions.get("1").sent, 8, "an hour later, too");
  model.onSubscribe = () => queueMicrotask(() => model.pump());
  const taken = [];
  for await (const item of changes) {
    taken.push(item.data.n);
    assert.ok(connection.subscriptions.get("1").sent - taken.length <= 8);
    if (taken.length === 100) break;
  }
  assert.deepEqual(taken, Array.from({ length: 100 }, (_, n) => n + 1));
  // A grant for every item would be a message for every item.
  assert.ok(bench.sent("credit").length <= 25, `${bench.sent("credit").length}`);
});

test("credit after a cut is the free part of the queue", async () => {
  const bench = new Bench();
  const changes = orders(bench).changes({ queue: 4 });
  await settle();
  for (const offset of [1, 2, 3]) bench.socket.receive(change("a", offset, {}));
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal(bench.sent("subscribe")[0].credit, 1);
  await changes.next();
  await changes.next();
  assert.deepEqual(bench.sent("credit").map(({ messages }) => messages), [3]);
});

test("no credit is sent before the subscribe message", async () => {
  const bench = new Bench();
  const changes = orders(bench).changes({ queue: 2 });
  await settle();
  bench.socket.receive(change("a", 1, {}), change("b", 2, {}));
  bench.onConnect = (socket) => socket.accept();
  bench.socket.drop();
  await bench.advance(1_000);
  await changes.next();
  await changes.next();
  assert.deepEqual(bench.socket.sent, []);
});

test("a list that nobody reads keeps only its newest state", async () => {
  const bench = new Bench();
  const live = orders(bench).orderBy("n").limit(3).live({ queue: 4 });
  await settle();
  for (let cut = 0; cut < 20; cut += 1) {
    for (let index = 0; index < 3; index += 1) bench.socket.receive({ sub: "1", type: "entered", index, id: `${cut}-${index}`, data: {} });
    bench.socket.receive({ sub: "1", type: "whole", position: at(cut) });
    bench.socket.drop();
    assert.equal(bench.client.status.cause, "the connection was lost (1006)");
    await bench.advance(30_000);
  }
  bench.socket.receive({ sub: "1", type: "entered", index: 0, id: "newest", data: {} }, { sub: "1", type: "whole", position: at(99) });
  assert.deepEqual((await live.next()).value.position, at(99));
  assert.deepEqual(live.documents, [{ id: "newest" }]);
});

test("a gateway that sends without credit is left", async () => {
  const bench = new Bench();
  orders(bench).changes({ queue: 4 });
  await settle();
  for (let offset = 1; offset <= 9; offset += 1) bench.socket.receive(change("a", offset, {}));
  assert.equal(bench.state, "waiting");
  assert.match(bench.client.status.cause, /more than the credit/);
});

test("a refused subscription ends alone", async () => {
  const bench = new Bench();
  bench.answer = (socket, { type, id }) => {
    if (type !== "subscribe") return;
    socket.receive(id === "1" ? { type: "refused", id, code: "denied", message: "no role" } : { type: "subscribed", id });
  };
  const [denied, granted] = [collect(orders(bench).live()), collect(orders(bench).live())];
  await settle();
  assert.deepEqual([denied.error.code, denied.error.message], ["denied", "no role"]);
  assert.deepEqual([granted.error, bench.state], [undefined, "live"]);
  bench.socket.receive({ type: "ended", id: "2", code: "denied", message: "role taken" });
  await settle();
  assert.equal(granted.error.message, "role taken");
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal(bench.sent("subscribe").length, 0, "neither is asked for again");
});

test("subscriptions continue when their server is available again", async () => {
  for (const type of ["refused", "ended"]) {
    const bench = new Bench();
    bench.subscribedAt = at(7);
    const items = collect(orders(bench).changes());
    await settle();
    bench.socket.receive({ type, id: "1", code: "unavailable", message: "no Streamer", retryAfterMs: 3_000 });
    assert.deepEqual([bench.client.status.cause, bench.wait], ["no Streamer", 6_000]);
    await bench.advance(6_000);
    assert.equal(bench.sent("subscribe")[0].from, at(7));
    assert.equal(items.error, undefined);
  }
});

test("a loop that is left unsubscribes", async () => {
  const bench = new Bench();
  const changes = orders(bench).changes();
  await settle();
  bench.socket.receive(change("a", 1, {}), change("b", 2, {}));
  for await (const item of changes) {
    assert.equal(item.id, "a");
    break;
  }
  assert.deepEqual(bench.sent("unsubscribe"), [{ type: "unsubscribe", id: "1" }]);
  bench.socket.receive(change("c", 3, {}));
  assert.deepEqual(await changes.next(), { value: undefined, done: true });
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal(bench.sent("subscribe").length, 0);
});

test("several waiting calls get items in order", async () => {
  const bench = new Bench();
  const changes = orders(bench).changes();
  await settle();
  const waiting = [changes.next(), changes.next(), changes.next()];
  bench.socket.receive(change("a", 1, {}), change("b", 2, {}));
  await changes.return();
  assert.deepEqual((await Promise.all(waiting)).map(({ value, done }) => value?.id ?? done), ["a", "b", true]);
});

test("a list is whole first and then follows its order", async () => {
  const bench = new Bench();
  const live = orders(bench).orderBy("n").limit(3).live();
  const items = collect(live);
  await settle();
  const entered = (index, id, n) => ({ sub: "1", type: "entered", index, id, data: { n } });
  bench.socket.receive(entered(0, "a", 1), entered(1, "b", 2), { sub: "1", type: "whole", position: at(5) });
  await settle();
  assert.deepEqual(live.documents.map(({ id }) => id), ["a", "b"]);
  bench.socket.receive(
    entered(2, "c", 3),
    { sub: "1", type: "moved", from: 2, index: 0, id: "c", data: { n: 0 } },
    { sub: "1", type: "changed", index: 1, id: "a", data: { n: 1.5 } },
    { sub: "1", type: "left", index: 2, id: "b" },
  );
  await settle();
  assert.deepEqual(types(items), ["whole", "entered", "moved", "changed", "left"]);
  assert.deepEqual(live.documents, [{ n: 0, id: "c" }, { n: 1.5, id: "a" }]);
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal("from" in bench.sent("subscribe")[0], false);
  bench.socket.receive(entered(0, "x", 9));
  await settle();
  assert.equal(live.documents.length, 2, "the old list stands until the new one is whole");
  bench.socket.receive({ sub: "1", type: "whole", position: at(6) });
  await settle();
  assert.deepEqual(live.documents, [{ n: 9, id: "x" }]);
  assert.deepEqual(types(items).at(-1), "whole");
});

test("a stored position is that of the last finished item", async () => {
  const stores = { memory: memoryStore(), indexedDb: indexedDbStore(), file: fileStore(join(await mkdtemp(join(tmpdir(), "js-")), "p")) };
  for (const [name, store] of Object.entries(stores)) {
    const bench = new Bench({ store });
    const changes = orders(bench).changes({ persist: "orders" });
    await until(() => bench.sockets.length && bench.sent("subscribe").length);
    for (const offset of [1, 2, 3]) bench.socket.receive(change("a", offset, {}));
    await changes.next();
    assert.equal(await store.get("orders"), undefined, `${name}: the first is not finished`);
    await changes.next();
    await changes.next();
    await bench.client.close();
    assert.equal(await store.get("orders"), at(2), name);
    const next = new Bench({ store });
    orders(next).changes({ persist: "orders", from: at(1) });
    await until(() => next.sockets.length && next.sent("subscribe").length);
    assert.equal(next.sent("subscribe")[0].from, at(2), `${name}: the stored one wins`);
    await next.client.close();
  }
});

test("an item whose effect failed comes again", async () => {
  const store = memoryStore();
  const bench = new Bench({ store });
  const changes = orders(bench).changes({ persist: "p" });
  await settle();
  bench.socket.receive(change("a", 1, {}), change("b", 2, {}));
  const effects = async () => {
    for await (const { id } of changes) if (id === "b") throw new Error("no effect");
  };
  await assert.rejects(effects, { message: "no effect" });
  await effects();
  await settle();
  assert.deepEqual([await store.get("p"), changes.position], [at(1), at(1)]);
});

test("progress is stored while nothing happens", async () => {
  const store = memoryStore();
  const bench = new Bench({ store });
  const changes = orders(bench).changes({ persist: "p" });
  await settle();
  const waiting = changes.next();
  bench.socket.receive({ sub: "1", type: "progress", position: at(50) });
  await settle();
  assert.equal(await store.get("p"), at(50));
  bench.socket.receive(change("a", 51, {}), { sub: "1", type: "progress", position: at(60) });
  await waiting;
  assert.equal(await store.get("p"), at(50), "the item may not have had its effect");
  changes.next();
  await settle();
  assert.equal(await store.get("p"), at(60));
});

test("a store that fails ends the subscription with an error", async () => {
  const fails = async () => {
    throw new Error("disk full");
  };
  for (const store of [{ get: fails }, { get: async () => undefined, set: fails }]) {
    const bench = new Bench({ store });
    const items = collect(orders(bench).changes({ persist: "p" }));
    await settle();
    bench.socket.receive({ sub: "1", type: "progress", position: at(5) });
    await settle();
    assert.equal(items.error?.code, "store");
    assert.match(items.error.message, /the position "p": disk full/);
  }
});

test("a store that fails stops effects and unsubscribes", async () => {
  const store = { get: async () => undefined, set: () => Promise.reject(new Error("disk full")) };
  const bench = new Bench({ store });
  const changes = orders(bench).changes({ persist: "p", queue: 64 });
  await settle();
  let offset = 0;
  const receive = (count) => {
    for (let n = 0; n < count; n += 1) bench.socket.receive(change("a", ++offset, {}));
  };
  receive(64);
  // More arrives than is taken, so that the queue never runs out.
  const items = collect(changes, () => offset < 10_000 && receive(2));
  await items.done;
  assert.equal(items.error?.code, "store");
  assert.ok(items.length < 20, `${items.length} effects`);
  assert.deepEqual(bench.sent("unsubscribe"), [{ type: "unsubscribe", id: "1" }]);
  assert.equal((await changes.next()).done, true);
  bench.socket.drop();
  await bench.advance(1_000);
  assert.equal(bench.sent("subscribe").length, 0);
});

test("a subscription that waits for its store ends with the client", async () => {
  for (const refused of [false, true]) {
    let give;
    const store = { get: () => new Promise((resolve) => (give = resolve)) };
    const bench = new Bench({ store, token: "t" });
    const items = collect(orders(bench).changes({ persist: "p" }));
    await settle();
    refused ? bench.socket.drop(4401) : bench.client.close();
    await settle();
    assert.deepEqual([items.ended, items.error?.code], refused ? [undefined, "unauthenticated"] : [true, undefined]);
    give(at(1));
    await settle();
    assert.equal(bench.sent("subscribe").length, 0);
  }
});

test("a loop left before its store answered sends nothing", async () => {
  let give;
  const bench = new Bench({ store: { get: () => new Promise((resolve) => (give = resolve)) } });
  const changes = orders(bench).changes({ persist: "p" });
  await settle();
  bench.socket.drop();
  await bench.advance(1_000);
  await changes.return();
  give();
  await settle();
  assert.deepEqual([bench.state, ...bench.socket.sent], ["live"]);
});

test("a name of a position serves one subscription at a time", async () => {
  const store = memoryStore();
  const bench = new Bench({ store });
  const first = orders(bench).changes({ persist: "p" });
  assert.throws(() => orders(bench).changes({ persist: "p" }), { code: "invalid", message: /"p"/ });
  orders(bench).changes({ persist: "q" });
  await settle();
  bench.socket.receive(change("a", 4, {}), change("b", 5, {}));
  await first.next();
  await first.next();
  await first.return();
  orders(bench).changes({ persist: "p" });
  await settle();
  assert.equal(bench.sent("subscribe").at(-1).from, at(4), "what was being stored is read");
});

test("concurrent uses of a file lose no position", async () => {
  const folder = await mkdtemp(join(tmpdir(), "js-"));
  const path = join(folder, "positions.json");
  await writeFile(path, JSON.stringify({ a: at(1) }));
  const store = fileStore(path);
  const stored = store.set("b", at(2));
  // The reads begin later and end after the first has changed what it read.
  for (let turn = 0; turn < 10; turn += 1) await undefined;
  const reads = Array.from({ length: 64 }, () => store.get("a"));
  await stored;
  assert.deepEqual(new Set(await Promise.all(reads)), new Set([at(1)]));
  await store.set("c", at(3));
  assert.deepEqual(JSON.parse(await readFile(path, "utf8")), { a: at(1), b: at(2), c: at(3) });
  await rm(folder, { recursive: true });
});

test("a lost connection to the database is opened again", { timeout: 5_000 }, async (t) => {
  const databases = [];
  const { transaction } = IDBDatabase.prototype;
  t.mock.method(IDBDatabase.prototype, "transaction", function (...args) {
    databases.push(this);
    return transaction.apply(this, args);
  });
  const store = indexedDbStore("lost");
  await store.set("p", at(1));
  databases.at(-1).close();
  assert.equal(await store.get("p"), at(1), "closed without an event");
  databases.at(-1).onclose?.();
  assert.equal(await store.get("p"), at(1));
  assert.equal(new Set(databases).size, 3, "closed by the browser");
  await new Promise((resolve) => (indexedDB.deleteDatabase("lost").onsuccess = resolve));
  assert.equal(await store.get("p"), undefined, "deleted by another page");
});

test("a file of positions is replaced whole", async () => {
  const folder = await mkdtemp(join(tmpdir(), "js-"));
  const store = fileStore(join(folder, "positions.json"));
  await Promise.all(Array.from({ length: 20 }, (_, n) => store.set(`p${n % 4}`, at(n))));
  const expected = { p0: at(16), p1: at(17), p2: at(18), p3: at(19) };
  assert.deepEqual(JSON.parse(await readFile(join(folder, "positions.json"), "utf8")), expected);
  await rm(folder, { recursive: true });
});

test("random cuts and trims never show a wrong state", async () => {
  for (let seed = 1; seed <= 150; seed += 1) await history(seed);
});

/** A random history over a model gateway: what live sets show and what changes arrive is judged by the log. */
async function history(seed) {
  const random = seeded(seed);
  const below = (limit) => Math.floor(random() * limit);
  const model = new ModelGateway();
  Object.assign(model, { random, duplicates: 0.2, budget: 3 });
  const bench = Bench.of(model);
  bench.random = random;
  const query = orders(bench).where("n", ">", 4);
  const live = query.live({ queue: 1 + below(6) });
  const changes = query.changes({ queue: 1 + below(6) });
  await settle();
  let wholes = 0;
  const shown = collect(live, (item) => {
    wholes += item.type === "whole";
    const offset = item.position && Number(item.position.split("-")[1]);
    if (offset !== undefined) assert.deepEqual(sorted(live.documents), sorted(model.matching(["n > 4"], offset)), `seed ${seed}`);
  });
  const taken = [];
  let lost = 0;
  const seen = collect(changes, ({ type, position, resync }) => {
    const offset = Number(position.split("-")[1]);
    if (type === "resync") {
      for (let missing = Number(resync.lostFrom.split("-")[1]) + 1; missing <= offset; missing += 1) taken.push(-missing);
      lost += 1;
    } else taken.push(offset);
  });
  const everything = [];
  for (let round = 0; round < 120; round += 1) {
    switch (below(12)) {
      case 0: bench.socket?.drop(); break;
      case 1: await bench.advance(below(3_000)); break;
      case 2:
        // Without a snapshot of trimmed changes, the model would have to remember them for the judgement below.
        if (random() < 0.15) model.trim(model.trimmed + below(model.log.length + 1));
        break;
      case 3:
      case 4:
      case 5: {
        model.publish(`d${below(6)}`, random() < 0.15 ? null : { n: below(10) });
        const { offset, data, deleted, before } = model.log.at(-1);
        if (deleted ? before?.n > 4 : data.n > 4) everything.push(offset);
        break;
      }
      default: model.pump();
    }
    await settle();
  }
  model.budget = Infinity;
  // Longer than any delay, and often enough for queues of one.
  for (let round = 0; round < 60; round += 1) {
    await bench.advance(round ? 10 : 31_000);
    model.pump();
  }
  for (const { error } of [shown, seen]) if (error) throw error;
  assert.deepEqual(sorted(live.documents), sorted(model.matching(["n > 4"])), `seed ${seed}`);
  assert.ok(wholes > 0 && live.isWhole, `seed ${seed}`);
  // Every change exactly once and in order, except those that a resync told.
  const told = new Set(taken.filter((offset) => offset < 0).map((offset) => -offset));
  assert.deepEqual(taken.filter((offset) => offset > 0), everything.filter((offset) => !told.has(offset)), `seed ${seed}`);
  if (!lost) assert.equal(told.size, 0);
  await bench.client.close();
}

const sorted = (documents) => [...documents].sort(([a], [b]) => (a < b ? -1 : 1));

async function until(condition) {
  for (let turn = 0; !condition(); turn += 1) {
    assert.ok(turn < 1_000, "it never happened");
    await settle();
  }
}
