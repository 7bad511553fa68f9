// The page's one connection to the gateway: its token, its state, and its outages.

import { connect } from "./steadfast.js";
import { by, write } from "./dom.js";
import { shown } from "./shown.js";

const KEY = "steadfast-console-token";
const NAMES = { live: "connected", connecting: "connecting", waiting: "waiting", closed: "closed" };
const STATES = { live: "connected", connecting: "connecting", waiting: "connecting", closed: "refused" };

let client;
let unwatch;
let token = stored();
// Whether this connection was ever live, and when the outage under way began.
let wasLive = false;
let downSince = null;
const observers = [];

// A browser may forbid storage. The token then lasts as long as the page.
function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function store() {
  try {
    // For this tab only, and gone with it.
    if (token === "") sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // See above.
  }
}

/** Returns the connection. */
export function connection() {
  return client;
}

/** Returns true if the page has a token. */
export function hasToken() {
  return token !== "";
}

/** Returns the collection that the page works on. */
export function place() {
  return { database: by("database").value.trim(), collection: by("collection").value.trim() };
}

/** Returns the query of that collection with conditions. */
export function query(filters = []) {
  const { database, collection } = place();
  let made = client.db(database).collection(collection);
  for (const filter of filters) made = made.where(filter);
  return made;
}

/** Sends a request with the page's token. */
export function request(path) {
  const headers = token === "" ? {} : { authorization: `Bearer ${token}` };
  return fetch(new URL(path, document.baseURI), { headers, signal: AbortSignal.timeout(10_000) });
}

/**
 * Observes the connection: `onDown(cause)` at the beginning of each outage, `onUp({lasted})` at its end,
 * `onClosed(cause)` when nothing is tried any more, and `onRenew()` when another token begins another connection.
 */
export function observe(observer) {
  observers.push(observer);
}

function report(method, ...values) {
  for (const observer of observers) observer[method]?.(...values);
}

function onStatus({ state, cause }) {
  const pill = by("connection");
  pill.dataset.state = STATES[state];
  pill.title = shown(cause ?? "");
  write(by("connection-text"), NAMES[state]);
  if (state === "live") {
    if (downSince !== null) report("onUp", { lasted: performance.now() - downSince });
    downSince = null;
    wasLive = true;
  } else if (wasLive && downSince === null) {
    // Before the first connection there is nothing that could be lost.
    downSince = performance.now();
    report("onDown", cause);
  }
  if (state === "closed") report("onClosed", cause);
}

function open() {
  wasLive = false;
  downSince = null;
  client = connect(".", token === "" ? {} : { token });
  unwatch = client.watch(onStatus);
}

/** Connects, and again with each token that a person enters. */
export function startConnection() {
  by("token").value = token;
  by("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    token = by("token").value.trim();
    store();
    report("onRenew");
    // The end of the old connection is no state of the new one.
    unwatch();
    const old = client;
    open();
    await old.close();
  });
  open();
}
