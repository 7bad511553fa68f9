//! The whole transition table: every phase with every input and every timer of the phase.
//!
//! It is docs/session-transitions.json, which the JavaScript client of clients/js replays on its own machine.
//! `cargo xtask transitions` writes the file anew.

use std::{env, fmt::Write as _, fs, path::PathBuf, time::Duration};

use super::bench::{Bench, every_input, probing};
use crate::{
    Activity, Advice, Config, End, Jitter, Liveness, Ready, Reason, Signal, Timer,
    backoff::Backoff,
    session::{Action, Input, Phase, Stage, liveness::PEER_TIMERS},
};

type Make = fn() -> Bench;

fn at(activity: Activity) -> Bench {
    // Probing, so that every timer can be armed.
    Bench::in_activity(probing(), activity)
}

const PHASES: [(&str, Make); 11] = [
    ("idle", || at(Activity::Idle)),
    ("backoff", || at(Activity::Backoff)),
    ("opening", || at(Activity::Opening)),
    ("greeting", || at(Activity::Greeting)),
    ("restoring", || at(Activity::Restoring)),
    ("live", || at(Activity::Live)),
    ("stable", || Bench::stable(probing())),
    ("paused", || {
        let mut bench = Bench::live(probing());
        bench.feed(Input::ReadPaused(bench.generation(), true));
        bench
    }),
    ("draining", || at(Activity::Draining)),
    ("reconnect", || {
        let mut bench = at(Activity::Draining);
        bench.feed(Input::Connect);
        bench
    }),
    ("closed", || at(Activity::Closed)),
];

#[test]
fn transitions_match_the_exported_table() {
    let sections = [
        object("config", &config(&probing())),
        object("phases", &PHASES.map(path)),
        list("inputs", &inputs()),
        list("timers", &timers()),
        list("ready", &ready_levels()),
        list("delays", &delays()),
    ];
    let table = format!("{{\n{}\n}}\n", sections.join(",\n"));
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/session-transitions.json");
    if env::var_os("STEADFAST_WRITE_TRANSITIONS").is_some() {
        fs::write(&file, &table).unwrap();
    }
    let exported = fs::read_to_string(&file).unwrap();
    for (number, (is, was)) in table.lines().zip(exported.lines()).enumerate() {
        assert_eq!(
            is,
            was,
            "line {}; see `cargo xtask transitions`",
            number + 1
        );
    }
    assert_eq!(table.len(), exported.len());
}

fn object(name: &str, members: &[String]) -> String {
    format!("\"{name}\": {{\n{}\n}}", members.join(",\n"))
}

fn list(name: &str, rows: &[String]) -> String {
    format!("\"{name}\": [\n{}\n]", rows.join(",\n"))
}

fn config(config: &Config) -> Vec<String> {
    let Config {
        initial_backoff,
        max_backoff,
        backoff_multiplier,
        jitter,
        recovery: _,
        max_retries,
        ready: _,
        open_timeout,
        greeting_timeout,
        restoring_timeout,
        probe_timeout,
        drain_timeout,
        heartbeat_interval,
        activity_timeout,
        liveness,
        stable_after,
        retry_after_max,
        renews_credentials,
    } = config;
    let liveness = match liveness {
        Liveness::Received => "received",
        Liveness::Probed => "probed",
    };
    [
        ("initialBackoff", millis(*initial_backoff)),
        ("maxBackoff", millis(*max_backoff)),
        ("backoffMultiplier", backoff_multiplier.to_string()),
        ("jitter", jitter_text(*jitter)),
        ("maxRetries", max_retries.to_string()),
        ("openTimeout", millis(*open_timeout)),
        ("greetingTimeout", millis(*greeting_timeout)),
        ("restoringTimeout", millis(*restoring_timeout)),
        ("probeTimeout", millis(*probe_timeout)),
        ("drainTimeout", millis(*drain_timeout)),
        ("heartbeatInterval", millis(heartbeat_interval.unwrap())),
        ("activityTimeout", millis(activity_timeout.unwrap())),
        ("liveness", format!("\"{liveness}\"")),
        ("stableAfter", millis(*stable_after)),
        ("retryAfterMax", millis(*retry_after_max)),
        ("renewsCredentials", renews_credentials.to_string()),
    ]
    .map(|(name, value)| format!("\"{name}\": {value}"))
    .into()
}

/// The inputs that lead to a phase, each with its time.
fn path((name, make): (&str, Make)) -> String {
    let bench = make();
    let fed: Vec<String> = bench
        .fed
        .iter()
        .map(|(at, input)| format!("[{}, {}]", at.as_micros() / 1_000, input_text(input)))
        .collect();
    format!("\"{name}\": [{}]", fed.join(", "))
}

fn inputs() -> Vec<String> {
    let mut rows = Vec::new();
    for (name, make) in PHASES {
        for input in every_input(make().generation()) {
            let mut bench = make();
            let actions = bench.feed(input.clone());
            let cause = format!("\"phase\": \"{name}\", \"input\": {}", input_text(&input));
            rows.push(row(&cause, &bench, &actions));
        }
    }
    rows
}

/// Every timer that can pass in a phase, with acknowledgements expected.
fn timers() -> Vec<String> {
    let mut rows = Vec::new();
    for (name, make) in PHASES {
        for timer in Timer::ALL {
            let mut bench = make();
            let paused = bench
                .session
                .attempt()
                .is_some_and(|attempt| attempt.read_paused);
            let stopped = paused && PEER_TIMERS.contains(&timer);
            if bench.session.phase.uses(timer) && !stopped {
                bench.session.on_expect_acks();
                bench.session.timers.arm(timer, bench.now);
                let actions = bench.feed(Input::Tick);
                let cause = format!("\"phase\": \"{name}\", \"timer\": \"{}\"", camel(timer));
                rows.push(row(&cause, &bench, &actions));
            }
        }
    }
    rows
}

/// The way to a live stream at each ready level, one input after another.
fn ready_levels() -> Vec<String> {
    let mut rows = Vec::new();
    for ready in [
        Ready::Accepted,
        Ready::Headers,
        Ready::FirstMessage,
        Ready::Restored,
    ] {
        let mut bench = Bench::in_activity(Config { ready, ..probing() }, Activity::Opening);
        let from = bench.generation();
        for input in [
            Input::Accepted(from),
            Input::Headers(from),
            Input::Message(from),
            Input::Signal(from, Signal::Greeted),
            Input::Signal(from, Signal::RestoreProgress),
            Input::Signal(from, Signal::Restored),
        ] {
            let actions = bench.feed(input.clone());
            let cause = format!(
                "\"ready\": \"{}\", \"input\": {}",
                camel(ready),
                input_text(&input)
            );
            rows.push(row(&cause, &bench, &actions));
        }
    }
    rows
}

/// The windows from which the first delays are drawn, and those after a peer that asked for a wait.
fn delays() -> Vec<String> {
    let mut rows = Vec::new();
    for jitter in [Jitter::Full, Jitter::Proportional(0.2)] {
        let config = Config {
            jitter,
            ..Config::default()
        };
        for step in 0..7 {
            let (low, high) = Backoff::window(&config, Backoff::delay(&config, step));
            rows.push(delay_row(jitter, "step", &step.to_string(), (low, high)));
        }
        for wait in [5, 60].map(Duration::from_secs) {
            let window = Backoff::window_after(&config, wait);
            rows.push(delay_row(jitter, "wait", &millis(wait), window));
        }
    }
    rows
}

fn delay_row(jitter: Jitter, name: &str, value: &str, (low, high): (Duration, Duration)) -> String {
    format!(
        "{{\"jitter\": {}, \"{name}\": {value}, \"low\": {}, \"high\": {}}}",
        jitter_text(jitter),
        millis(low),
        millis(high)
    )
}

/// One row: the phase after the cause, what the session did, and the time left to each timer.
fn row(cause: &str, bench: &Bench, actions: &[Action]) -> String {
    let actions: Vec<String> = actions
        .iter()
        .map(|action| format!("\"{}\"", action_text(action)))
        .collect();
    let armed: Vec<String> = Timer::ALL
        .into_iter()
        .filter_map(|timer| {
            let at = bench.session.timers.armed(timer)?;
            Some(format!("\"{}\": {}", camel(timer), millis(at - bench.now)))
        })
        .collect();
    format!(
        "{{{cause}, \"to\": \"{}\", \"actions\": [{}], \"timers\": {{{}}}}}",
        phase_name(&bench.session.phase),
        actions.join(", "),
        armed.join(", ")
    )
}

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Backoff => "backoff",
        Phase::Closed => "closed",
        Phase::Attempt(attempt) => match attempt.stage {
            Stage::Opening => "opening",
            Stage::Greeting => "greeting",
            Stage::Restoring => "restoring",
            Stage::Live { stable: false } => "live",
            Stage::Live { stable: true } => "stable",
            Stage::Draining { reconnect: false } => "draining",
            Stage::Draining { reconnect: true } => "reconnect",
        },
    }
}

/// The members of an input as a JSON object.
fn input_text(input: &Input) -> String {
    let (generation, members) = match input {
        Input::Connect => (None, named("connect")),
        Input::Reconnect => (None, named("reconnect")),
        Input::Leave => (None, named("leave")),
        Input::Close => (None, named("close")),
        Input::Tick => (None, named("tick")),
        Input::Accepted(from) => (Some(from), named("accepted")),
        Input::Headers(from) => (Some(from), named("headers")),
        Input::Received(from) => (Some(from), named("received")),
        Input::Message(from) => (Some(from), named("message")),
        Input::Ended(from, end) => (Some(from), with("ended", "end", end_text(end))),
        Input::Probed(from, alive) => (Some(from), with("probed", "alive", alive)),
        Input::ReadPaused(from, paused) => (Some(from), with("readPaused", "paused", paused)),
        Input::Signal(from, signal) => (Some(from), signal_text(signal)),
    };
    let generation =
        generation.map_or_else(String::new, |from| format!(", \"generation\": {}", from.0));
    format!("{{{members}{generation}}}")
}

fn signal_text(signal: &Signal) -> String {
    match signal {
        Signal::Greeted => named("greeted"),
        Signal::RestoreProgress => named("restoreProgress"),
        Signal::Restored => named("restored"),
        Signal::HeartbeatAcked => named("heartbeatAcked"),
        Signal::ExpectAcks => named("expectAcks"),
        Signal::HeartbeatInterval(interval) => {
            with("heartbeatInterval", "interval", millis(*interval))
        }
        Signal::Drain(message) => with("drain", "message", format!("\"{message}\"")),
        Signal::Fail(end) => with("fail", "end", end_text(end)),
    }
}

fn named(name: &str) -> String {
    format!("\"type\": \"{name}\"")
}

fn with(name: &str, member: &str, value: impl std::fmt::Display) -> String {
    format!("{}, \"{member}\": {value}", named(name))
}

fn end_text(end: &End) -> String {
    let advice = match end.advice {
        Advice::Retry => "\"retry\"".to_owned(),
        Advice::Wait(None) => "\"wait\"".to_owned(),
        Advice::Wait(Some(wait)) => format!("\"wait\", \"wait\": {}", millis(wait)),
        Advice::NextServer => "\"nextServer\"".to_owned(),
        Advice::Refresh => "\"refresh\"".to_owned(),
        Advice::Stop => "\"stop\"".to_owned(),
    };
    let mut text = format!(
        "{{\"initiator\": \"{}\", \"reason\": \"{}\"",
        camel(end.initiator),
        end.reason.label()
    );
    if let Reason::Status { code, .. } = end.reason {
        write!(text, ", \"code\": {code}").unwrap();
    }
    format!("{text}, \"advice\": {advice}}}")
}

fn jitter_text(jitter: Jitter) -> String {
    match jitter {
        Jitter::Proportional(fraction) => fraction.to_string(),
        Jitter::Full => "\"full\"".to_owned(),
    }
}

fn millis(span: Duration) -> String {
    assert_eq!(span.subsec_micros() % 1_000, 0, "{span:?}");
    span.as_millis().to_string()
}

/// The name of a variant, beginning with a small letter.
fn camel(variant: impl std::fmt::Debug) -> String {
    let mut name = format!("{variant:?}");
    name[..1].make_ascii_lowercase();
    name
}

fn action_text(action: &Action) -> String {
    let label = |reason: &Reason| reason.label();
    match action {
        Action::Open {
            generation,
            refresh,
        } => {
            let how = if *refresh { " refreshed" } else { "" };
            format!("open {}{how}", generation.0)
        }
        Action::Finish(generation) => format!("finish {}", generation.0),
        Action::Kill(generation) => format!("kill {}", generation.0),
        Action::Probe(generation) => format!("probe {}", generation.0),
        Action::Heartbeat(generation) => format!("heartbeat {}", generation.0),
        Action::Up(generation) => format!("up {}", generation.0),
        Action::Down(generation, end) => format!("down {} {}", generation.0, label(&end.reason)),
        Action::Stopped(end) => format!("stopped {}", label(&end.reason)),
        Action::Changed(transition) => format!("now {}", transition.to),
    }
}
