// A client over a virtual network and clock.

import { connect } from "../src/index.js";
import { Clock, network, settle } from "./virtual.js";

export class Bench {
  clock = new Clock();
  /** Every socket that the client made, oldest first. */
  sockets = [];
  statuses = [];
  random = () => 1;

  constructor({ onConnect = (socket) => this.greet(socket), ...options } = {}) {
    this.onConnect = onConnect;
    const WebSocket = network((socket) => {
      this.sockets.push(socket);
      this.onConnect(socket);
    });
    this.client = connect("ws://gateway.test", { WebSocket, clock: this.clock, random: () => this.random(), ...options });
    this.client.watch((status) => this.statuses.push(status));
  }

  /** Accepts a socket as a gateway without a policy does. */
  greet(socket, welcome) {
    socket.onText = (text) => this.answer(socket, JSON.parse(text));
    socket.accept();
    socket.receive({ type: "welcome", version: 1, heartbeatMs: 25_000, auth: "optional", ...welcome });
  }

  answer(socket, { type, id, n }) {
    if (type === "auth") socket.receive({ type: "authenticated", principal: "p", ...this.authenticated });
    if (type === "subscribe") socket.receive({ type: "subscribed", id, position: this.subscribedAt });
    if (type === "ping" && !this.mute) socket.receive({ type: "pong", n });
  }

  /** A client that serves a model gateway. */
  static of(model, options) {
    return new Bench({ onConnect: (socket) => attach(model, socket), ...options });
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get state() {
    return this.client.status.state;
  }

  sent(type, socket = this.socket) {
    return socket.sent.filter((message) => message.type === type);
  }

  /** Milliseconds until the next attempt. */
  get wait() {
    return Math.round(this.client.status.until - this.clock.wall());
  }

  async advance(span) {
    await this.clock.advance(span);
  }
}

/** Connects a virtual socket to a model gateway. */
export function attach(model, socket) {
  socket.accept();
  const { start, onText, onGone } = model.connect({
    send: (text) => socket.receiveText(text),
    close: (code, reason) => queueMicrotask(() => socket.drop(code, reason)),
  });
  socket.onText = onText;
  socket.onGone = onGone;
  start();
}

/** Collects the items of a subscription as they come; `error` is how it ended. */
export function collect(subscription, onItem = () => {}) {
  const items = [];
  items.done = (async () => {
    try {
      for await (const item of subscription) {
        items.push(item);
        onItem(item);
      }
      items.ended = true;
    } catch (error) {
      items.error = error;
    }
  })();
  return items;
}

export { settle };
