// The client over real sockets, as the bundle that browsers get: cuts, restarts, and requests that are repeated.

import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { connect } from "../steadfast.js";
import { runExample } from "./example.js";
import { Server } from "./server.js";

async function serve(run, options) {
  const server = await new Server().start();
  // Short delays: these tests are about sockets, and real time passes.
  const client = connect(server.url, { WebSocket, random: () => 0, ...options });
  try {
    await run({ server, client, orders: client.db("shop").collection("orders") });
  } finally {
    await client.close();
    await server.stop();
  }
}

test("a live set stays exact while sockets are cut", () =>
  serve(async ({ server, orders }) => {
    const live = orders.where("n", ">", 4).live({ queue: 16 });
    const changes = orders.changes({ queue: 16 });
    const COUNT = 400;
    // Changes begin with the subscription.
    while ([...server.model.connections][0]?.subscriptions.size !== 2) await new Promise((resolve) => setTimeout(resolve, 5));
    const writer = (async () => {
      for (let n = 0; n < COUNT; n += 1) {
        server.model.publish(`d${n % 20}`, { n: n % 10, serial: n });
        if (n % 80 === 40) server.cut();
        await new Promise((resolve) => setTimeout(resolve, 4));
      }
      server.model.publish("end", { n: 9 });
    })();
    const serials = [];
    const collecting = (async () => {
      for await (const { type, id, data } of changes) {
        assert.equal(type, "change");
        if (id === "end") break;
        serials.push(data.serial);
      }
    })();
    for await (const item of live) if (item.id === "end" || live.documents.has("end")) break;
    await Promise.all([writer, collecting]);
    assert.deepEqual(serials, Array.from({ length: COUNT }, (_, n) => n));
    assert.deepEqual(new Map([...live.documents].sort()), new Map([...server.model.matching(["n > 4"])].sort()));
  }));

test("a gateway that restarts loses nothing", () =>
  serve(async ({ server, client, orders }) => {
    const changes = orders.changes();
    const taken = [];
    const taking = (async () => {
      for await (const { data } of changes) {
        taken.push(data.n);
        if (data.n === 3) break;
      }
    })();
    await state(client, "live");
    for (const n of [1, 2, 3]) {
      server.model.publish("a", { n });
      await server.stop();
      await state(client, "waiting");
      await server.start();
      await state(client, "live");
    }
    await taking;
    assert.deepEqual(taken, [1, 2, 3]);
  }));

test("documents are read with their position and published", () =>
  serve(async ({ server, orders }) => {
    const { published } = await orders.publish([{ id: "a", n: 1 }, { id: "b", n: 7 }]);
    assert.equal(published, 2);
    await orders.publish({ id: "c", n: 8 });
    await orders.delete("b");
    const { documents, position } = await orders.where("n", ">", 4).select("n", ["x.y"]).get({ at: "0000000000000007-4" });
    assert.deepEqual(documents, [{ id: "c", n: 8 }]);
    const { url, headers } = server.requests.at(-1);
    assert.equal(url, "/v1/databases/shop/collections/orders?filter=n+%3E+4&fields=n%2C%22x.y%22&at=0000000000000007-4");
    assert.equal(headers.accept, "application/json");
    await orders.publish({ id: "d", n: 9 });
    for await (const { id } of orders.changes({ from: position })) {
      assert.equal(id, "d");
      break;
    }
  }));

test("a request that was cut is repeated and stores nothing twice", () =>
  serve(async ({ server, orders }) => {
    let failures = 0;
    server.intercept = (request, response) => {
      failures += 1;
      if (failures === 1) return Boolean(response.writeHead(503, { "retry-after": "0" }).end("proxy"));
      if (failures > 2) return false;
      // The documents are stored, and the response is lost.
      setTimeout(() => response.socket.destroy());
      response.end = () => response;
      return false;
    };
    assert.deepEqual((await orders.publish({ id: "a", n: 1 })).published, 1);
    const keys = new Set(server.requests.map(({ headers }) => headers["idempotency-key"]));
    assert.deepEqual([server.requests.length, keys.size, server.model.log.length], [3, 1, 1]);
    await orders.publish({ id: "a", n: 1 });
    assert.equal(server.model.log.length, 2, "another call is another request");
  }));

test("a refused request is an error with the gateway's words", () =>
  serve(async ({ server, orders }) => {
    server.intercept = (request, response) => response.writeHead(403).end('{"error":{"code":"denied","message":"no such role"}}');
    await assert.rejects(orders.get(), { code: "denied", message: "no such role", status: 403 });
    assert.equal(server.requests.length, 1);
    server.intercept = (request, response) => response.writeHead(429, { "retry-after": "60" }).end("{}");
    await assert.rejects(orders.get({ timeout: 300 }), { code: "unavailable", status: 429, retryAfterMs: 60_000 });
    assert.equal(server.requests.length, 2, "it is not asked again before it said");
  }));

test("a request without a response ends at its timeout", () =>
  serve(async ({ server, client, orders }) => {
    server.intercept = () => true;
    await assert.rejects(orders.get({ timeout: 100 }), { code: "timeout" });
    // A body that does not end is no response either.
    server.intercept = (request, response) => response.writeHead(200).write('{"documents":');
    await assert.rejects(orders.get({ timeout: 100 }), { code: "timeout" });
    const waiting = assert.rejects(orders.publish({ id: "a" }), { code: "closed" });
    await client.close();
    await waiting;
  }));

test("a token that a request finds expired is fetched once", async () => {
  let calls = 0;
  const token = async () => `t${++calls}`;
  await serve(
    async ({ server, client, orders }) => {
      server.model.tokens = ["t1", "t2"];
      await state(client, "live");
      server.model.tokens = ["t2"];
      await orders.get();
      assert.equal(calls, 2);
      server.model.tokens = [];
      await assert.rejects(orders.get(), { code: "unauthenticated", status: 401 });
      assert.equal(calls, 3);
    },
    { token },
  );
});

test("requests that find a token expired fetch one together", async () => {
  let calls = 0;
  const token = async () => `t${++calls}`;
  await serve(
    async ({ server, client, orders }) => {
      server.model.tokens = ["t1"];
      await state(client, "live");
      server.model.tokens = ["t2"];
      let busy = 0;
      server.intercept = ({ headers }, response) => {
        // The first responses to the new token.
        if (headers.authorization !== "Bearer t2" || ++busy > 6) return false;
        return Boolean(response.writeHead(503).end());
      };
      await Promise.all(Array.from({ length: 5 }, () => orders.get()));
      assert.equal(calls, 2);
    },
    { token },
  );
});

test("a token that never comes breaks no time limit", { timeout: 5_000 }, () =>
  serve(
    async ({ client, orders }) => {
      await assert.rejects(orders.publish({ id: "a" }, { timeout: 100 }), { code: "timeout" });
      const waiting = assert.rejects(orders.publish({ id: "a" }), { code: "closed" });
      await client.close();
      await waiting;
    },
    { token: () => new Promise(() => {}) },
  ));

test("a publish without a key is sent once", () =>
  serve(async ({ server, orders }) => {
    const keyless = { idempotencyKey: false };
    server.intercept = (request, response) => Boolean(response.socket.destroy());
    await assert.rejects(orders.publish({ id: "a" }, keyless), { code: "unavailable" });
    server.intercept = (request, response) => response.writeHead(503).end();
    await assert.rejects(orders.publish({ id: "a" }, keyless), { code: "unavailable", status: 503 });
    assert.equal(server.requests.length, 2);
    // What was refused before it had an effect can be sent again.
    server.intercept = (request, response) => server.requests.length === 3 && response.writeHead(429).end();
    assert.equal((await orders.publish({ id: "a" }, keyless)).published, 1);
    assert.equal(server.requests.length, 4);
    assert.ok(server.requests.every(({ headers }) => !("idempotency-key" in headers)));
  }));

test("a key that the gateway would refuse is not sent", () =>
  serve(async ({ server, orders }) => {
    for (const idempotencyKey of ["", "sch\u00f6n", "a\nb", "k".repeat(129), true, 7, null]) {
      await assert.rejects(orders.publish({ id: "a" }, { idempotencyKey }), { name: "SteadfastError", code: "invalid" });
    }
    assert.equal(server.requests.length, 0);
    await orders.publish({ id: "a" }, { idempotencyKey: "k".repeat(128) });
  }));

test("the bundle runs on the WebSocket of the runtime", () =>
  serve(async ({ server }) => {
    const printed = await runExample(server.url, (example) => {
      const own = example.replace(/import WebSocket.*\n/, "").replace(", { WebSocket }", "");
      assert.doesNotMatch(own, /WebSocket/);
      return own.replace('"steadfast"', '"steadfast/steadfast.js"');
    });
    assert.equal(printed, "whole 1\nentered 2\n");
  }));

/** Resolves once the client is in a state. */
function state(client, wanted) {
  return new Promise((resolve) => {
    const stop = client.watch(({ state }) => {
      if (state !== wanted) return;
      // `watch` calls before it returns.
      queueMicrotask(() => stop());
      resolve();
    });
  });
}
