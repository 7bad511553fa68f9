//! The whole transition table: every phase with every input and every timer of the phase.

use std::fmt::Write as _;

use super::bench::{Bench, every_input, probing};
use crate::{
    Activity, Config, Ready, Reason, Signal, Timer,
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
fn inputs_in_every_phase_match_the_table() {
    let mut table = String::new();
    for (name, make) in PHASES {
        for input in every_input(make().generation()) {
            let mut bench = make();
            let actions = bench.feed(input.clone());
            row(&mut table, name, &input_text(&input), &bench, &actions);
        }
        table.push('\n');
    }
    insta::assert_snapshot!("inputs", table);
}

#[test]
fn timers_in_every_phase_match_the_table() {
    let mut table = String::new();
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
fn ready_levels_match_the_table() {
    let mut table = String::new();
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
            row(
                &mut table,
                &format!("{ready:?}"),
                &input_text(&input),
                &bench,
                &actions,
            );
        }
        table.push('\n');
    }
    insta::assert_snapshot!("ready", table);
}

fn row(table: &mut String, phase: &str, input: &str, bench: &Bench, actions: &[Action]) {
    let done: Vec<String> = actions.iter().map(action_text).collect();
    let done = if done.is_empty() {
        "-".to_owned()
    } else {
        done.join(", ")
    };
    let line = format!(
        "{phase:<12} {input:<26} {:<10} {done:<64} {}",
        phase_name(&bench.session.phase),
        timers(bench)
    );
    writeln!(table, "{}", line.trim_end()).unwrap();
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

/// The armed timers with the time left.
fn timers(bench: &Bench) -> String {
    let armed: Vec<String> = Timer::ALL
        .into_iter()
        .filter_map(|timer| {
            let at = bench.session.timers.armed(timer)?;
            Some(format!("{timer:?} {:?}", at - bench.now))
        })
        .collect();
    armed.join(" ")
}

fn input_text(input: &Input) -> String {
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
        Input::ReadPaused(_, paused) => format!("ReadPaused {paused}"),
        Input::Signal(_, signal) => match signal {
            Signal::Greeted => "Greeted".into(),
            Signal::RestoreProgress => "RestoreProgress".into(),
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
