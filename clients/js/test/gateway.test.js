// The client against the real gateway: the binary that STEADFAST_BINARY names. What it shows is compared with what a
// subscriber of the binary reads from the server directly.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { connect } from "../src/index.js";
import { runExample } from "./example.js";

const binary = process.env.STEADFAST_BINARY;
const folder = fileURLToPath(new URL(".", import.meta.url));
const real = { skip: binary ? false : "STEADFAST_BINARY is not set", timeout: 120_000 };

const platformPackage = (name, file) => join(folder, "../node_modules", name, file);

/** Processes and files of one test. */
class Setup {
  #processes = new Set();

  static async with(run) {
    const setup = new Setup();
    setup.folder = await mkdtemp(join(tmpdir(), "steadfast-js-"));
    try {
      await run(setup);
    } finally {
      for (const client of setup.clients) await client.close();
      for (const running of setup.#processes) running.kill("SIGKILL");
      await rm(setup.folder, { recursive: true, force: true });
    }
  }

  clients = [];

  connect(url, options) {
    const client = connect(url, { WebSocket, ...options });
    this.clients.push(client);
    return client;
  }

  /** Starts a program; its output is read by `lines`. */
  spawn(program, args) {
    const running = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#processes.add(running);
    running.lines = createInterface(running.stdout)[Symbol.asyncIterator]();
    return running;
  }

  /** Starts the binary; returns the process and the address in its first line. */
  async start(args) {
    const running = this.spawn(binary, args);
    let errors = "";
    running.stderr.on("data", (data) => (errors += data));
    const { value = "" } = await running.lines.next();
    if (!value.startsWith("ready ")) throw new Error(`steadfast ${args.join(" ")}: ${value}${errors}`);
    return [running, value.slice("ready ".length)];
  }

  /** Returns the address of the gateway that a server printed. */
  async opened({ lines }) {
    for (;;) {
      const { value, done } = await lines.next();
      assert.ok(!done, "the server printed no URL");
      if (value.startsWith("open ")) return new URL(value.slice("open ".length)).host;
    }
  }

  async server(...args) {
    const data = join(this.folder, "data");
    return this.start(["streamer", "serve", "--data", data, "--operations", "off", ...args]);
  }

  gateway(listen, server, ...args) {
    return this.start(["gateway", "--listen", listen, "--streamer", server, ...args]);
  }

  async kill(running) {
    running.kill("SIGKILL");
    await new Promise((resolve) => running.once("close", resolve));
  }

  /** Runs the binary to its end with `input`; returns what it printed. */
  async run(args, input = "") {
    const running = spawn(binary, args, { stdio: ["pipe", "pipe", "ignore"] });
    this.#processes.add(running);
    running.stdin.end(input);
    let printed = "";
    for await (const data of running.stdout) printed += data;
    return printed;
  }

  /** The items that a subscriber without a gateway reads, up to one that `isLast`. */
  async read(server, args, isLast) {
    const subscribe = ["streamer", "subscribe", "--json", "--addr", server, "-d", "shop", "-c", "orders", ...args];
    const running = spawn(binary, subscribe, { stdio: ["ignore", "pipe", "ignore"] });
    this.#processes.add(running);
    const items = [];
    for await (const line of createInterface(running.stdout)) {
      items.push(JSON.parse(line));
      if (isLast(items.at(-1))) break;
    }
    running.kill("SIGKILL");
    return items;
  }

  publish(server, documents) {
    const lines = documents.map((document) => `${JSON.stringify(document)}\n`).join("");
    return this.run(["streamer", "publish", "--addr", server, "-d", "shop", "-c", "orders"], lines);
  }
}

const isEnd = ({ id }) => id === "end";
const isWhole = ({ type }) => type === "snapshotEnd";
const byId = (documents) => [...documents].sort((a, b) => (a.id < b.id ? -1 : 1));

/** Takes items until the document `end` arrives. */
async function follow(items, live) {
  const taken = [];
  for await (const item of items) {
    taken.push(item);
    if (item.id === "end" || live?.documents.has("end")) break;
  }
  return taken;
}

/** Publishes while `disturb` runs between the batches, and the document `end` at last. */
async function publishing(setup, server, disturb) {
  let n = 0;
  for (let batch = 0; batch < 5; batch += 1) {
    const documents = Array.from({ length: 200 }, () => ({ id: `d${n % 37}`, n: n++ % 10, serial: n }));
    await setup.publish(server(), documents.slice(0, 100));
    await disturb();
    await setup.publish(server(), documents.slice(100));
  }
  await setup.publish(server(), [{ id: "end", n: 9 }]);
}

/** Compares what a client took with what a subscriber without a gateway reads. */
async function compare(setup, server, live, changes) {
  const direct = await setup.read(server, ["--from", "oldest"], isEnd);
  const essence = ({ type, op, id, data }) => ({ type, op, id, data });
  assert.deepEqual(changes.map(essence), direct.map(essence));
  const snapshot = await setup.read(server, ["--snapshot", "n > 4"], isWhole);
  // Documents come first, and then the changes since they were read.
  const documents = new Map();
  for (const { type, op, id, data } of snapshot) {
    if (type === "left" || op === "delete") documents.delete(id);
    else if (id) documents.set(id, { ...data, id });
  }
  assert.deepEqual(byId(live.documents.values()), byId(documents.values()));
  assert.ok(documents.size > 10);
}

/** Resolves once everything is subscribed. */
const isLive = (client) =>
  new Promise((resolve) => {
    client.watch(({ state }) => state === "live" && resolve());
  });

test("a killed gateway loses and doubles nothing", real, () =>
  Setup.with(async (setup) => {
    const [, server] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "off");
    let [gateway, address] = await setup.gateway("127.0.0.1:0", server);
    const client = setup.connect(`http://${address}`);
    const orders = client.db("shop").collection("orders");
    const live = orders.where("n", ">", 4).live({ queue: 32 });
    const following = [follow(live, live), follow(orders.changes({ queue: 32 }))];
    await isLive(client);
    await publishing(setup, () => server, async () => {
      await setup.kill(gateway);
      [gateway] = await setup.gateway(address, server);
    });
    const [, changes] = await Promise.all(following);
    await compare(setup, server, live, changes);
  }));

test("a killed server with its gateway loses and doubles nothing", real, () =>
  Setup.with(async (setup) => {
    const start = (listen, gateway) => setup.server("--listen", listen, "--gateway", gateway);
    let [process, server] = await start("127.0.0.1:0", "127.0.0.1:0");
    const address = await setup.opened(process);
    const client = setup.connect(`http://${address}`);
    const orders = client.db("shop").collection("orders");
    const live = orders.where("n", ">", 4).live({ queue: 32 });
    const list = orders.orderBy("serial", "desc").limit(5).live();
    const following = [follow(live, live), follow(orders.changes({ queue: 32 }))];
    await isLive(client);
    await publishing(setup, () => server, async () => {
      await setup.kill(process);
      [process] = await start(server, address);
    });
    const [, changes] = await Promise.all(following);
    await compare(setup, server, live, changes);
    // Whether the newest state came whole or by single changes depends on when the list was connected again.
    const serials = () => list.documents.map(({ serial }) => serial).join();
    for await (const { type } of list) {
      assert.notEqual(type, "gap");
      if (list.isWhole && serials() === "1000,999,998,997,996") break;
    }
  }));

test("the first example of the README runs on it", real, () =>
  Setup.with(async (setup) => {
    const [process] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0");
    const printed = await runExample(`http://${await setup.opened(process)}`);
    assert.equal(printed, "whole 1\nentered 2\n");
  }));

for (const [name, program, ...args] of [
  ["Node", process.execPath],
  ["Bun", platformPackage("@oven/bun-linux-x64", "bin/bun")],
  ["Deno", platformPackage("@deno/linux-x64-glibc", "deno"), "run", "--allow-all"],
]) {
  const skip = real.skip || (existsSync(program) ? false : `${program} does not exist`);
  test(`the bundle publishes, follows and ends in ${name}`, { ...real, skip }, () =>
    Setup.with(async (setup) => {
      const [process] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0");
      const { lines } = setup.spawn(program, [...args, join(folder, "runtime.js"), `http://${await setup.opened(process)}`]);
      const printed = [];
      for await (const line of lines) printed.push(line);
      assert.deepEqual(printed, ["whole b", "entered b,c", "closed"]);
    }));
}

test("documents are published and read and deleted over HTTP", real, () =>
  Setup.with(async (setup) => {
    const [process, server] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0");
    const orders = setup.connect(`http://${await setup.opened(process)}`).db("shop").collection("orders");
    const many = Array.from({ length: 50 }, (_, n) => ({ id: `d${n}`, n, "a.b": { c: n % 2 } }));
    const idempotencyKey = "once";
    for (let time = 0; time < 3; time += 1) await orders.publish(many, { idempotencyKey });
    const { position: at } = await orders.delete(["d48", "d49"]);
    const query = orders.where("n", ">=", 40).where(["a.b", "c"], "==", 1).select("n");
    const { documents, position } = await query.get({ at });
    assert.deepEqual(documents, [41, 43, 45, 47].map((n) => ({ id: `d${n}`, n })));
    await orders.publish({ id: "end", n: 100, "a.b": { c: 1 } });
    assert.deepEqual((await follow(query.changes({ from: position, left: true }))).map(({ id }) => id), ["end"]);
    // Each document once, the deletions, and the end.
    assert.equal((await setup.read(server, ["--from", "oldest"], isEnd)).length, 53);
  }));

test("a token sees its documents and a wrong one is refused", real, () =>
  Setup.with(async (setup) => {
    const [token, policy] = [join(setup.folder, "app.token"), join(setup.folder, "access.toml")];
    const principal = await setup.run(["token", "new", "app", "--out", token]);
    const grant = 'role = "orders"\ndatabases = ["shop"]\ncollections = ["orders"]\nactions = ["subscribe", "publish"]';
    const member = 'roles = ["orders"]\nprincipals = ["token:app"]';
    await writeFile(policy, `${principal}\n[[grants]]\n${grant}\n[[members]]\n${member}\n`);
    const listen = ["--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--access", policy];
    const [process] = await setup.server(...listen);
    const url = `http://${await setup.opened(process)}`;
    const secret = (await readFile(token, "utf8")).trim();
    const orders = setup.connect(url, { token: () => secret }).db("shop").collection("orders");
    await orders.publish({ id: "end", n: 1 });
    const live = orders.live();
    await follow(live, live);
    assert.deepEqual([...live.documents.values()].map(({ id, n }) => ({ id, n })), [{ id: "end", n: 1 }]);
    const other = setup.connect(url, { token: () => secret }).db("shop").collection("invoices");
    await assert.rejects(other.live().next(), { code: "denied" });
    await assert.rejects(other.get(), { code: "denied", status: 403 });
    for (const [wrong, cause] of [["nobody's", /./], [undefined, /token/]]) {
      const client = setup.connect(url, { token: wrong });
      await assert.rejects(client.db("shop").collection("orders").live().next(), { code: "unauthenticated" });
      assert.equal(client.status.state, "closed");
      assert.match(client.status.cause, cause);
    }
  }));

test("a cut on request is followed by another connection", real, () =>
  Setup.with(async (setup) => {
    const [process] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0");
    const client = setup.connect(`http://${await setup.opened(process)}`);
    const orders = client.db("shop").collection("orders");
    const changes = orders.changes();
    await isLive(client);
    const states = [];
    client.watch(({ state }) => states.push(state));
    client.cut();
    await orders.publish({ id: "end" });
    assert.equal((await follow(changes)).length, 1);
    assert.deepEqual(states.slice(0, 3), ["live", "waiting", "connecting"]);
  }));

test("a process stopped beyond all heartbeats loses nothing", real, () =>
  Setup.with(async (setup) => {
    const [, server] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "off");
    // The gateway gives a silent socket up after three of these.
    const [, address] = await setup.gateway("127.0.0.1:0", server, "--socket-heartbeat", "300ms");
    const sockets = async () => (await (await fetch(`http://${address}/v1/status`)).json()).gateway.sockets.length;
    const follower = setup.spawn(process.execPath, [join(folder, "follow.js"), `http://${address}`]);
    const next = async () => (await follower.lines.next()).value;
    assert.equal(await next(), "live");
    await setup.publish(server, [{ id: "d0", n: 0 }]);
    assert.equal(await next(), "0");
    follower.kill("SIGSTOP");
    const numbers = Array.from({ length: 1_000 }, (_, n) => n + 1);
    await setup.publish(server, numbers.map((n) => ({ id: `d${n % 37}`, n })));
    while ((await sockets()) > 0) await sleep(50);
    follower.kill("SIGCONT");
    for (const n of numbers) assert.equal(await next(), String(n));
    await setup.publish(server, [{ id: "end", n: "end" }]);
    assert.equal(await next(), "end");
  }));

test("a gateway that drains is followed by another one", real, () =>
  Setup.with(async (setup) => {
    const [, server] = await setup.server("--listen", "127.0.0.1:0", "--gateway", "off");
    const [gateway, address] = await setup.gateway("127.0.0.1:0", server);
    const client = setup.connect(`http://${address}`);
    const changes = client.db("shop").collection("orders").changes();
    await isLive(client);
    const waiting = new Promise((resolve) => {
      client.watch((status) => status.state === "waiting" && resolve(status));
    });
    gateway.kill("SIGTERM");
    assert.match((await waiting).cause, /^the gateway restarts/);
    await setup.publish(server, [{ id: "end" }]);
    await setup.gateway(address, server);
    client.wake();
    assert.equal((await follow(changes)).length, 1);
  }));
