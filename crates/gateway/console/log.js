// The log: its head, its tail and its rate.

import { Chart } from "./chart.js";
import { commandList, reading } from "./commands.js";
import { by, counts, say } from "./dom.js";
import { duration, grouped, shown, size } from "./shown.js";
import { observeFigures, rates } from "./status.js";

const COUNTED = ["head", "begins after", "events", "size", "files", "per second", "epoch", "commits", "commit, 99 % within", "sync, 99 % within"];

let charts;
let setCount;

function within(seconds) {
  return seconds === null ? "unknown" : duration(seconds * 1000);
}

function onFigures(readings) {
  const { streamer, problem } = readings.at(-1);
  if (!streamer) {
    say("log-state", `no figures of the Streamer: ${shown(problem ?? "unknown")}`, "bad");
    return;
  }
  const { log } = streamer;
  const perSecond = rates("events").at(-1);
  say("log-state", streamer.problems.map(shown).join("; ") || `Streamer ${shown(streamer.state)}`, streamer.problems.length > 0 ? "bad" : "");
  setCount("head", grouped(log.head));
  setCount("begins after", grouped(log.first));
  setCount("events", grouped(log.head - log.first));
  setCount("size", size(log.bytes));
  setCount("files", grouped(log.files));
  setCount("per second", perSecond === undefined || perSecond === null ? "–" : grouped(perSecond));
  setCount("epoch", shown(log.epoch));
  setCount("commits", grouped(log.commits.count));
  setCount("commit, 99 % within", within(log.commits.p99Seconds));
  setCount("sync, 99 % within", within(log.syncs.p99Seconds));
  const times = readings.map(({ at }) => at);
  charts.appended.show([times.slice(1), rates("events")]);
  charts.events.show([times, readings.map(({ streamer: it }) => (it ? it.log.head - it.log.first : null))]);
}

/** Prepares the view. */
export function startLog() {
  charts = {
    appended: new Chart(by("chart-appended"), ["events per second"]),
    events: new Chart(by("chart-events"), ["events"]),
  };
  setCount = counts("log-counts", COUNTED);
  commandList("log-commands", 2, reading);
  observeFigures({ onFigures, onFault: (text) => say("log-state", text, "bad") });
}
