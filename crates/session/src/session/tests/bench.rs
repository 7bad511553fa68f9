//! A session with a virtual clock, and all its actions so far.

use std::time::Duration;

use crate::{
    Activity, Advice, Config, End, Generation, Initiator, Jitter, Liveness, Ready, Reason, Signal,
    State, Time,
    session::{Action, Input, Session, Stage},
};

pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Time,
    pub(super) done: Vec<(Time, Action)>,
    /// All inputs so far.
    pub(super) fed: Vec<(Time, Input)>,
}

/// The defaults with a restoration and without jitter: delays of 1, 2, 4, 8, 16, 30, 30, … seconds.
pub(super) fn plain() -> Config {
    Config {
        jitter: Jitter::Proportional(0.0),
        ready: Ready::Restored,
        ..Config::default()
    }
}

/// As [`plain`], with probes as the sign of life.
pub(super) fn probing() -> Config {
    Config {
        liveness: Liveness::Probed,
        ..plain()
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const MICRO: Duration = Duration::from_micros(1);

/// One microsecond less than `span`.
pub(super) fn just_before(span: Duration) -> Duration {
    span.saturating_sub(MICRO)
}

pub(super) fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

pub(super) fn unreachable() -> End {
    End::retry(Initiator::Network, Reason::Unreachable("refused".into()))
}

pub(super) fn ended_with(advice: Advice) -> End {
    End::status(14, "no", advice)
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
            fed: Vec::new(),
        }
    }

    /// Creates a session that has just reached `activity` in the ordinary way.
    pub(super) fn in_activity(config: Config, activity: Activity) -> Self {
        let mut bench = Self::new(config);
        if activity != Activity::Idle {
            bench.open();
            bench.advance_to(activity);
        }
        bench
    }

    /// Brings an attempt that has just begun to `activity` in the ordinary way.
    pub(super) fn advance_to(&mut self, activity: Activity) {
        match activity {
            Activity::Opening => {}
            Activity::Idle => drop(self.feed(Input::Leave)),
            Activity::Backoff => drop(self.end(unreachable())),
            Activity::Greeting => drop(self.headers()),
            Activity::Restoring => {
                self.headers();
                self.signal(Signal::Greeted);
            }
            Activity::Live => self.go_live(),
            Activity::Draining => {
                self.go_live();
                self.feed(Input::Leave);
            }
            Activity::Closed => drop(self.feed(Input::Close)),
        }
        assert_eq!(self.activity(), activity);
    }

    pub(super) fn live(config: Config) -> Self {
        Self::in_activity(config, Activity::Live)
    }

    /// Creates a session with a stable stream.
    pub(super) fn stable(config: Config) -> Self {
        let mut bench = Self::live(config);
        bench.stabilize();
        bench
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        self.fed.push((self.now, input.clone()));
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

    /// Advances the time through every timer on the way.
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

    /// Advances the time to the next attempt and returns the wait.
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

    /// Completes the opening at once.
    pub(super) fn go_live(&mut self) {
        self.headers();
        self.feed(Input::Message(self.generation()));
        self.signal(Signal::Greeted);
        self.signal(Signal::Restored);
        assert_eq!(self.activity(), Activity::Live);
    }

    /// Advances the time until the stream is stable, with a peer that sends now and then.
    pub(super) fn stabilize(&mut self) {
        let until = self.now + self.session.config().stable_after;
        while self.now < until {
            self.wait(until.since(self.now).min(seconds(10)));
            self.received();
        }
        assert_eq!(self.session.stage(), Some(Stage::Live { stable: true }));
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

    /// All actions so far.
    pub(super) fn actions(&self) -> Vec<Action> {
        self.done.iter().map(|(_, action)| action.clone()).collect()
    }

    /// The starts of all attempts, each with its `refresh`.
    pub(super) fn attempts(&self) -> Vec<(Time, bool)> {
        let mut attempts = Vec::new();
        for (at, action) in &self.done {
            if let Action::Open { refresh, .. } = action {
                attempts.push((*at, *refresh));
            }
        }
        attempts
    }

    /// The time from the beginning of each attempt to that of the next.
    pub(super) fn distances(&self) -> Vec<Duration> {
        self.attempts()
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect()
    }

    /// The whole state, for comparison.
    pub(super) fn snapshot(&self) -> String {
        format!("{:?}", self.session)
    }
}

/// The ends of streams and attempts among the actions.
pub(super) fn downs(actions: &[Action]) -> Vec<(Generation, Reason)> {
    let mut downs = Vec::new();
    for action in actions {
        if let Action::Down(generation, end) = action {
            downs.push((*generation, end.reason.clone()));
        }
    }
    downs
}

/// The final ends among the actions.
pub(super) fn stops(actions: &[Action]) -> Vec<End> {
    let mut stops = Vec::new();
    for action in actions {
        if let Action::Stopped(end) = action {
            stops.push(end.clone());
        }
    }
    stops
}

/// Every kind of input, from attempt `from`.
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
    let advice = [
        Advice::Retry,
        Advice::Wait(Some(seconds(40))),
        Advice::Wait(None),
        Advice::NextServer,
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
    inputs.extend(advice.map(|advice| Input::Ended(from, ended_with(advice))));
    inputs.extend(signals.map(|signal| Input::Signal(from, signal)));
    inputs
}

/// The inputs that a stream causes, without those of a caller.
pub(super) fn every_report(from: Generation) -> Vec<Input> {
    let mut inputs = every_input(from);
    let requests = [
        Input::Connect,
        Input::Reconnect,
        Input::Leave,
        Input::Close,
        Input::Tick,
    ];
    inputs.retain(|input| !requests.contains(input));
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
