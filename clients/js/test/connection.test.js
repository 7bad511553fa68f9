// The connection: attempts and delays, liveness, tokens, close codes, sleep, the end. Time is virtual.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SteadfastError, connect } from "../src/index.js";
import { Bench, collect, settle } from "./bench.js";

const nothing = () => {};

test("a client is live once everything is subscribed", async () => {
  const bench = new Bench({ token: "t" });
  bench.client.db("shop").collection("orders").changes();
  await settle();
  assert.deepEqual(bench.socket.protocols, ["steadfast.v1"]);
  assert.equal(bench.socket.url, "ws://gateway.test/realtime/ws");
  assert.deepEqual(bench.socket.sent.map(({ type }) => type), ["auth", "subscribe"]);
  assert.deepEqual(bench.statuses.map(({ state }) => state), ["connecting", "live"]);
});

test("a subscribe waits until the token is accepted", async () => {
  const bench = new Bench({ token: "t" });
  bench.answer = nothing;
  bench.client.db("shop").collection("orders").changes();
  await settle();
  assert.equal(bench.sent("subscribe").length, 0);
  bench.socket.receive({ type: "authenticated", principal: "p" });
  assert.equal(bench.sent("subscribe").length, 1);
});

test("addresses of every form lead to the same socket", async () => {
  const WebSocket = class {
    constructor(url) {
      WebSocket.urls.push(url);
    }
    close() {}
  };
  WebSocket.urls = [];
  for (const url of ["https://h:1/a/", "wss://h:1/a", "wss://h:1/a/realtime/ws", "https://h:1/a?x#y"]) {
    const client = connect(url, { WebSocket });
    await settle();
    await client.close();
  }
  assert.deepEqual(new Set(WebSocket.urls), new Set(["wss://h:1/a/realtime/ws"]));
});

test("delays of failed attempts double and have full jitter", async () => {
  const refuse = (socket) => socket.drop();
  for (const [random, expected] of [[1, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]], [0, Array(7).fill(500)]]) {
    const bench = new Bench({ onConnect: refuse });
    bench.random = () => random;
    await settle();
    for (const delay of expected) {
      assert.equal(bench.state, "waiting");
      assert.equal(bench.wait, delay);
      await bench.advance(delay);
    }
    assert.equal(bench.sockets.length, expected.length + 1);
    assert.equal(bench.client.status.cause, "the gateway cannot be reached");
  }
});

test("only a stable connection resets the delays", async () => {
  const bench = new Bench();
  await settle();
  // An orderly end of the first live connection and then failures: each is followed by a longer delay.
  for (const delay of [1_000, 2_000, 4_000]) {
    bench.socket.drop();
    assert.equal(bench.wait, delay);
    await bench.advance(delay + 29_000);
  }
  await bench.advance(1_000);
  bench.socket.drop();
  assert.equal(bench.wait, 1_000);
});

test("each close code has its consequence and its line", async () => {
  const table = [
    [0, "waiting", "the connection was lost (0): why"],
    [1000, "waiting", "the gateway ended the connection: why"],
    [1001, "waiting", "the gateway ended the connection: why"],
    [1006, "waiting", "the connection was lost (1006): why"],
    [1008, "closed", "the protocol was broken: why", "protocol"],
    [1009, "closed", "a message was too large: why", "protocol"],
    [1012, "waiting", "the gateway restarts: why"],
    [1013, "waiting", "the gateway is at a limit: why"],
    [4401, "closed", "the gateway refused the token: why", "unauthenticated"],
  ];
  for (const [code, state, cause, errorCode] of table) {
    const bench = new Bench({ token: "fixed" });
    const items = collect(bench.client.db("d").collection("c").changes());
    await settle();
    bench.socket.drop(code, "why");
    await settle();
    assert.deepEqual([bench.state, bench.client.status.cause], [state, cause]);
    assert.equal(items.error?.code, errorCode, `${code}`);
    if (errorCode) {
      assert.throws(() => bench.client.db("d").collection("c").live(), { code: "closed" });
      await bench.advance(600_000);
      assert.equal(bench.sockets.length, 1);
    }
    await bench.client.close();
  }
});

test("a drain is followed by a random time up to the stated one", async () => {
  for (const [random, low, high] of [[1, 20_000, 20_000], [0.5, 7_500, 7_500], [0, 500, 500]]) {
    const bench = new Bench();
    await bench.advance(60_000);
    bench.random = () => random;
    bench.socket.receive({ type: "drain", retryAfterMs: 20_000 });
    assert.equal(bench.state, "live");
    bench.socket.drop(1012);
    assert.ok(bench.wait >= low && bench.wait <= high, `${bench.wait}`);
  }
});

test("a silent gateway gets a ping and then is replaced", async () => {
  const bench = new Bench();
  await bench.advance(60_000);
  const [first] = bench.sockets;
  const pings = bench.sent("ping").length;
  assert.equal(pings, 2);
  bench.mute = true;
  await bench.advance(49_000);
  assert.equal(bench.state, "live");
  await bench.advance(3_000);
  assert.equal(bench.client.status.state, "live");
  assert.equal(bench.sockets.length, 2);
  assert.equal(first.readyState, 3);
  assert.ok(bench.statuses.some(({ cause }) => cause === "nothing was received for too long"));
});

test("the heartbeat of the welcome is kept", async () => {
  const bench = new Bench({ onConnect: (socket) => bench.greet(socket, { heartbeatMs: 4_000 }) });
  await bench.advance(20_500);
  assert.equal(bench.sent("ping").length, 5);
  bench.mute = true;
  await bench.advance(9_500);
  assert.equal(bench.sockets.length, 2);
});

test("messages count as signs of life without pongs", async () => {
  const bench = new Bench();
  bench.mute = true;
  for (let second = 0; second < 600; second += 10) {
    await bench.advance(10_000);
    bench.socket.receive({ type: "progress", sub: "none" });
  }
  assert.equal(bench.sockets.length, 1);
  // The gateway closes a socket that sent nothing, also if it received everything.
  assert.ok(bench.sent("ping").length >= 23);
});

test("a page that slept asks before it replaces the connection", async () => {
  const bench = new Bench();
  await bench.advance(60_000);
  bench.clock.sleep(3_600_000);
  const pings = bench.sent("ping").length;
  await bench.advance(1_000);
  assert.ok(bench.sent("ping").length > pings);
  assert.equal(bench.sockets.length, 1, "a pong keeps it");
  bench.mute = true;
  await bench.advance(51_000);
  assert.equal(bench.sockets.length, 2, "silence counts again");
  bench.mute = false;
  await bench.advance(60_000);
  bench.mute = true;
  bench.clock.sleep(120_000);
  await bench.advance(5_000);
  assert.equal(bench.sockets.length, 3, "no pong within 5 s replaces it");
  assert.equal(bench.state, "live");
});

test("timers throttled to one a minute keep the connection", async () => {
  const bench = new Bench();
  await bench.advance(60_000);
  for (let minute = 0; minute < 30; minute += 1) {
    bench.clock.sleep(60_000);
    await bench.advance(10);
  }
  assert.equal(bench.sockets.length, 1);
});

test("a hint before late timers keeps the connection", async () => {
  const bench = new Bench();
  await bench.advance(60_000);
  for (let minute = 0; minute < 30; minute += 1) {
    // As above, and the page becomes visible before its timers run.
    bench.clock.sleep(60_000);
    bench.client.wake();
    await bench.advance(10);
  }
  assert.equal(bench.sockets.length, 1);
  bench.mute = true;
  bench.clock.sleep(60_000);
  bench.client.wake();
  await bench.advance(5_000);
  assert.equal(bench.sockets.length, 2, "no pong within 5 s replaces it");
});

test("a clock that stood still during a sleep hides nothing", async () => {
  const bench = new Bench();
  await bench.advance(60_000);
  bench.mute = true;
  bench.clock.ahead += 3_600_000;
  const began = bench.clock.now();
  // At the next heartbeat at the latest, and 5 s for the ping.
  while (bench.sockets.length === 1) await bench.advance(500);
  assert.ok(bench.clock.now() - began <= 31_000, `${bench.clock.now() - began}`);
});

test("online and a visible page only shorten a wait", async () => {
  const page = new EventTarget();
  page.document = new EventTarget();
  let listeners = 0;
  for (const target of [page, page.document]) {
    const { addEventListener } = target;
    target.addEventListener = (type, listener, options) => {
      listeners += 1;
      // The platform removes a listener when its signal is aborted.
      options.signal.addEventListener("abort", () => (listeners -= 1));
      addEventListener.call(target, type, listener, options);
    };
  }
  page.document.visibilityState = "hidden";
  const bench = new Bench({ onConnect: (socket) => socket.drop(), page });
  await settle();
  for (let attempt = 0; attempt < 4; attempt += 1) await bench.advance(bench.wait);
  assert.equal(bench.wait, 16_000);
  await bench.advance(1_000);
  assert.equal(listeners, 2);
  const before = bench.sockets.length;
  page.document.dispatchEvent(new Event("visibilitychange"));
  await settle();
  assert.equal(bench.sockets.length, before, "a page that hides is no news");
  page.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(bench.sockets.length, before + 1);
  page.document.visibilityState = "visible";
  // However often it is told, the minimum interval holds.
  for (let event = 0; event < 100; event += 1) page.document.dispatchEvent(new Event("visibilitychange"));
  await bench.advance(499);
  assert.equal(bench.sockets.length, before + 1);
  await bench.client.close();
  page.dispatchEvent(new Event("online"));
  await bench.advance(60_000);
  assert.equal(bench.sockets.length, before + 1, "a closed client hears nothing");
  assert.equal(listeners, 0);
});

test("a hint on a live connection is a ping and nothing else", async () => {
  const bench = new Bench();
  await settle();
  bench.client.wake();
  await bench.advance(20_000);
  assert.equal(bench.sent("ping").length, 1);
  assert.equal(bench.sockets.length, 1);
});

test("the token is renewed in band before it expires", async () => {
  let calls = 0;
  const bench = new Bench({ token: async () => `t${++calls}` });
  bench.authenticated = { expiresInMs: 100_000 };
  await bench.advance(79_000);
  assert.deepEqual(bench.sent("auth").map(({ token }) => token), ["t1"]);
  await bench.advance(2_000);
  assert.deepEqual(bench.sent("auth").map(({ token }) => token), ["t1", "t2"]);
  await bench.advance(160_000);
  assert.deepEqual([calls, bench.sockets.length], [4, 1]);
});

test("a renewal that fails is tried again until the token expires", async () => {
  let calls = 0;
  const bench = new Bench({
    token: async () => {
      calls += 1;
      if (calls > 1) throw new Error("offline");
      return "t";
    },
  });
  bench.authenticated = { expiresInMs: 100_000 };
  await bench.advance(200_000);
  assert.ok(calls > 3 && calls < 16, `${calls} calls`);
  assert.equal(bench.sockets.length, 1);
});

test("a refused token is fetched at once and then with delays", async () => {
  let calls = 0;
  const refuse = (socket) => {
    bench.greet(socket, { auth: "required" });
    queueMicrotask(() => socket.drop(4401, "expired"));
  };
  const bench = new Bench({ token: () => `t${++calls}`, onConnect: refuse });
  await settle();
  assert.equal(bench.wait, 500);
  await bench.advance(500);
  assert.deepEqual(bench.sent("auth").map(({ token }) => token), ["t2"]);
  await bench.advance(120_000);
  assert.equal(bench.state, "waiting");
  assert.ok(calls < 12, `${calls} calls`);
});

test("an error of the gateway about the token ends the connection", async () => {
  const bench = new Bench({ token: "bad" });
  bench.answer = (socket, { type }) => {
    if (type === "auth") socket.receive({ type: "error", code: "unauthenticated", message: "unknown key" });
  };
  await settle();
  assert.deepEqual([bench.state, bench.client.status.cause], ["closed", "unknown key"]);
});

test("a gateway that wants a token closes a client without one", async () => {
  const bench = new Bench({ onConnect: (socket) => bench.greet(socket, { auth: "required" }) });
  const items = collect(bench.client.db("d").collection("c").changes());
  await settle();
  assert.equal(bench.state, "closed");
  assert.ok(items.error instanceof SteadfastError);
  assert.equal(items.error.code, "unauthenticated");
});

test("a token that cannot be fetched is retried with the backoff", async () => {
  const bench = new Bench({ token: () => Promise.reject(new Error("login server is away")) });
  await settle();
  assert.equal(bench.client.status.cause, "the attempt failed: login server is away");
  await bench.advance(100_000);
  assert.equal(bench.state, "waiting");
  assert.equal(bench.sockets.length, 0);
});

test("a token refused during its renewal is fetched once", async () => {
  const given = [];
  const bench = new Bench({ token: () => new Promise((resolve) => given.push(resolve)) });
  bench.authenticated = { expiresInMs: 100_000 };
  await settle();
  given[0]("t1");
  await bench.advance(81_000);
  assert.equal(given.length, 2);
  bench.socket.drop(4401, "revoked");
  await bench.advance(1_000);
  assert.equal(given.length, 2);
  given[1]("t2");
  await settle();
  assert.deepEqual([bench.state, bench.sent("auth")[0].token], ["live", "t2"]);
});

test("a call for a token that hangs is given up", async () => {
  let calls = 0;
  const bench = new Bench({ token: () => (++calls % 2 ? new Promise(nothing) : `t${calls}`) });
  await bench.advance(9_999);
  assert.equal(calls, 1);
  await bench.advance(2_000);
  assert.deepEqual([calls, bench.state], [2, "live"]);
  // The renewal hangs, too, and is begun again while the old token holds.
  bench.socket.receive({ type: "authenticated", principal: "p", expiresInMs: 100_000 });
  await bench.advance(99_000);
  assert.deepEqual(bench.sent("auth").map(({ token }) => token), ["t2", "t4"]);
});

test("a socket that the page forbids is tried again", async () => {
  const WebSocket = class {
    constructor() {
      throw new Error("mixed content");
    }
  };
  const bench = new Bench({ WebSocket });
  await bench.advance(60_000);
  assert.deepEqual([bench.state, bench.client.status.cause], ["waiting", "the attempt failed: mixed content"]);
});

test("a server without the subprotocol is left after its handshake", async () => {
  const bench = new Bench({ onConnect: (socket) => socket.accept("") });
  await settle();
  assert.equal(bench.client.status.cause, "the server does not speak steadfast.v1");
  assert.equal(bench.wait, 30_000);
});

test("what is not JSON ends and replaces the connection", async () => {
  const bench = new Bench();
  await settle();
  bench.socket.receiveText('{"type":');
  assert.equal(bench.client.status.cause, "the gateway sent something that is not JSON");
  await bench.advance(1_000);
  assert.equal(bench.state, "live");
});

test("unknown types and fields are ignored", async () => {
  const bench = new Bench();
  await settle();
  bench.socket.receive({ type: "news", sub: "9" }, null, 5, "text", [], { type: "pong", extra: 1 });
  assert.equal(bench.state, "live");
});

test("nothing of an older connection has an effect", async () => {
  const bench = new Bench();
  await settle();
  const [old] = bench.sockets;
  const { onmessage, onclose } = old;
  old.drop();
  await bench.advance(1_000);
  onmessage({ data: '{"type":' });
  onclose({ code: 1008, reason: "" });
  assert.equal(bench.state, "live");
});

test("close ends every phase within two seconds and leaves nothing", async () => {
  const never = () => new Promise(nothing);
  const reach = {
    token: () => new Bench({ token: never }),
    opening: () => new Bench({ onConnect: nothing }),
    greeting: () => new Bench({ onConnect: (socket) => socket.accept() }),
    restoring: () => {
      const bench = new Bench();
      bench.answer = nothing;
      return bench;
    },
    live: () => new Bench(),
    waiting: () => new Bench({ onConnect: (socket) => socket.drop() }),
    "waiting for a stored position": () => new Bench({ store: { get: never } }),
    "live, and the gateway answers nothing": () => {
      const bench = new Bench();
      queueMicrotask(() => setImmediate(() => (bench.socket.onClosing = nothing)));
      return bench;
    },
  };
  for (const [phase, make] of Object.entries(reach)) {
    const bench = make();
    const query = bench.client.db("d").collection("c");
    const items = collect(phase.includes("stored") ? query.changes({ persist: "p" }) : query.live());
    await settle();
    const began = bench.clock.now();
    const told = bench.statuses.length;
    let closed;
    bench.client.close().then(() => (closed = bench.clock.now() - began));
    await bench.advance(2_000);
    assert.ok(closed <= 2_000, phase);
    assert.ok(items.ended && !items.error, phase);
    assert.deepEqual([bench.state, bench.client.status.cause], ["closed", "closed by this side"], phase);
    assert.equal(bench.statuses.length, told + 1, phase);
    const sockets = bench.sockets.length;
    await bench.advance(300_000);
    assert.deepEqual([bench.clock.pending, bench.sockets.length], [0, sockets], phase);
    assert.ok(bench.sockets.every((socket) => socket.readyState === 3), phase);
  }
});

test("a token that comes after the end opens no socket", async () => {
  let give;
  const bench = new Bench({ token: () => new Promise((resolve) => (give = resolve)) });
  await settle();
  await bench.client.close();
  give("late");
  await settle();
  assert.equal(bench.sockets.length, 0);
});

test("a closed client yields nothing more", async () => {
  const bench = new Bench();
  const changes = bench.client.db("d").collection("c").changes();
  await settle();
  bench.socket.receive({ sub: "1", type: "change", id: "a", op: "insert", data: {} });
  await bench.client.close();
  assert.deepEqual(await changes.next(), { value: undefined, done: true });
});

test("a watcher that throws costs no item", async (t) => {
  const bench = new Bench();
  const items = collect(bench.client.db("d").collection("c").changes());
  await settle();
  const tasks = [];
  t.mock.method(globalThis, "queueMicrotask", (task) => tasks.push(task));
  const watcher = ({ state }) => {
    if (state === "waiting") throw new Error("of the page");
  };
  const stop = bench.client.watch(watcher);
  bench.socket.drop();
  t.mock.restoreAll();
  assert.throws(() => tasks.forEach((task) => task()), { message: "of the page" });
  await bench.advance(1_000);
  bench.socket.receive({ sub: "1", type: "change", id: "a", op: "insert", data: {} });
  await settle();
  assert.equal(items.at(-1).id, "a");
  stop();
  bench.socket.drop();
  await settle();
});

test("closing twice is as closing once", async () => {
  const bench = new Bench();
  await settle();
  await Promise.all([bench.client.close(), bench.client.close()]);
  await bench.client.close();
  assert.equal(bench.state, "closed");
});

test("a runtime without WebSocket is told what to pass", () => {
  // Node has one from version 22 on.
  const { WebSocket } = globalThis;
  globalThis.WebSocket = undefined;
  assert.throws(() => connect("ws://h"), /pass one: connect\(url, \{ WebSocket \}\)/);
  globalThis.WebSocket = WebSocket;
});
