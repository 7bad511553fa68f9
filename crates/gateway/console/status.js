// The figures of the gateway and its Streamer, read once a second while a view shows them.

import { observe, request } from "./connection.js";
import { shown } from "./shown.js";
import { current } from "./tabs.js";

/** The readings that are kept: five minutes of them. */
const READINGS_MAX = 300;
const INTERVAL_MS = 1000;

let readings = [];
let observers = [];
let address = "";
let reading = false;

/** Returns the address of the Streamer for command lines, if it is known and not the default. */
export function streamerAddress() {
  return address;
}

/** Calls `onFigures(readings)` or `onFault(text)` after each reading. */
export function observeFigures(observer) {
  observers.push(observer);
}

/** Returns the rates of a counter between the readings, one less than there are; `null` where it began anew. */
export function rates(name, part = "streamer") {
  return readings.slice(1).map((reading, at) => {
    const [before, after] = [readings[at][part]?.figures?.[name], reading[part]?.figures?.[name]];
    const seconds = reading.at - readings[at].at;
    return before === undefined || after === undefined || after < before ? null : (after - before) / seconds;
  });
}

function remember(body) {
  const last = readings.at(-1);
  // Counters of another process began elsewhere.
  if (last && last.gateway.server !== body.gateway.server) readings = [];
  readings.push({ at: Date.now() / 1000, gateway: body.gateway, streamer: body.streamer, problem: body.problem });
  if (readings.length > READINGS_MAX) readings.shift();
  const found = body.streamer?.address ?? "";
  if (found !== "127.0.0.1:9000" && found !== address) {
    address = shown(found);
    document.dispatchEvent(new Event("streamer"));
  }
}

function faultOf(status, text) {
  if (status === 401 || status === 403) {
    return 'These figures are for administrators: the action "admin" must be granted to this token.';
  }
  return `The gateway responded with status ${status}: ${shown(messageOf(text)).slice(0, 200)}`;
}

/** Returns the message of an error of the gateway; something before it may have sent another page. */
function messageOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return "the response is not one of the gateway";
  }
}

async function read() {
  const response = await request("v1/status");
  if (!response.ok) return faultOf(response.status, await response.text());
  remember(await response.json());
  return null;
}

async function tick(always) {
  const wanted = always || current() === "connections" || current() === "log";
  if (reading || !wanted || document.hidden) return;
  reading = true;
  let fault;
  try {
    fault = await read();
  } catch (error) {
    fault = `The gateway does not answer: ${shown(error.message)}`;
  }
  reading = false;
  for (const observer of observers) {
    if (fault) observer.onFault(fault);
    else observer.onFigures(readings);
  }
}

/** Begins to read. */
export function startStatus() {
  observe({
    onRenew() {
      readings = [];
    },
  });
  setInterval(() => tick(false), INTERVAL_MS);
  document.addEventListener("view", () => tick(false));
  // Once at the beginning, for the address in the command lines.
  tick(true);
}
