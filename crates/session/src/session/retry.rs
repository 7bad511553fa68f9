//! Ends of streams and attempts, and the time of the next attempt.

use std::time::Duration;

use crate::{
    Generation, Time,
    backoff::Backoff,
    config::Config,
    end::{Advice, End, Initiator, Reason},
    session::{Action, Attempt, Phase, Session, Stage},
    status::{Cause, State},
    timer::Timer,
};

/// The state that outlives an attempt and decides when the next one starts.
#[derive(Debug)]
pub(super) struct RetryState {
    backoff: Backoff,
    credentials: Credentials,
    /// The attempts in a row that led on to the next server of their round.
    passed_over: u32,
    /// The start of the newest attempt.
    last_start: Option<Time>,
}

/// The peer's verdicts on the credentials since a stream was last stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials {
    /// Never refused.
    Good,
    /// Refused: the next attempt brings new ones.
    Refused,
    /// New, and not judged yet.
    Renewed,
    /// New, and not refused so far. They may expire as well, but a peer that refuses again and again
    /// meets the backoff.
    Doubtful,
}

/// The success of an attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Its stream was stable.
    Stable,
    /// Its stream was live, and the peer ended it in order for the first time.
    EndedInOrder,
    /// Anything less.
    Failed,
}

/// The most attempts in a row that lead on to the next server of a round: a transport that never comes to
/// the end of its round meets the backoff.
const MAX_PASSED_OVER: u32 = 15;

/// The time of the attempt after an end.
enum NextAttempt {
    Now,
    After(Duration),
    Never,
}

impl Session {
    /// Schedules the next attempt after `delay`, or later if the minimum interval demands it. One that
    /// is due starts within the same step, with the timers.
    pub(super) fn schedule_attempt(&mut self, now: Time, delay: Duration) {
        // Neither a peer that ends every stream at once nor a caller that asks without end can cause
        // attempts in a tight loop.
        let at = (now + delay).max(self.retry.earliest_start(self.config.settings()));
        self.enter(Phase::Backoff);
        self.timers.arm(Timer::Retry, at);
    }

    pub(super) fn start_attempt(&mut self, now: Time, out: &mut Vec<Action>) {
        let generation = Generation(self.status.generation.0 + 1);
        // Noted at the start and not at the end: the minimum interval is one between starts.
        let refresh = self.retry.start(now);
        self.status.generation = generation;
        let heartbeat_interval = self.config().heartbeat_interval;
        self.enter(Phase::Attempt(Attempt::new(generation, heartbeat_interval)));
        self.timers
            .arm(Timer::Open, now + self.config().open_timeout);
        out.push(Action::Open {
            generation,
            refresh,
        });
    }

    /// Handles every end of a stream, or of an attempt to open one, that the caller did not ask for.
    pub(super) fn on_ended(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        let Some(attempt) = self.attempt() else {
            return;
        };
        let generation = attempt.generation;
        let held = match attempt.stage {
            // The caller has left: its wish is the reason, however the peer ends the stream.
            Stage::Draining { .. } => return self.stop(now, Phase::Idle, out),
            Stage::Live { stable: true } => Held::Stable,
            // Only the first time: a peer that takes and ends every stream must meet the backoff.
            Stage::Live { stable: false }
                if end.is_orderly() && self.status.consecutive_failures == 0 =>
            {
                Held::EndedInOrder
            }
            Stage::Live { stable: false } | Stage::Opening | Stage::Greeting | Stage::Restoring => {
                Held::Failed
            }
        };
        // A stream that was live belongs to no round any more.
        let is_of_round = !matches!(attempt.stage, Stage::Live { .. });
        let passed_over = self.retry.passes_over(&end, is_of_round);
        // The loss of a stable stream is no failed attempt: the first attempt after it gets all
        // retries.
        if held != Held::Stable {
            self.status.failed_attempts += 1;
        }
        // A round of servers is one failure, that of its last server.
        if held != Held::Stable && !passed_over {
            self.status.consecutive_failures = self.status.consecutive_failures.saturating_add(1);
        }
        // Killed before the protocol hears of it, so that nothing it sends in `on_down` goes out.
        out.push(Action::Kill(generation));
        out.push(Action::Down(generation, end.clone()));
        let next = if passed_over {
            NextAttempt::Now
        } else {
            self.next_attempt(&end, held)
        };
        match next {
            NextAttempt::Never => self.give_up(now, end, out),
            NextAttempt::Now => self.retry_after(now, Duration::ZERO, end, out),
            NextAttempt::After(delay) => self.retry_after(now, delay, end, out),
        }
    }

    fn retry_after(&mut self, now: Time, delay: Duration, end: End, out: &mut Vec<Action>) {
        let state = match self.status.state {
            State::Disconnected | State::Connecting => State::Connecting,
            State::Connected | State::Reconnecting => State::Reconnecting,
        };
        self.set_state(now, state, Cause::Ended(end), out);
        self.schedule_attempt(now, delay);
    }

    /// Handles the peer's announcement that it stops: opens a new stream at once and stays connected
    /// meanwhile. Only a stable stream earns this; from any other the announcement is a failure.
    pub(super) fn on_peer_drain(&mut self, now: Time, message: String, out: &mut Vec<Action>) {
        let Some(attempt) = self.attempt() else {
            return;
        };
        let generation = attempt.generation;
        let end = End::retry(Initiator::Peer, Reason::Drained(message.clone()));
        match attempt.stage {
            // No failure is counted, and the state stays `Connected`: a rolling restart of healthy
            // peers is no outage. The old stream is killed and not kept beside the new one, because
            // a protocol has one stream at a time.
            Stage::Live { stable: true } => {
                out.push(Action::Kill(generation));
                out.push(Action::Down(generation, end));
                self.set_state(now, State::Connected, Cause::PeerDraining(message), out);
                self.schedule_attempt(now, Duration::ZERO);
            }
            Stage::Opening | Stage::Greeting | Stage::Restoring | Stage::Live { stable: false } => {
                self.on_ended(now, end, out);
            }
            // Our own end is under way, and queued messages may still arrive.
            Stage::Draining { .. } => {}
        }
    }

    fn next_attempt(&mut self, end: &End, held: Held) -> NextAttempt {
        let config = self.config.settings();
        let failures = self.status.consecutive_failures;
        // Zero never gives up. There are no failures yet at the end of a stable stream, so it is never
        // the last.
        if config.max_retries > 0 && failures >= config.max_retries {
            return NextAttempt::Never;
        }
        self.retry.next_attempt(config, end, held)
    }

    fn give_up(&mut self, now: Time, end: End, out: &mut Vec<Action>) {
        self.enter(Phase::Idle);
        out.push(Action::Stopped(end.clone()));
        self.set_state(now, State::Disconnected, Cause::Ended(end), out);
    }
}

impl RetryState {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            backoff: Backoff::new(seed),
            credentials: Credentials::Good,
            passed_over: 0,
            last_start: None,
        }
    }

    /// Forgets all failures. The time of the last attempt is kept: the minimum interval always holds.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.credentials = Credentials::Good;
        self.passed_over = 0;
    }

    /// Notes that the peer took the credentials, or refused something else.
    pub(super) fn credentials_accepted(&mut self) {
        if self.credentials == Credentials::Renewed {
            self.credentials = Credentials::Doubtful;
        }
    }

    fn earliest_start(&self, config: &Config) -> Time {
        self.last_start
            .map_or(Time::ZERO, |start| start + config.min_interval())
    }

    /// Notes the start of an attempt. Returns true if it must bring new credentials.
    fn start(&mut self, now: Time) -> bool {
        self.last_start = Some(now);
        let refresh = self.credentials == Credentials::Refused;
        if refresh {
            self.credentials = Credentials::Renewed;
        }
        refresh
    }

    /// Notes an end. Returns true if the next attempt leads to another server of the same round.
    fn passes_over(&mut self, end: &End, is_of_round: bool) -> bool {
        let passes_over =
            end.advice == Advice::NextServer && is_of_round && self.passed_over < MAX_PASSED_OVER;
        self.passed_over = if passes_over { self.passed_over + 1 } else { 0 };
        passes_over
    }

    fn next_attempt(&mut self, config: &Config, end: &End, held: Held) -> NextAttempt {
        // The backoff advances whatever the advice is, so that a peer which alternates its reasons
        // meets growing delays, too.
        let ordinary = match held {
            Held::Stable => self.backoff.recovery(config),
            Held::EndedInOrder => self.backoff.after_orderly_end(config),
            Held::Failed => self.backoff.next(config),
        };
        // Any other end means that the credentials were not what the peer refused.
        if end.advice != Advice::Refresh {
            self.credentials_accepted();
        }
        match (end.advice, &end.reason) {
            (Advice::Stop, _) => NextAttempt::Never,
            (Advice::Refresh, _) => self.credentials_refused(config, ordinary),
            (Advice::Wait(None), _) => NextAttempt::After(self.backoff.longest(config)),
            (Advice::Wait(Some(wait)), _) => {
                let wait = wait.min(config.retry_after_max);
                NextAttempt::After(self.backoff.at_least(config, wait).max(ordinary))
            }
            // The caller asked for a new stream and is waiting for it.
            (Advice::Retry, Reason::ProbeFailed) => NextAttempt::Now,
            (Advice::Retry | Advice::NextServer, _) => NextAttempt::After(ordinary),
        }
    }

    fn credentials_refused(&mut self, config: &Config, ordinary: Duration) -> NextAttempt {
        let next = match self.credentials {
            Credentials::Good => NextAttempt::Now,
            Credentials::Doubtful => NextAttempt::After(ordinary),
            // Whoever issues the credentials may be late with the next ones.
            Credentials::Refused | Credentials::Renewed if config.renews_credentials => {
                NextAttempt::After(ordinary)
            }
            // New credentials were refused at once: a third set would be, too.
            Credentials::Refused | Credentials::Renewed => return NextAttempt::Never,
        };
        self.credentials = Credentials::Refused;
        next
    }
}
