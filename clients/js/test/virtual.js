// A clock and a network in which time passes only when a test says so.

import { SUBPROTOCOL } from "../src/protocol.js";

/** Lets everything run that waits for no timer. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export class Clock {
  #now = 0;
  #timers = new Map();
  #ids = 0;
  /** The wall clock runs ahead by this. */
  ahead = 1_700_000_000_000;

  now = () => this.#now;
  wall = () => this.#now + this.ahead;

  setTimeout = (callback, delay) => {
    this.#timers.set(++this.#ids, { at: this.#now + delay, callback });
    return this.#ids;
  };

  clearTimeout = (id) => void this.#timers.delete(id);

  get pending() {
    return this.#timers.size;
  }

  /** Advances the time through every timer on the way. */
  async advance(span) {
    const until = this.#now + span;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      const [id, { at, callback }] = due;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, at);
      callback();
    }
    this.#now = until;
    await settle();
  }

  /** Lets time pass without any timer, as in a page that is frozen. */
  sleep(span) {
    this.#now += span;
  }
}

/** A random number generator that gives the same numbers for a seed (mulberry32). */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Makes the class of sockets that lead to `onConnect(socket)`, which may accept, refuse, or do nothing. */
export function network(onConnect) {
  return class VirtualSocket {
    readyState = 0;
    protocol = "";
    sent = [];
    onText = () => {};

    constructor(url, protocols) {
      this.url = url;
      this.protocols = protocols;
      queueMicrotask(() => onConnect(this));
    }

    // The side of the client.

    send(text) {
      const message = JSON.parse(text);
      this.sent.push(message);
      this.onText(text);
    }

    close(code = 1000) {
      if (this.readyState > 1) return;
      this.readyState = 2;
      this.onClosing?.(code);
    }

    terminate() {
      this.readyState = 3;
      this.onGone?.();
    }

    // The side of the gateway.

    accept(protocol = SUBPROTOCOL) {
      if (this.readyState !== 0) return;
      this.readyState = 1;
      this.protocol = protocol;
      this.onClosing = (code) => queueMicrotask(() => this.drop(code));
      this.onopen?.({});
    }

    receive(...messages) {
      this.receiveText(JSON.stringify(messages.length === 1 ? messages[0] : messages));
    }

    receiveText(data) {
      if (this.readyState === 1 || this.readyState === 2) this.onmessage?.({ data });
    }

    drop(code = 1006, reason = "") {
      if (this.readyState === 3) return;
      this.readyState = 3;
      this.onGone?.();
      this.onclose?.({ code, reason });
    }
  };
}
