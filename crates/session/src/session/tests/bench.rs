//! A session with a clock of its own, and everything it ever asked for.

use std::time::Duration;

use crate::{
    Activity, Advice, Config, End, Generation, Initiator, Jitter, Ready, Reason, Signal, State,
    Time,
    session::{Action, Input, Phase, Session},
};

pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Time,
    pub(super) done: Vec<(Time, Action)>,
}

/// The defaults, restoring, with delays that are not spread: 1, 2, 4, 8, 16, 30, 30, … seconds.
pub(super) fn plain() -> Config {
    Config {
        jitter: Jitter::Proportional(0.0),
        ready: Ready::Restored,
        ..Config::default()
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const MICRO: Duration = Duration::from_micros(1);

/// A microsecond less.
pub(super) fn just_before(span: Duration) -> Duration {
    span.saturating_sub(MICRO)
}

pub(super) fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

pub(super) fn unreachable() -> End {
    End::retry(Initiator::Network, Reason::Unreachable("refused".into()))
}

pub(super) fn advised(advice: Advice) -> End {
    End {
        initiator: Initiator::Peer,
        reason: Reason::Status {
            code: 14,
            message: "no".into(),
        },
        advice,
    }
}

impl Bench {
    pub(super) fn new(config: Config) -> Self {
        Self::seeded(config, 1)
    }

    pub(super) fn seeded(config: Config, seed: u64) -> Self {
        Self {
            session: Session::new(config.check().unwrap(), seed),
            now: Time::ZERO,
            done: Vec::new(),
        }
    }

    /// A session that was brought to what it is busy with in the ordinary way, just now.
    pub(super) fn busy_with(config: Config, activity: Activity) -> Self {
        let mut bench = Self::new(config);
        match activity {
            Activity::Idle => {}
            Activity::Opening => bench.open(),
            Activity::Backoff => {
                bench.open();
                bench.end(unreachable());
            }
            Activity::Greeting => {
                bench.open();
                bench.headers();
            }
            Activity::Restoring => {
                bench.open();
                bench.headers();
                bench.signal(Signal::Greeted);
            }
            Activity::Live => {
                bench.open();
                bench.go_live();
            }
            Activity::Draining => {
                bench.open();
                bench.go_live();
                bench.feed(Input::Leave);
            }
            Activity::Closed => {
                bench.feed(Input::Close);
            }
        }
        assert_eq!(bench.activity(), activity);
        bench
    }

    pub(super) fn live(config: Config) -> Self {
        Self::busy_with(config, Activity::Live)
    }

    /// A live session that has proved itself.
    pub(super) fn proven(config: Config) -> Self {
        let mut bench = Self::live(config);
        bench.prove();
        bench
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        let deadline = self.session.step(self.now, input, &mut out);
        assert_eq!(deadline, self.session.deadline());
        assert!(
            deadline.is_none_or(|deadline| deadline.at > self.now),
            "nothing that was due is left"
        );
        self.done
            .extend(out.iter().cloned().map(|action| (self.now, action)));
        out
    }

    /// Lets time pass, and every timer fire when it is due.
    pub(super) fn wait(&mut self, span: Duration) -> Vec<Action> {
        let end = self.now + span;
        let mut out = Vec::new();
        while let Some(deadline) = self.session.deadline()
            && deadline.at <= end
        {
            self.now = deadline.at;
            out.extend(self.feed(Input::Tick));
        }
        self.now = end;
        out
    }

    /// Lets time pass until the next attempt begins; how long that took.
    pub(super) fn wait_for_attempt(&mut self) -> Duration {
        let began = self.now;
        let due = self.session.status().next_retry_at.unwrap();
        self.wait(due - began);
        assert_eq!(self.activity(), Activity::Opening);
        due - began
    }

    pub(super) fn open(&mut self) {
        self.feed(Input::Connect);
        assert_eq!(self.activity(), Activity::Opening);
    }

    pub(super) fn headers(&mut self) -> Vec<Action> {
        self.feed(Input::Headers(self.generation()))
    }

    pub(super) fn received(&mut self) -> Vec<Action> {
        self.feed(Input::Received(self.generation()))
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Vec<Action> {
        self.feed(Input::Signal(self.generation(), signal))
    }

    pub(super) fn end(&mut self, end: End) -> Vec<Action> {
        self.feed(Input::Ended(self.generation(), end))
    }

    /// From opening to live, at once.
    pub(super) fn go_live(&mut self) {
        self.headers();
        self.feed(Input::Message(self.generation()));
        self.signal(Signal::Greeted);
        self.signal(Signal::Restored);
        assert_eq!(self.activity(), Activity::Live);
    }

    /// Lets a stream prove itself, with a peer that speaks now and then.
    pub(super) fn prove(&mut self) {
        let until = self.now + self.session.config().stable_after;
        while self.now < until {
            self.wait(until.since(self.now).min(seconds(10)));
            self.received();
        }
        assert!(matches!(
            self.session.phase,
            Phase::Live { proven: true, .. }
        ));
    }

    pub(super) fn generation(&self) -> Generation {
        self.session.status().generation
    }

    pub(super) fn activity(&self) -> Activity {
        self.session.status().activity
    }

    pub(super) fn state(&self) -> State {
        self.session.status().state
    }

    /// When attempts began, and whether with new credentials.
    pub(super) fn attempts(&self) -> Vec<(Time, bool)> {
        self.done
            .iter()
            .filter_map(|(at, action)| match action {
                Action::Open { refresh, .. } => Some((*at, *refresh)),
                Action::Finish(_)
                | Action::Kill(_)
                | Action::Probe(_)
                | Action::Heartbeat(_)
                | Action::Up(_)
                | Action::Down(..)
                | Action::Stopped(_)
                | Action::Changed(_) => None,
            })
            .collect()
    }

    /// The time from the beginning of each attempt to that of the next.
    pub(super) fn distances(&self) -> Vec<Duration> {
        self.attempts()
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect()
    }

    /// Everything but the generator, which has no readable state.
    pub(super) fn snapshot(&self) -> String {
        format!("{:?}", self.session)
    }
}

/// The ends among the actions, each with the attempt it ended.
pub(super) fn downs(actions: &[Action]) -> Vec<(Generation, Reason)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Down(generation, end) => Some((*generation, end.reason.clone())),
            Action::Open { .. }
            | Action::Finish(_)
            | Action::Kill(_)
            | Action::Probe(_)
            | Action::Heartbeat(_)
            | Action::Up(_)
            | Action::Stopped(_)
            | Action::Changed(_) => None,
        })
        .collect()
}

pub(super) fn stops(actions: &[Action]) -> Vec<End> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Stopped(end) => Some(end.clone()),
            Action::Open { .. }
            | Action::Finish(_)
            | Action::Kill(_)
            | Action::Probe(_)
            | Action::Heartbeat(_)
            | Action::Up(_)
            | Action::Down(..)
            | Action::Changed(_) => None,
        })
        .collect()
}

/// Every input there is, as attempt `from` would cause it.
pub(super) fn every_input(from: Generation) -> Vec<Input> {
    let signals = [
        Signal::Greeted,
        Signal::RestoreProgress,
        Signal::Restored,
        Signal::HeartbeatAcked,
        Signal::ExpectAcks,
        Signal::HeartbeatInterval(seconds(20)),
        Signal::Drain("restart".into()),
        Signal::Fail(End::retry(
            Initiator::Peer,
            Reason::Protocol("nonsense".into()),
        )),
    ];
    let advices = [
        Advice::Retry,
        Advice::Wait(Some(seconds(40))),
        Advice::Wait(None),
        Advice::Refresh,
        Advice::Stop,
    ];
    let mut inputs = vec![
        Input::Connect,
        Input::Reconnect,
        Input::Leave,
        Input::Close,
        Input::Accepted(from),
        Input::Headers(from),
        Input::Received(from),
        Input::Message(from),
        Input::Probed(from, true),
        Input::Probed(from, false),
        Input::ReadPaused(from, true),
        Input::ReadPaused(from, false),
        Input::Tick,
    ];
    inputs.extend(advices.map(|advice| Input::Ended(from, advised(advice))));
    inputs.extend(signals.map(|signal| Input::Signal(from, signal)));
    inputs
}

/// The inputs that a stream causes, not a caller.
pub(super) fn every_report(from: Generation) -> Vec<Input> {
    let mut inputs = every_input(from);
    inputs.retain(|input| match input {
        Input::Connect | Input::Reconnect | Input::Leave | Input::Close | Input::Tick => false,
        Input::Accepted(_)
        | Input::Headers(_)
        | Input::Received(_)
        | Input::Message(_)
        | Input::Ended(..)
        | Input::Probed(..)
        | Input::ReadPaused(..)
        | Input::Signal(..) => true,
    });
    inputs
}

pub(super) const ACTIVITIES: [Activity; 8] = [
    Activity::Idle,
    Activity::Backoff,
    Activity::Opening,
    Activity::Greeting,
    Activity::Restoring,
    Activity::Live,
    Activity::Draining,
    Activity::Closed,
];
