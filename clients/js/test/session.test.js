// The session against the table that the Rust machine wrote: every row, through the same inputs at the same times.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { TIMERS, createBackoff, createSession, defaults } from "../src/session.js";

const table = JSON.parse(readFileSync(new URL("../../../docs/session-transitions.json", import.meta.url)));

/** The settings of this client that have another name in the table. */
const NAMES = {
  initialBackoff: "initial",
  maxBackoff: "longest",
  backoffMultiplier: "multiplier",
  maxRetries: "retries",
  renewsCredentials: "renews",
  openTimeout: "open",
  greetingTimeout: "greet",
  restoringTimeout: "restore",
  probeTimeout: "probe",
  drainTimeout: "leave",
  heartbeatInterval: "heartbeat",
  activityTimeout: "activity",
  stableAfter: "stable",
  retryAfterMax: "maxWait",
};
const settings = Object.fromEntries(Object.entries(table.config).map(([name, value]) => [NAMES[name] ?? name, value]));

/** The lines of ends that the session makes, with the reasons of the table. */
const REASONS = {
  "no connection in time": "open_timeout",
  "no greeting in time": "greeting_timeout",
  "a subscription was not answered in time": "restoring_timeout",
  "nothing was received for too long": "silent",
  "a heartbeat was not answered in time": "heartbeat_unanswered",
};

/** A session with a virtual clock. Without jitter, the random number does not matter. */
class Bench {
  now = 0;

  constructor(config) {
    this.session = createSession({ ...defaults, ...settings, ready: "restored", ...config }, () => 0.5);
  }

  feed(input) {
    const actions = [];
    this.session.step(this.now, input, actions);
    const { deadline } = this.session;
    assert.ok(deadline === undefined || deadline > this.now, "nothing that was due is left");
    return actions.map(actionText);
  }

  replay(path) {
    for (const [at, input] of path) {
      this.now = at;
      this.feed(input);
    }
  }

  compare(row, actions) {
    const left = TIMERS.filter((timer) => timer in this.session.timers);
    const timers = Object.fromEntries(left.map((timer) => [timer, this.session.timers[timer] - this.now]));
    const is = { to: this.session.phase, actions, timers };
    // The state of the table is what this client reads from the phase.
    const expected = row.actions.filter((action) => !action.startsWith("now "));
    assert.deepEqual(is, { to: row.to, actions: expected, timers: row.timers }, JSON.stringify(row));
  }
}

function actionText({ type, generation, refresh, end }) {
  switch (type) {
    case "open": return `open ${generation}${refresh ? " refreshed" : ""}`;
    case "down": return `down ${generation} ${end.reason ?? REASONS[end.text]}`;
    case "stopped": return `stopped ${end.reason}`;
    default: return `${type} ${generation}`;
  }
}

test("every input in every phase does what the table says", () => {
  assert.equal(new Set(table.inputs.map((row) => row.phase)).size, Object.keys(table.phases).length);
  for (const row of table.inputs) {
    const bench = new Bench();
    bench.replay(table.phases[row.phase]);
    bench.compare(row, bench.feed(row.input));
  }
});

test("every timer in every phase does what the table says", () => {
  assert.equal(new Set(table.timers.map((row) => row.timer)).size, TIMERS.length);
  for (const row of table.timers) {
    const bench = new Bench();
    bench.replay(table.phases[row.phase]);
    bench.session.step(bench.now, { type: "expectAcks", generation: bench.session.current }, []);
    bench.session.timers[row.timer] = bench.now;
    bench.compare(row, bench.feed({ type: "tick" }));
  }
});

test("every ready level goes live where the table says", () => {
  let bench;
  let ready;
  for (const row of table.ready) {
    if (row.ready !== ready) {
      ready = row.ready;
      bench = new Bench({ ready });
      bench.feed({ type: "connect" });
    }
    bench.compare(row, bench.feed(row.input));
  }
});

test("delays have the bounds that the table says", () => {
  assert.ok(table.delays.length > 10);
  for (const { jitter, step, wait, low, high } of table.delays) {
    for (const [random, bound] of [[0, low], [1, high]]) {
      const backoff = createBackoff({ ...defaults, ...settings, jitter }, () => random);
      backoff.reset(step);
      const delay = wait === undefined ? backoff.next() : backoff.atLeast(wait);
      assert.ok(Math.abs(delay - bound) < 1e-6, `${jitter} ${step ?? wait}: ${delay}, not ${bound}`);
    }
  }
});

test("settings of both machines have the same defaults", () => {
  // Those that the welcome of a gateway sets, and those that this client states otherwise on purpose.
  const own = ["jitter", "liveness", "leave", "heartbeat", "activity"];
  for (const [name, value] of Object.entries(settings)) {
    if (!own.includes(name)) assert.equal(defaults[name], value, name);
  }
});

test("a session that fails for years keeps the longest delay", () => {
  const backoff = createBackoff(defaults, () => 1);
  backoff.reset(5_000);
  assert.equal(backoff.next(), defaults.longest);
});
