// The messages of `steadfast.v1` (docs/protocol-gateway.md): what is sent on a new connection, and what each
// message of the gateway means. It reads no clock and owns no socket. Effects go to functions of the caller:
// `send(message)`, `signal(type, fields)` to the session, `renewToken()`.

import { end } from "./session.js";
import { SteadfastError } from "./errors.js";

export const SUBPROTOCOL = "steadfast.v1";

/** The share of a token's life after which a new one is fetched. */
const RENEW_AT = 0.8;
/** The shortest time between two attempts to fetch a token before the old one expires. */
const RENEW_INTERVAL_MIN = 1_000;

/** Runtimes report several codes for a connection that was never open. */
const UNREACHABLE = -1;
const FINISHED = ["the gateway ended the connection", "retry", { reason: "finished" }];
const FINAL = ["stop", { errorCode: "protocol" }];

/** Close codes with their ends. */
const CLOSED = {
  [UNREACHABLE]: ["the gateway cannot be reached"],
  1000: FINISHED,
  1001: FINISHED,
  1008: ["the protocol was broken", ...FINAL],
  1009: ["a message was too large", ...FINAL],
  1012: ["the gateway restarts", "retry", { reason: "drained" }],
  1013: ["the gateway is at a limit"],
  4401: ["the gateway refused the token"],
};

/** Creates the protocol of one client. Its subscriptions outlive connections. */
export function createProtocol(config, { send, signal, renewToken, isOpen }) {
  const subscriptions = new Map();
  /** Ids of subscriptions whose response to this connection's subscribe message is missing. */
  const unanswered = new Set();
  /** The gateway has greeted this connection. */
  let greeted = false;
  let restored = false;
  let sentToken = false;
  /** The time at which `onTimer` wants to be called. */
  let deadline;
  let expires;
  let drainWithin;
  let lastError;
  let pings = 0;

  /** Handles a new connection. The token may be absent. */
  function onOpen(token) {
    sentToken = Boolean(token);
    if (token) authenticate(token);
  }

  function authenticate(token) {
    send({ type: "auth", token });
  }

  function ping() {
    send({ type: "ping", n: ++pings });
  }

  /** Handles a text frame: an object, or an array of objects. */
  function onFrame(now, text) {
    let messages;
    try {
      messages = JSON.parse(text);
    } catch {
      return fail(end("the gateway sent something that is not JSON"));
    }
    for (const message of Array.isArray(messages) ? messages : [messages]) {
      if (isOpen()) onMessage(now, message);
    }
  }

  function onMessage(now, message) {
    const subscription = subscriptions.get(message?.sub ?? message?.id);
    switch (message?.type) {
      case "welcome": return onWelcome(message);
      case "authenticated": return onAuthenticated(now, message);
      case "pong": return signal("probed", { alive: true });
      case "error":
        if (message.code === "unauthenticated") return fail(unauthenticated(message.message));
        // If the gateway closes the socket next, the end gets these words.
        lastError = message.message;
        return;
      case "drain":
        drainWithin = message.retryAfterMs;
        return;
      case "subscribed":
        subscription?.onSubscribed(message);
        return onAnswer(message.id);
      case "refused":
      case "ended": return onRefused(subscription, message);
    }
    if (message?.sub && subscription?.accept(message) === false) {
      fail(end("the gateway sent more than the credit allows"));
    }
  }

  function onWelcome({ heartbeatMs, auth }) {
    if (heartbeatMs > 0) {
      // A connection is dead two heartbeats after the last message. Session of crates/session has this from its
      // configuration; here the gateway sets it.
      config.activity = 2 * heartbeatMs;
      signal("heartbeatInterval", { interval: heartbeatMs });
    }
    if (sentToken) return;
    if (auth === "required") return fail(unauthenticated("the gateway wants a token"));
    restore();
  }

  function onAuthenticated(now, { expiresInMs }) {
    if (expiresInMs !== undefined && config.renews) {
      expires = now + expiresInMs;
      deadline = now + Math.max(expiresInMs * RENEW_AT, RENEW_INTERVAL_MIN);
    } else {
      deadline = undefined;
    }
    restore();
  }

  /** Handles the passing of `deadline`: the token will expire soon. */
  function onTimer(now) {
    // Until the new token is accepted, it is fetched again after half of what is left.
    const left = expires - now;
    deadline = left > 0 ? now + Math.max(left / 2, RENEW_INTERVAL_MIN) : undefined;
    renewToken();
  }

  /** Subscribes everything once the gateway has greeted. */
  function restore() {
    if (greeted) return;
    greeted = true;
    signal("greeted");
    for (const subscription of subscriptions.values()) if (subscription.isReady) subscribe(subscription);
    onAnswer();
  }

  /** Subscribes on this connection, if the gateway has greeted; `restore` does it on each one after. */
  function subscribe(subscription) {
    if (!greeted) return;
    unanswered.add(subscription.id);
    send(subscription.onOpen());
  }

  function onAnswer(id) {
    unanswered.delete(id);
    if (!greeted || restored) return;
    restored = unanswered.size === 0;
    signal(restored ? "restored" : "restoreProgress");
  }

  function onRefused(subscription, { id, code, message, retryAfterMs }) {
    if (!subscription) return;
    // The servers behind the gateway are away. There is one backoff, that of the session: it keeps the time, and
    // everything continues by position.
    if (code === "unavailable") {
      return fail(end(message ?? code, retryAfterMs > 0 ? "wait" : "retry", { wait: retryAfterMs }));
    }
    subscriptions.delete(id);
    subscription.fail(new SteadfastError(code, message ?? code, { retryAfterMs }));
    onAnswer(id);
  }

  const fail = (why) => signal("fail", { end: why });

  const unauthenticated = (text) => end(text, config.renews ? "refresh" : "stop", { errorCode: "unauthenticated" });

  /** Returns the end that a close frame of the gateway stands for, or the missing of one. */
  function endOf(code, reason, wasOpen, random) {
    const text = lastError || reason;
    const [plain, advice, more] = CLOSED[wasOpen ? code : UNREACHABLE] ?? [`the connection was lost (${code})`];
    const line = text ? `${plain}: ${text}` : plain;
    if (code === 4401) return unauthenticated(line);
    // The session adds up to as much again: together it is a random time within what the gateway said.
    if (code === 1012 && drainWithin > 0) return end(line, "wait", { ...more, wait: (random() * drainWithin) / 2 });
    return end(line, advice, more);
  }

  /** Handles the end of a connection. Another may follow. */
  function onDown() {
    greeted = restored = false;
    unanswered.clear();
    deadline = drainWithin = lastError = undefined;
    for (const subscription of subscriptions.values()) subscription.onDown();
  }

  /** Handles the end of all attempts. */
  function onStop(error) {
    for (const subscription of subscriptions.values()) subscription.fail(error);
    subscriptions.clear();
  }

  /** Adds a subscription, which may not be ready yet. */
  function add(subscription) {
    subscriptions.set(subscription.id, subscription);
  }

  /** Removes a subscription, which may be open on this connection. */
  function remove(id, open) {
    if (!subscriptions.delete(id) || !open) return;
    send({ type: "unsubscribe", id });
    onAnswer(id);
  }

  /** Grants credit: a total since the subscribe message. */
  function grant(id, messages) {
    send({ type: "credit", id, messages });
  }

  return {
    get deadline() {
      return deadline;
    },
    onOpen,
    authenticate,
    ping,
    onFrame,
    onTimer,
    endOf,
    onDown,
    onStop,
    add,
    subscribe,
    remove,
    grant,
  };
}
