// The client: performs what the session decides, with a WebSocket, a clock and timers.

import { SteadfastError, invalid } from "./errors.js";
import { createRequester } from "./http.js";
import { SUBPROTOCOL, createProtocol } from "./protocol.js";
import { createDatabase } from "./query.js";
import { createSession, defaults, end } from "./session.js";
import { indexedDbStore } from "./indexed-db.js";
import { createPositionWriter, createSubscription } from "./subscription.js";
import { createTokens } from "./tokens.js";

/** The largest frame that a gateway takes, in bytes, less the other fields of a subscribe message. */
const REQUEST_MAX = (64 << 10) - 1_024;
/** The longest delay of `setTimeout`, which counts in 32 bits. */
const TIMER_MAX = 2 ** 31 - 1;
/** A timer that fires this late says that the page or the computer slept. */
const LATE = 2_000;
/** The limit on `close()`. */
const CLOSE_MAX = 2_000;

const systemClock = {
  now: () => performance.now(),
  wall: Date.now,
  setTimeout: (callback, delay) => setTimeout(callback, delay),
  clearTimeout: (timer) => clearTimeout(timer),
};

/** Connects to a gateway: `https://host`, `wss://host`, or a path on the page's own host. */
export function connect(url, options = {}) {
  // Another clock, page or random generator is for tests.
  const { clock = systemClock, random = Math.random, page = globalThis, WebSocket = globalThis.WebSocket } = options;
  if (!WebSocket) throw invalid("no WebSocket in this runtime; pass one: connect(url, { WebSocket })");
  const base = baseOf(url);
  const tokens = createTokens(options.token, clock.now);
  const config = { ...defaults, renews: tokens.renewable };
  const session = createSession(config, random);
  const abort = new AbortController();
  const request = createRequester(base, tokens, random, abort.signal, options.fetch);
  const watchers = new Set();
  /** What stores positions, by their names. */
  const stored = new Map();
  const inputs = [];
  let socket;
  /** The promise of the token that this connection uses. */
  let token;
  let isStepping = false;
  /** True once the session has stopped: it is not started again. */
  let isOver = false;
  let onStopped;
  const stopped = new Promise((resolve) => (onStopped = resolve));
  let timer;
  let timerDue;
  /** The wall clock less the monotonic one. A sleep changes it where the latter stands still meanwhile. */
  let drift = clock.wall() - clock.now();
  let subscriptions = 0;
  let store = options.store;

  const protocol = createProtocol(config, {
    send,
    signal: (type, more) => step({ type, generation: session.current, ...more }),
    renewToken,
    isOpen: () => socket,
  });

  // The session.

  function step(input) {
    if (isOver) return;
    inputs.push(input);
    // An action may cause the next input; it waits until all actions before it are done.
    if (isStepping) return;
    isStepping = true;
    for (let next; (next = inputs.shift()); ) {
      const actions = [];
      session.step(clock.now(), next, actions);
      for (const action of actions) perform[action.type]?.(action);
    }
    isStepping = false;
    schedule();
    showStatus();
  }

  const perform = {
    open,
    finish: () => socket?.close(1000),
    kill() {
      if (!socket) return;
      // Some runtimes end the program for an error event without a listener.
      socket.onerror = () => {};
      // `close` waits for the peer, which may be gone; only some runtimes can drop the connection.
      socket.terminate ? socket.terminate() : socket.close();
      socket = undefined;
    },
    probe: protocol.ping,
    heartbeat: protocol.ping,
    down: protocol.onDown,
    stopped({ end: { reason, text, errorCode = "unavailable" } }) {
      isOver = true;
      protocol.onStop(reason === "left" ? undefined : new SteadfastError(errorCode, text));
      abort.abort();
      onStopped();
    },
  };

  function schedule() {
    const due = Math.min(session.deadline ?? Infinity, protocol.deadline ?? Infinity);
    if (due === timerDue) return;
    clock.clearTimeout(timer);
    timerDue = due;
    if (due === Infinity) return;
    timer = clock.setTimeout(onTimer, Math.min(Math.max(due - clock.now(), 0), TIMER_MAX));
  }

  /** Gives the peer its time again if the timer is late: nothing could be heard meanwhile. Returns true if it is. */
  function forgiveSleep(now) {
    const before = drift;
    drift = clock.wall() - now;
    const isLate = now - timerDue > LATE || drift - before > LATE;
    const generation = session.current;
    if (isLate) for (const paused of [true, false]) step({ type: "readPaused", generation, paused });
    return isLate;
  }

  function onTimer() {
    const now = clock.now();
    const isLate = forgiveSleep(now);
    timerDue = undefined;
    if (isLate) step({ type: "reconnect" });
    if (protocol.deadline <= now) protocol.onTimer(now);
    step({ type: "tick" });
  }

  /** Looks after the connection now: a dead one is replaced, and a wait for the next attempt is shortened. */
  function wake() {
    // A hint may come before the timers that are due.
    forgiveSleep(clock.now());
    step({ type: "reconnect" });
  }

  const onVisibility = () => page.document.visibilityState === "visible" && wake();

  // The socket.

  async function open({ generation, refresh }) {
    const ended = (why) => step({ type: "ended", generation, end: why });
    let bearer;
    let opened;
    token = tokens.current(refresh && token);
    try {
      bearer = await token;
      // Closed, or out of time, while the token was fetched.
      if (session.current !== generation) return;
      // Pages may forbid it.
      opened = new WebSocket(`${base.replace(/^http/, "ws")}/realtime/ws`, [SUBPROTOCOL]);
    } catch (error) {
      return ended(end(`the attempt failed: ${error?.message ?? error}`));
    }
    socket = opened;
    let wasOpen = false;
    let failure;
    opened.onopen = () => {
      wasOpen = true;
      if (opened.protocol !== SUBPROTOCOL) return ended(end(`the server does not speak ${SUBPROTOCOL}`, "wait"));
      step({ type: "headers", generation });
      protocol.onOpen(bearer);
    };
    opened.onmessage = ({ data }) => {
      step({ type: "message", generation });
      if (socket === opened) protocol.onFrame(clock.now(), data);
    };
    // Browsers say nothing about the cause.
    opened.onerror = ({ message }) => (failure = message);
    opened.onclose = ({ code, reason }) => ended(protocol.endOf(code, reason || failure, wasOpen, random));
  }

  function send(message) {
    if (socket?.readyState === 1) socket.send(JSON.stringify(message));
  }

  async function renewToken() {
    const before = session.current;
    // A failure is no end: it is fetched again before the old one expires, and then the gateway closes the socket.
    const next = tokens.current(token);
    const bearer = await next.catch(() => {});
    if (!bearer || session.current !== before) return;
    token = next;
    protocol.authenticate(bearer);
  }

  // The status.

  function readStatus() {
    const { phase, cause } = session;
    if (phase === "backoff") return { state: "waiting", cause, until: clock.wall() + session.deadline - clock.now() };
    const isClosed = ["idle", "closed", "draining"].includes(phase);
    return { state: isClosed ? "closed" : ["live", "stable"].includes(phase) ? "live" : "connecting", cause };
  }

  function showStatus() {
    const next = readStatus();
    // The two clocks differ by parts of a millisecond each time.
    if (next.state === status.state && next.cause === status.cause && !(Math.abs(next.until - status.until) > 1)) return;
    status = next;
    // Later, so that a watcher that throws breaks nothing here.
    for (const watcher of watchers) queueMicrotask(() => watchers.has(watcher) && watcher(next));
  }

  // Subscriptions.

  function subscribe(query, view, options = {}) {
    const { from, persist } = options;
    if (status.state === "closed") throw new SteadfastError("closed", `the client is closed: ${status.cause}`);
    if (view.documents && (from || persist)) throw invalid("live() begins with the documents; only changes() continues");
    // The gateway would close the socket, and with it every other subscription.
    if (new TextEncoder().encode(JSON.stringify(query)).length > REQUEST_MAX) throw invalid("the subscription exceeds 64 KiB");
    const create = (save) => createSubscription(protocol, String(++subscriptions), query, view, { ...options, save });
    if (persist !== undefined) return createStored(persist, create);
    const subscription = create();
    subscription.start();
    return subscription;
  }

  function createStored(name, create) {
    store ??= globalThis.indexedDB && indexedDbStore();
    if (!store) throw invalid("no IndexedDB in this runtime; pass a store: connect(url, { store })");
    const before = stored.get(name);
    if (before && !before.subscription.isOver) throw invalid(`another subscription stores its position as "${name}"`);
    const onError = (error) =>
      subscription.cancel(new SteadfastError("store", `the store of the position "${name}": ${error.message}`));
    const writer = createPositionWriter(store, name, onError);
    const subscription = create(writer.save);
    stored.set(name, { subscription, writer });
    // What the subscription before stored last may be on its way.
    const read = async () => (await before?.writer.idle(), store.get(name));
    read().then(subscription.start, onError);
    return subscription;
  }

  async function close() {
    abort.abort();
    // Iterators end now, and not when the gateway has answered.
    protocol.onStop();
    step({ type: "leave" });
    let overdue;
    const limit = new Promise((resolve) => (overdue = clock.setTimeout(resolve, CLOSE_MAX)));
    await Promise.race([Promise.all([stopped, ...[...stored.values()].map(({ writer }) => writer.idle())]), limit]);
    clock.clearTimeout(overdue);
  }

  let status = readStatus();
  if (page.document) {
    const { signal } = abort;
    page.addEventListener("online", wake, { signal });
    page.document.addEventListener("visibilitychange", onVisibility, { signal });
  }
  step({ type: "connect" });
  return {
    get status() {
      return status;
    },
    watch(watcher) {
      watchers.add(watcher);
      watcher(status);
      return () => watchers.delete(watcher);
    },
    db: (name) => createDatabase({ subscribe, request }, name),
    wake,
    cut: () => send({ type: "cut" }),
    close,
  };
}

/** Returns the URL of the gateway for HTTP, without a slash at its end. */
function baseOf(url) {
  const base = new URL(url, globalThis.location?.href);
  if (!/^(http|ws)s?:$/.test(base.protocol)) throw invalid(`not a URL of a gateway: ${base}`);
  return base.origin.replace(/^ws/, "http") + base.pathname.replace(/(\/realtime\/ws)?\/*$/, "");
}
