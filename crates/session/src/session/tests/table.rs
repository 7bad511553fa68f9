//! The whole transition table, pinned: every phase with every input and every timer of the phase.

use std::fmt::Write as _;

use super::bench::{Bench, every_input, plain};
use crate::{
    Activity, Config, Liveness, Ready, Reason, Signal, Timer,
    session::{Action, Input, Phase, liveness::WAITS_FOR_THE_PEER},
};

/// Asked and acknowledged, so that every timer there is has its place.
fn config() -> Config {
    Config {
        liveness: Liveness::Probed,
        ..plain()
    }
}

type Make = fn() -> Bench;

const PHASES: [(&str, Make); 11] = [
    ("idle", || Bench::busy_with(config(), Activity::Idle)),
    ("backoff", || Bench::busy_with(config(), Activity::Backoff)),
    ("opening", || Bench::busy_with(config(), Activity::Opening)),
    ("greeting", || {
        Bench::busy_with(config(), Activity::Greeting)
    }),
    ("restoring", || {
        Bench::busy_with(config(), Activity::Restoring)
    }),
    ("live", || Bench::busy_with(config(), Activity::Live)),
    ("proven", || Bench::proven(config())),
    ("held", || {
        let mut bench = Bench::live(config());
        bench.feed(Input::ReadPaused(bench.generation(), true));
        bench
    }),
    ("draining", || {
        Bench::busy_with(config(), Activity::Draining)
    }),
    ("again", || {
        let mut bench = Bench::busy_with(config(), Activity::Draining);
        bench.feed(Input::Connect);
        bench
    }),
    ("closed", || Bench::busy_with(config(), Activity::Closed)),
];

#[test]
fn every_phase_answers_every_input_as_written_down() {
    let mut table = String::new();
    for (name, make) in PHASES {
        for input in every_input(make().generation()) {
            let mut bench = make();
            let actions = bench.feed(input.clone());
            row(&mut table, name, &told(&input), &bench, &actions);
        }
        table.push('\n');
    }
    insta::assert_snapshot!("inputs", table);
}

#[test]
fn every_timer_does_in_its_phases_what_is_written_down() {
    let mut table = String::new();
    for (name, make) in PHASES {
        for timer in Timer::SESSION {
            let mut bench = make();
            let rests = bench.session.held && WAITS_FOR_THE_PEER.contains(&timer);
            if timer.belongs_to(&bench.session.phase) && !rests {
                bench.session.expects_acks = true;
                bench.session.timers.arm(timer, bench.now);
                let actions = bench.feed(Input::Tick);
                row(
                    &mut table,
                    name,
                    &format!("{timer:?} passes"),
                    &bench,
                    &actions,
                );
            }
        }
    }
    insta::assert_snapshot!("timers", table);
}

#[test]
fn each_ready_level_is_reached_by_its_own_sign() {
    let mut table = String::new();
    for ready in [
        Ready::Accepted,
        Ready::Headers,
        Ready::FirstMessage,
        Ready::Restored,
    ] {
        let mut bench = Bench::busy_with(Config { ready, ..config() }, Activity::Opening);
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
            row(
                &mut table,
                &format!("{ready:?}"),
                &told(&input),
                &bench,
                &actions,
            );
        }
        table.push('\n');
    }
    insta::assert_snapshot!("ready", table);
}

fn row(table: &mut String, phase: &str, input: &str, bench: &Bench, actions: &[Action]) {
    let done: Vec<String> = actions.iter().map(asked).collect();
    let done = if done.is_empty() {
        "-".to_owned()
    } else {
        done.join(", ")
    };
    let line = format!(
        "{phase:<12} {input:<26} {:<10} {done:<64} {}",
        named(&bench.session.phase),
        timers(bench)
    );
    writeln!(table, "{}", line.trim_end()).unwrap();
}

fn named(phase: &Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Backoff => "backoff",
        Phase::Opening(_) => "opening",
        Phase::Greeting(_) => "greeting",
        Phase::Restoring(_) => "restoring",
        Phase::Live { proven: false, .. } => "live",
        Phase::Live { proven: true, .. } => "proven",
        Phase::Draining { again: false, .. } => "draining",
        Phase::Draining { again: true, .. } => "again",
        Phase::Closed => "closed",
    }
}

/// The armed timers and when they pass, counted from now.
fn timers(bench: &Bench) -> String {
    let armed: Vec<String> = Timer::SESSION
        .into_iter()
        .filter_map(|timer| {
            let at = bench.session.timers.armed(timer)?;
            Some(format!("{timer:?} {:?}", at - bench.now))
        })
        .collect();
    armed.join(" ")
}

fn told(input: &Input) -> String {
    match input {
        Input::Connect => "Connect".into(),
        Input::Reconnect => "Reconnect".into(),
        Input::Leave => "Leave".into(),
        Input::Close => "Close".into(),
        Input::Accepted(_) => "Accepted".into(),
        Input::Headers(_) => "Headers".into(),
        Input::Received(_) => "Received".into(),
        Input::Message(_) => "Message".into(),
        Input::Ended(_, end) => format!("Ended {:?}", end.advice),
        Input::Probed(_, alive) => format!("Probed {alive}"),
        Input::ReadPaused(_, held) => format!("Held {held}"),
        Input::Signal(_, signal) => match signal {
            Signal::Greeted => "Greeted".into(),
            Signal::RestoreProgress => "Answered".into(),
            Signal::Restored => "Restored".into(),
            Signal::HeartbeatAcked => "HeartbeatAcked".into(),
            Signal::ExpectAcks => "ExpectAcks".into(),
            Signal::HeartbeatInterval(interval) => format!("HeartbeatInterval {interval:?}"),
            Signal::Drain(_) => "Drain".into(),
            Signal::Fail(end) => format!("Fail {:?}", end.advice),
        },
        Input::Tick => "Tick".into(),
    }
}

fn asked(action: &Action) -> String {
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
