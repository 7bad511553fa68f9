// Numbered documents, published and watched by this page, while its connection is cut.

import { commandList, watching } from "./commands.js";
import { connection, observe, query } from "./connection.js";
import { by, counts, eachFrame, say, table, write } from "./dom.js";
import { Numbers } from "./numbers.js";
import { duration, grouped, refusal, shown } from "./shown.js";

/** A run ends after this many numbers. */
const NUMBERS_MAX = 100_000;
/** The outages that are shown. */
const OUTAGES_MAX = 100;
/** A publish that is not durable after this time ends the run. */
const PUBLISH_TIMEOUT_MS = 120_000;
const HEADINGS = ["Number", "Began", "Lasted", "Cause"];

let run = null;
let outages = [];
let setCount;
let showCommands;
const draw = eachFrame(drawNow);

function drawNow() {
  if (!run) return;
  const { numbers } = run;
  setCount("published", grouped(numbers.published));
  setCount("received", grouped(numbers.received));
  setCount("on the way", grouped(numbers.underWay));
  setCount("missing", grouped(numbers.missing), numbers.missing > 0 ? "bad" : "good");
  setCount("twice", grouped(numbers.duplicates), numbers.duplicates > 0 ? "bad" : "good");
  setCount("out of order", grouped(numbers.disordered), numbers.disordered > 0 ? "bad" : "good");
  setCount("gaps", grouped(run.gaps), run.gaps > 0 ? "bad" : "good");
  setCount("cuts", grouped(run.cuts));
  write(by("arrivals"), numbers.arrivals.join(" "));
  if (run.isOver && !run.failed) say("cut-state", ...numbers.verdict(run.gaps));
}

function drawOutages() {
  const rows = outages.map(({ number, began, lasted, cause }) => {
    return [String(number), began.toLocaleTimeString(), lasted === null ? "goes on" : duration(lasted), shown(cause ?? "")];
  });
  table("outages", HEADINGS, rows, "none yet");
}

async function publishNumbers(current) {
  const { numbers } = current;
  let next = 1;
  let due = performance.now();
  while (current.publishing && next <= NUMBERS_MAX) {
    const rate = Math.min(100, Math.max(1, Number(by("rate").value) || 1));
    // All that are due go in one request; one request at a time keeps their order.
    const count = Math.min(100, Math.max(1, Math.floor(((performance.now() - due) * rate) / 1000)));
    const documents = Array.from({ length: count }, (_, at) => ({ id: `${current.name}-${next + at}`, run: current.name, n: next + at }));
    await current.target.publish(documents, { timeout: PUBLISH_TIMEOUT_MS });
    next += count;
    numbers.published = next - 1;
    draw();
    due = Math.max(due + (count * 1000) / rate, performance.now() - 1000);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
  }
}

async function watchNumbers(current) {
  for await (const item of current.subscription) {
    if (item.type === "change") current.numbers.arrived(item.data.n);
    else if (item.type === "gap" || item.type === "resync") current.gaps += 1;
    draw();
  }
}

function failed(current, error) {
  if (run !== current || current.ended) return;
  end(current);
  current.failed = true;
  const needed = 'this view needs the actions "subscribe" and "publish" on the collection';
  say("cut-state", `ended: ${refusal(error, needed)}`, "bad");
}

async function start() {
  if (run) end(run);
  const name = `run-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  const filter = `run == ${JSON.stringify(name)}`;
  const current = { name, filter, target: query(), numbers: new Numbers(), gaps: 0, cuts: 0, publishing: true };
  run = current;
  outages = [];
  drawOutages();
  running(true);
  showCommands();
  say("cut-state", "starting");
  try {
    // A position from before the first number: without one, the subscription might begin after it.
    const { position } = await query([filter]).get();
    if (current.ended) return;
    current.subscription = query([filter]).changes({ from: position });
    say("cut-state", `running as ${name}; cut the connection whenever you like`, "good");
    watchNumbers(current).catch((error) => failed(current, error));
    await publishNumbers(current);
    if (current.ended) return;
    // The last publication is acknowledged after a person stopped the run.
    current.isOver = true;
    stop(current);
  } catch (error) {
    failed(current, error);
  }
}

/** Stops to publish. The subscription stays, so that what is on the way arrives. */
function stop(current) {
  current.publishing = false;
  if (run !== current) return;
  running(false);
  if (!current.isOver) say("cut-state", "stopping");
  draw();
}

/** Ends the subscription of a run as well. */
function end(current) {
  stop(current);
  current.ended = true;
  current.subscription?.return();
}

function running(is) {
  write(by("run"), is ? "Stop" : "Start");
  by("cut").disabled = !is;
}

/** Prepares the view. */
export function startCut() {
  setCount = counts("cut-counts", ["published", "received", "on the way", "missing", "twice", "out of order", "gaps", "cuts"]);
  showCommands = commandList("cut-commands", 2, () => {
    return watching({ filters: run ? [run.filter] : [], snapshot: false, left: false, from: "" });
  });
  drawOutages();
  by("cut-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (run?.publishing) stop(run);
    else start();
  });
  by("cut").addEventListener("click", () => {
    run.cuts += 1;
    draw();
    connection().cut();
  });
  observe({
    onDown(cause) {
      if (!run) return;
      outages.unshift({ number: (outages[0]?.number ?? 0) + 1, began: new Date(), lasted: null, cause });
      outages.length = Math.min(outages.length, OUTAGES_MAX);
      drawOutages();
    },
    onUp({ lasted }) {
      if (!outages[0]) return;
      outages[0].lasted = lasted;
      drawOutages();
    },
    onRenew() {
      if (!run || run.ended) return;
      end(run);
      if (!run.isOver) say("cut-state", "ended: the page connects with another token");
    },
  });
}
