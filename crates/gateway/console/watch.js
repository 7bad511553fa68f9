// Watching a collection: what arrives, as it arrives.

import { commandList, watching } from "./commands.js";
import { observe, place, query } from "./connection.js";
import { by, counts, say, write } from "./dom.js";
import { conditions, located } from "./filters.js";
import { List } from "./list.js";
import { duration, grouped, refusal, shown, shownJson } from "./shown.js";

const COUNTED = { change: "changes", document: "documents", left: "left", gap: "gaps", resync: "resyncs" };

let list;
let setCount;
let subscription = null;
let totals = {};

function reset() {
  totals = Object.fromEntries(Object.values(COUNTED).map((name) => [name, 0]));
  for (const name of Object.values(COUNTED)) setCount(name, "0");
  setCount("outages", "0");
  setCount("position", "none");
  totals.outages = 0;
  list.clear();
}

function options() {
  return {
    filters: conditions(by("filters").value),
    snapshot: by("snapshot").checked,
    left: by("left").checked,
    from: by("from").value.trim(),
  };
}

/** Returns the data of a document with the fields of the Streamer last: a line shows only its beginning. */
function ownFirst({ createdAt, updatedAt, version, ...own }) {
  return { ...own, version, createdAt, updatedAt };
}

/** Returns the line of an item of the protocol. */
function lineOf(item) {
  const fault = item.gap ?? item.resync;
  const data = JSON.stringify(item.data ? ownFirst(item.data) : fault);
  return {
    type: shown(item.type),
    op: shown(item.op ?? ""),
    id: shown(item.id ?? ""),
    position: shown(item.position ?? ""),
    data: shown(data ?? ""),
    item,
  };
}

function onItem(item) {
  list.add(lineOf(item));
  const name = COUNTED[item.type];
  if (name) {
    totals[name] += 1;
    const isLoss = name === "gaps" || name === "resyncs";
    setCount(name, grouped(totals[name]), isLoss ? "bad" : "");
  }
  if (item.position) setCount("position", shown(item.position));
}

async function watch() {
  const asked = options();
  write(by("filters-fault"), "");
  reset();
  const { database, collection } = place();
  const begin = { snapshot: asked.snapshot || undefined, left: asked.left || undefined, from: asked.from || undefined };
  try {
    const opened = query(asked.filters).changes(begin);
    subscription = opened;
    running(true);
    const where = `${shown(database)}/${shown(collection)}`;
    say("watch-state", `subscribing to ${where}`);
    acknowledged(opened, `watching ${where}`);
    for await (const item of opened) {
      if (subscription !== opened) break;
      say("watch-state", `watching ${where}`, "good");
      onItem(item);
    }
    if (subscription === opened) stopped("stopped");
  } catch (error) {
    subscription = null;
    running(false);
    onRefused(error, asked.filters);
  }
}

/** Says that a subscription exists before its first item: its position is known once the gateway has accepted it. */
function acknowledged(opened, text) {
  if (subscription !== opened) return;
  if (opened.position) say("watch-state", text, "good");
  else setTimeout(() => acknowledged(opened, text), 50);
}

function onRefused(error, filters) {
  if (error.code === "invalid" && filters.length > 0) {
    write(by("filters-fault"), located(error.message, filters));
    say("watch-state", "a condition is not valid, see above", "bad");
  } else {
    say("watch-state", refusal(error, 'the action "subscribe" must be granted to this token'), "bad");
  }
}

function stopped(text) {
  subscription = null;
  running(false);
  say("watch-state", text);
}

function stop() {
  const ending = subscription;
  stopped("stopped");
  ending?.return();
}

function running(is) {
  write(by("watch"), is ? "Stop" : "Watch");
  by("pause").disabled = !is;
}

function togglePause() {
  const paused = by("pause").getAttribute("aria-pressed") !== "true";
  by("pause").setAttribute("aria-pressed", String(paused));
  write(by("pause"), paused ? "Go on" : "Pause the list");
  list.pause(paused);
}

/** Prepares the half of the page that watches. */
export function startWatch() {
  list = new List(by("watch-list"), "What arrived, the newest first", ({ item, note }) => {
    write(by("watch-item"), item ? shownJson(item) : note);
  });
  setCount = counts("watch-counts", [...Object.values(COUNTED), "outages", "position"]);
  commandList("watch-commands", 2, () => watching(options()));
  reset();
  by("watch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (subscription) stop();
    else watch();
  });
  by("pause").addEventListener("click", togglePause);
  by("clear").addEventListener("click", reset);
  observe({
    onDown(cause) {
      if (subscription) list.add({ type: "outage", note: `the connection is lost: ${shown(cause ?? "")}` });
    },
    onUp({ lasted }) {
      if (!subscription) return;
      totals.outages += 1;
      setCount("outages", grouped(totals.outages));
      list.add({ type: "connected", note: `again after ${duration(lasted)}; what follows continues at its position` });
    },
    onClosed(cause) {
      say("watch-state", `not connected: ${shown(cause ?? "")}`, "bad");
    },
    onRenew() {
      if (subscription) stop();
    },
  });
}
