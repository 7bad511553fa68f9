// Streams, subscriptions, lag and recovery, live.

import { Chart } from "./chart.js";
import { commandList, figures } from "./commands.js";
import { by, counts, say, table } from "./dom.js";
import { duration, grouped, shown, size } from "./shown.js";
import { observeFigures, rates } from "./status.js";

const RECOVERY = [
  ["taken over", "subscriptions_taken_over"],
  ["fell behind", "subscriptions_fell_behind"],
  ["caught up", "subscriptions_caught_up"],
  ["behind now", "subscriptions_behind"],
  ["lost events (resyncs)", "resyncs"],
  ["streams fenced", "streams_fenced"],
  ["streams evicted", "streams_evicted"],
  ["streams silent", "streams_silent"],
];
const SOCKETS = ["Socket", "Peer", "Principal", "Protocol", "Subscriptions", "Items", "Open for"];
const STREAMS = ["Lag", "Behind", "No credit", "Queued", "Blocked", "Peer", "Slowest subscription"];
const FILTERS = ["Cost", "Matches", "Subscriptions", "Collection", "Filter"];

let charts;
let setCount;

function showTables({ gateway, streamer }) {
  const sockets = gateway.sockets.map((it) => [
    String(it.socket),
    shown(it.peer),
    shown(it.principal ?? "anonymous"),
    shown(it.protocol),
    grouped(it.subscriptions),
    grouped(it.items),
    duration(it.openSeconds * 1000),
  ]);
  table("sockets", SOCKETS, sockets, "none");
  const streams = (streamer?.slowestStreams ?? []).map((it) => [
    grouped(it.lag),
    `${it.behind} of ${it.subscriptions}`,
    grouped(it.withoutCredit),
    size(it.queuedBytes),
    duration(it.blockedSeconds * 1000),
    shown(it.peer ?? "unknown"),
    it.slowest ? shown(`${it.slowest.id} of ${it.slowest.database}/${it.slowest.collection}`) : "",
  ]);
  table("streams", STREAMS, streams, "none: every subscriber is live and has taken everything");
  const filters = (streamer?.expensiveFilters ?? []).map((it) => [
    `${(100 * it.costShare).toFixed(1)} %`,
    `${(100 * it.matchShare).toFixed(1)} %`,
    grouped(it.subscriptions),
    shown(`${it.database}/${it.collection}`),
    shown(it.filter),
  ]);
  table("expensive", FILTERS, filters, "none: no filter had to be evaluated yet");
}

function stateOf({ gateway, streamer, problem }) {
  const open = `sockets: ${grouped(gateway.figures.sockets)}, subscriptions: ${grouped(gateway.figures.subscriptions)}`;
  if (!streamer) return [`${open}; no figures of the Streamer: ${shown(problem ?? "unknown")}`, "bad"];
  const problems = [`Streamer ${shown(streamer.state)}`, ...streamer.problems.map(shown)].join("; ");
  return [`${open}; ${problems}`, streamer.state === "ready" ? "" : "bad"];
}

function onFigures(readings) {
  const last = readings.at(-1);
  say("connections-state", ...stateOf(last));
  const { server, version, uptimeSeconds } = last.gateway;
  // Not a part of the state: a screen reader would speak once a second.
  say("connections-gateway", `gateway ${shown(server)}, version ${shown(version)}, up ${duration(uptimeSeconds * 1000)}`);
  showTables(last);
  for (const [name, figure] of RECOVERY) {
    const value = last.streamer?.figures?.[figure];
    setCount(name, value === undefined ? "unknown" : grouped(value), figure === "resyncs" && value > 0 ? "bad" : "");
  }
  const figure = (name) => readings.map(({ streamer }) => streamer?.figures?.[name] ?? null);
  const times = readings.map(({ at }) => at);
  const later = times.slice(1);
  charts.rates.show([later, rates("events"), rates("deliveries"), rates("items", "gateway")]);
  charts.lag.show([times, figure("stream_lag_events_sum"), figure("subscriptions_behind")]);
  const sockets = readings.map(({ gateway }) => gateway.figures.sockets);
  charts.streams.show([times, sockets, figure("streams"), figure("subscriptions")]);
}

/** Prepares the view. */
export function startConnections() {
  charts = {
    rates: new Chart(by("chart-rates"), ["events", "deliveries", "items to sockets"]),
    lag: new Chart(by("chart-lag"), ["events behind", "subscriptions behind"]),
    streams: new Chart(by("chart-streams"), ["sockets", "streams", "subscriptions"]),
  };
  setCount = counts("recovery-counts", RECOVERY.map(([name]) => name));
  showTables({ gateway: { sockets: [] } });
  commandList("connections-commands", 3, figures);
  observeFigures({ onFigures, onFault: (text) => say("connections-state", text, "bad") });
}
