// The machine that decides when to connect, whether the connection is alive, and when to try again.
//
// It follows the same rules as `Session` of crates/session, transition by transition: docs/session-transitions.json
// is written by the Rust machine, and test/session.test.js replays all of it here. It reads no clock and owns no
// timer; times are milliseconds.

/** The settings, with the defaults of this client. A time limit has the name of its timer. */
export const defaults = {
  initial: 1_000,
  longest: 30_000,
  multiplier: 2,
  // A fraction around the delay, or "full": from the minimum interval to the delay.
  jitter: "full",
  // The milliseconds within which the first attempt after a stable connection starts, instead of the first delay.
  recovery: undefined,
  retries: 0,
  ready: "restored",
  open: 10_000,
  greet: 10_000,
  restore: 30_000,
  probe: 5_000,
  // `close()` promises to be over within 2 s.
  leave: 1_500,
  // These two are replaced by those of the gateway's welcome.
  heartbeat: 25_000,
  activity: 50_000,
  liveness: "received",
  stable: 30_000,
  maxWait: 300_000,
  renews: false,
};

const HELD = ["live", "stable"];
const ANSWERING = ["greeting", "restoring", ...HELD];
const LEAVING = ["draining", "reconnect"];

/** The phases in which each timer can be armed. Every transition disarms the others. */
const USED_IN = {
  open: ["opening"],
  greet: ["greeting"],
  restore: ["restoring"],
  activity: ANSWERING,
  ack: ANSWERING,
  probeDue: HELD,
  probe: HELD,
  heartbeat: ANSWERING,
  stable: HELD,
  retry: ["backoff"],
  leave: LEAVING,
};

/** The timers; of equal deadlines, that of the first one is due first. */
export const TIMERS = Object.keys(USED_IN);

/** The timers that blame the peer. They do not run while reading is paused. */
const PEER_TIMERS = ["greet", "restore", "activity", "ack", "probeDue"];

/** The timers that end a connection. */
const TIMED_OUT = {
  open: "no connection in time",
  greet: "no greeting in time",
  restore: "a subscription was not answered in time",
  activity: "nothing was received for too long",
  ack: "a heartbeat was not answered in time",
};

/** The line of an end that the caller asked for. */
const LEFT = "closed by this side";

/** The most attempts in a row that lead on to the next server of a round. */
const MAX_PASSED_OVER = 15;

/** The shortest interval of heartbeats that a peer can ask for. */
const HEARTBEAT_INTERVAL_MIN = 10;

/**
 * Returns the end of a connection: a plain line, the advice for the next attempt, and the reason if it decides something:
 * `finished` and `drained` are orderly ends, `probe_failed` follows a request of the caller.
 */
export const end = (text, advice = "retry", more) => ({ text, advice, ...more });

/** The delays between attempts. They grow until `reset`. */
export function createBackoff(config, random) {
  const { jitter, initial, longest, recovery } = config;
  // The shortest first delay with a jitter of a fifth.
  const minInterval = Math.min(0.8 * initial, 500);
  let step = 0;
  const between = (low, high) => low + random() * (high - low);
  const spread = (delay) =>
    jitter === "full"
      ? between(minInterval, Math.max(delay, minInterval))
      : between(delay * (1 - jitter), Math.min(delay * (1 + jitter), longest));
  const next = () => spread(Math.min(initial * config.multiplier ** step++, longest));
  return {
    /** The minimum time between the starts of two attempts. */
    minInterval,
    next,
    /** Begins again, with a later delay for tests. */
    reset: (to = 0) => (step = to),
    /** For a peer that is overloaded or refuses for now. */
    longest: () => spread(longest),
    /** The first delay after the loss of a stable connection. */
    recovery: () => (recovery === undefined ? next() : between(0, recovery)),
    /** As `recovery` after the orderly end of a live connection, except that the backoff advances. */
    afterOrderlyEnd: () => Math.min(next(), recovery === undefined ? Infinity : between(0, recovery)),
    /** The delay that the peer asked for, or a little more: it may have asked all its clients for the same. */
    atLeast: (wait) => between(wait, wait + Math.min(wait, longest) * (jitter === "full" ? 1 : jitter)),
  };
}

/**
 * Creates the session of one connection. Phases: idle, backoff, opening, greeting, restoring, live, stable, draining,
 * reconnect (draining, and a new connection is wanted), closed.
 */
export function createSession(config, random) {
  const backoff = createBackoff(config, random);
  const timers = {};
  let phase = "idle";
  /** The plain line of the newest cause. */
  let cause = "requested";
  let generation = 0;
  /** Failed attempts since a connection was last stable. */
  let failures = 0;
  /** What exists only during an attempt. */
  let attempt;
  let credentials = "good";
  let passedOver = 0;
  let lastStart = -Infinity;
  /** The time and the actions of the current step. */
  let now = 0;
  let out;

  const isIn = (...phases) => phases.includes(phase);
  const uses = (timer) => isIn(...USED_IN[timer]);
  const arm = (timer, delay = config[timer]) => (timers[timer] = now + delay);
  const disarm = (timer) => delete timers[timer];
  const emit = (type, fields) => out.push({ type, generation, ...fields });

  function due() {
    let first;
    for (const timer of TIMERS) {
      // Only an earlier one, so that the first of equal deadlines is due.
      if (timer in timers && !(timers[timer] >= timers[first])) first = timer;
    }
    return first;
  }

  function enter(to) {
    phase = to;
    for (const timer of TIMERS) if (!uses(timer)) disarm(timer);
    if (isIn("idle", "backoff", "closed")) attempt = undefined;
  }

  function down(why) {
    if (!attempt) return;
    emit("kill");
    emit("down", { end: why });
  }

  function stop(to) {
    const left = end(LEFT, "stop", { reason: "left" });
    const running = phase !== "idle";
    const closing = to === "closed";
    const again = !closing && phase === "reconnect";
    down(left);
    enter(to);
    if (running || closing) emit("stopped", { end: left });
    cause = left.text;
    if (again) requests.connect();
  }

  // The way to a live, stable connection.

  function onHeaders() {
    if (phase !== "opening") return;
    if (["accepted", "headers"].includes(config.ready)) return goLive();
    enter("greeting");
    armResponseTimeout();
    startLiveness();
  }

  function armResponseTimeout() {
    if (attempt.paused) return;
    if (phase === "greeting") arm("greet");
    if (phase === "restoring") arm("restore");
  }

  function goLive() {
    // A greeting has started the heartbeats already; restarting them would delay the next one.
    const started = uses("heartbeat");
    enter("live");
    arm("stable");
    started ? onReceived() : startLiveness();
    credentialsAccepted();
    emit("up");
    cause = "connected";
  }

  // Signs of life.

  function startLiveness() {
    onReceived();
    armHeartbeat();
  }

  function onReceived() {
    if (attempt.paused || !uses("activity")) return;
    if (config.activity) arm("activity");
    scheduleProbe();
  }

  function armHeartbeat() {
    if (attempt.heartbeat && uses("heartbeat")) arm("heartbeat", attempt.heartbeat);
  }

  function probe(purpose) {
    if (!attempt.probe) {
      emit("probe");
      arm("probe");
    } else if (purpose !== "reconnect") return;
    attempt.probe = purpose;
  }

  function onProbed(alive) {
    const purpose = attempt.probe;
    attempt.probe = undefined;
    disarm("probe");
    if (alive) onReceived();
    else if (purpose === "reconnect") onEnded(end("a ping was not answered in time", "retry", { reason: "probe_failed" }));
    // One lost probe proves nothing; the activity timeout decides.
    else scheduleProbe();
  }

  function scheduleProbe() {
    if (config.liveness === "probed" && !attempt.paused && uses("probeDue")) arm("probeDue", config.activity / 3);
  }

  // Ends, and the time of the next attempt.

  function schedule(delay) {
    const at = Math.max(now + delay, lastStart + backoff.minInterval);
    if (at <= now) return startAttempt();
    enter("backoff");
    timers.retry = at;
  }

  function startAttempt() {
    // Noted at the start and not at the end: the minimum interval is one between starts.
    lastStart = now;
    const refresh = credentials === "refused";
    if (refresh) credentials = "renewed";
    generation += 1;
    attempt = { heartbeat: config.heartbeat };
    enter("opening");
    arm("open");
    emit("open", { refresh });
  }

  function onEnded(why) {
    // The caller has left: its wish is the reason, however the peer ends the connection.
    if (isIn(...LEAVING)) return stop("idle");
    const stable = phase === "stable";
    const orderly = phase === "live" && failures === 0 && isOrderly(why);
    const passesOver = why.advice === "nextServer" && !isIn(...HELD) && passedOver < MAX_PASSED_OVER;
    passedOver = passesOver ? passedOver + 1 : 0;
    if (!stable && !passesOver) failures += 1;
    down(why);
    const delay = passesOver ? 0 : delayAfter(why, stable, orderly);
    cause = why.text;
    if (delay === undefined) {
      enter("idle");
      return emit("stopped", { end: why });
    }
    enter("backoff");
    schedule(delay);
  }

  /** Returns the delay, or undefined if no attempt follows. */
  function delayAfter({ advice, wait, reason }, stable, orderly) {
    const { retries } = config;
    if (retries > 0 && failures >= retries && !stable) return;
    // The backoff advances whatever the advice is, so that a peer that alternates its reasons meets growing
    // delays, too.
    const ordinary = stable ? backoff.recovery() : orderly ? backoff.afterOrderlyEnd() : backoff.next();
    if (advice === "refresh") return credentialsRefused(ordinary);
    credentialsAccepted();
    if (advice === "stop") return;
    if (advice === "wait") {
      if (wait === undefined) return backoff.longest();
      return Math.max(backoff.atLeast(Math.min(wait, config.maxWait)), ordinary);
    }
    // The caller asked for a new connection and is waiting for it.
    return reason === "probe_failed" ? 0 : ordinary;
  }

  function credentialsRefused(ordinary) {
    const before = credentials;
    // New credentials that were refused at once: a third set would be, too, unless whoever issues them is late.
    if (["refused", "renewed"].includes(before) && !config.renews) return;
    credentials = "refused";
    return before === "good" ? 0 : ordinary;
  }

  function credentialsAccepted() {
    if (credentials === "renewed") credentials = "doubtful";
  }

  function forgetFailures() {
    failures = passedOver = 0;
    backoff.reset();
    credentials = "good";
  }

  /** Requests of the caller. */
  const requests = {
    connect() {
      if (phase === "idle") {
        forgetFailures();
        cause = "requested";
        schedule(0);
      } else if (phase === "backoff") {
        // The minimum interval still holds, so asking in a loop cannot storm the peer.
        schedule(0);
      } else if (phase === "draining") {
        enter("reconnect");
      }
    },
    reconnect() {
      // To replace a healthy connection would cost the peer a restoration for nothing.
      if (isIn(...HELD)) probe("reconnect");
      else requests.connect();
    },
    leave() {
      if (isIn(...HELD)) {
        enter("draining");
        arm("leave");
        cause = LEFT;
        emit("finish");
      } else if (isIn(...LEAVING)) {
        enter("draining");
      } else if (!isIn("idle", "closed")) {
        stop("idle");
      }
    },
    close() {
      if (phase !== "closed") stop("closed");
    },
  };

  /** What the connection and the protocol report. */
  const reports = {
    accepted() {
      if (phase === "opening" && config.ready === "accepted") goLive();
    },
    headers: onHeaders,
    message() {
      // A message implies the headers.
      onHeaders();
      onReceived();
    },
    received: onReceived,
    ended: (input) => onEnded(input.end),
    fail: (input) => onEnded(input.end),
    probed: ({ alive }) => onProbed(alive),
    readPaused({ paused }) {
      // A repeated pause must not give the peer its time again.
      if (paused === Boolean(attempt.paused)) return;
      attempt.paused = paused;
      if (paused) return PEER_TIMERS.forEach(disarm);
      armResponseTimeout();
      onReceived();
    },
    greeted() {
      if (phase !== "greeting") return;
      if (config.ready !== "restored") return goLive();
      enter("restoring");
      armResponseTimeout();
    },
    restoreProgress() {
      if (phase === "restoring") armResponseTimeout();
    },
    restored() {
      if (phase === "restoring") goLive();
    },
    heartbeatAcked: () => disarm("ack"),
    expectAcks() {
      attempt.expectsAcks = true;
    },
    heartbeatInterval({ interval }) {
      const longest = config.liveness === "received" && config.activity ? config.activity / 2 : Infinity;
      attempt.heartbeat = Math.max(Math.min(interval, longest), HEARTBEAT_INTERVAL_MIN);
      armHeartbeat();
    },
    drain({ message }) {
      if (isIn(...LEAVING)) return;
      const why = end(message, "retry", { reason: "drained" });
      if (phase !== "stable") return onEnded(why);
      // No failure is counted: a rolling restart of healthy peers is no outage.
      down(why);
      enter("backoff");
      cause = message;
      schedule(0);
    },
  };

  /** Timers that do something else than end the connection. */
  const onTimer = {
    probeDue: () => probe("liveness"),
    probe: () => onProbed(false),
    heartbeat() {
      // Heartbeats go on while reading is paused: they keep this side alive for the peer.
      emit("heartbeat");
      armHeartbeat();
      // The oldest unacknowledged heartbeat counts: a newer one must not extend its deadline.
      if (config.activity && attempt.expectsAcks && !attempt.paused && !timers.ack) arm("ack", config.activity);
    },
    stable() {
      // Being live is not enough: a peer that accepts every connection and then fails must meet growing delays.
      enter("stable");
      forgetFailures();
    },
    retry: startAttempt,
    // The peer did not end its half in time. The caller has left, so this is no failure.
    leave: () => stop("idle"),
  };

  return {
    timers,
    get phase() {
      return phase;
    },
    get cause() {
      return cause;
    },
    /** The number of the connection that is being opened, held or ended. */
    get current() {
      return attempt && generation;
    },
    /** The time by which the session must be stepped again; undefined while idle or closed. */
    get deadline() {
      return timers[due()];
    },
    /** Handles one input, then every timer that is due. Appends all actions to `actions`. */
    step(time, input, actions) {
      now = time;
      out = actions;
      // The input comes first: whoever wakes late with a message in hand must not end a healthy connection.
      if (requests[input.type]) requests[input.type]();
      // What an attempt left behind after it was killed is dropped here, and a tick is only its time.
      else if (attempt && input.generation === generation) reports[input.type](input);
      for (let timer; (timer = due()) && timers[timer] <= now; ) {
        disarm(timer);
        TIMED_OUT[timer] ? onEnded(end(TIMED_OUT[timer])) : onTimer[timer]();
      }
    },
  };
}

/** Returns true if the peer ended the connection without a fault of either side, as a server does that is replaced. */
function isOrderly({ reason, code }) {
  const UNAVAILABLE = 14;
  return reason === "finished" || reason === "drained" || code === UNAVAILABLE;
}
