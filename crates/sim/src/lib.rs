//! A deterministic simulation of clients, publishers and a server under faults.
//!
//! A schedule is generated from a seed: the clients and their subscriptions, the publishers, and the
//! faults. It runs in virtual time on one thread, over the same state machines as the driver and the
//! server: [`steadfast_session::Endpoint`], the client core, the hub and a log. At the end every
//! subscription must have received exactly the acknowledged events that a naive filter selects, and
//! every resource must be free again.
//!
//! Equal seeds give equal runs, in any process. Nothing depends on this crate.

mod client;
mod fault;
mod net;
mod oracle;
mod pace;
mod publisher;
mod scheduler;
mod server;
mod shape;
mod subscription;
mod wire_check;
mod world;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serde::Serialize;

pub use self::fault::Fault;

/// The result of one schedule.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Violated promises; empty in a good run.
    pub violations: Vec<String>,
    /// The number of times each kind of fault had an effect: on data in flight, or on an open stream.
    pub fault_effects: BTreeMap<Fault, u64>,
    /// Events in the log at the end.
    pub events: u64,
    /// Changes delivered to applications.
    pub delivered: u64,
    /// Attempts of all clients.
    pub attempts: u64,
    /// Comparisons of live sets and windows with the log.
    pub live_checks: u64,
    /// States of documents before events that were read.
    pub previous_read: u64,
    /// States of documents before events that could not be read.
    pub previous_unread: u64,
    /// Windows of which too little was left.
    pub windows_refilled: u64,
    /// Windows of which too much was kept.
    pub windows_narrowed: u64,
    /// Subscriptions that began with the oldest event.
    pub starts_at_oldest: u64,
    /// Subscriptions that began at a time.
    pub starts_at_time: u64,
    /// Plain clients that ended because events had left the log.
    pub plain_losses: u64,
    /// Steps of all machines.
    pub steps: u64,
    /// A digest of everything that happened, for comparing two runs of one seed.
    pub trace: u64,
}

/// The result of many schedules.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The number of schedules run.
    pub schedules: u64,
    /// The number of violations over all schedules.
    pub violations: u64,
    /// The first seed with a violation.
    pub first_failing_seed: Option<u64>,
    /// The first violation of that seed.
    pub first_violation: Option<String>,
    /// The number of times each kind of fault had an effect.
    pub faults: BTreeMap<String, u64>,
    /// Events published.
    pub events: u64,
    /// Changes delivered.
    pub delivered: u64,
    /// Attempts of all clients.
    pub attempts: u64,
    /// Comparisons of live sets and windows with the log.
    pub live_checks: u64,
    /// States of documents before events that were read.
    pub previous_read: u64,
    /// States of documents before events that could not be read.
    pub previous_unread: u64,
    /// Windows of which too little was left.
    pub windows_refilled: u64,
    /// Windows of which too much was kept.
    pub windows_narrowed: u64,
    /// Subscriptions that began with the oldest event.
    pub starts_at_oldest: u64,
    /// Subscriptions that began at a time.
    pub starts_at_time: u64,
    /// Plain clients that ended because events had left the log.
    pub plain_losses: u64,
    /// Steps of all machines.
    pub steps: u64,
    /// The steps of the longest schedule.
    pub max_steps: u64,
}

/// Runs one schedule.
///
/// ```
/// let outcome = steadfast_sim::run(7);
/// assert_eq!(outcome.violations, Vec::<String>::new());
/// ```
#[must_use]
pub fn run(seed: u64) -> Outcome {
    world::World::new(seed).run()
}

/// Runs `schedules` schedules with consecutive seeds, on all processors. With `stop_at_violation`, begins
/// none after the first violation.
///
/// # Panics
///
/// Panics if a schedule does.
#[must_use]
pub fn run_many(first_seed: u64, schedules: u64, stop_at_violation: bool) -> Report {
    let next = AtomicU64::new(first_seed);
    let last = first_seed.saturating_add(schedules);
    let work = || {
        let mut report = Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                return report;
            }
            let outcome = run(seed);
            if stop_at_violation && !outcome.violations.is_empty() {
                next.store(last, Ordering::Relaxed);
            }
            report.add(seed, &outcome);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut report = Report::default();
    for fault in Fault::ALL {
        // A kind that never took effect must be in the report, or nobody would notice it.
        report.faults.insert(fault.name().to_owned(), 0);
    }
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            report.merge(worker.join().expect("a schedule panicked"));
        }
    });
    report
}

impl Report {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        let mut faults = BTreeMap::new();
        for (fault, count) in &outcome.fault_effects {
            faults.insert(fault.name().to_owned(), *count);
        }
        self.merge(Self {
            schedules: 1,
            violations: outcome.violations.len() as u64,
            first_failing_seed: outcome.violations.first().map(|_| seed),
            first_violation: outcome.violations.first().cloned(),
            faults,
            events: outcome.events,
            delivered: outcome.delivered,
            attempts: outcome.attempts,
            live_checks: outcome.live_checks,
            previous_read: outcome.previous_read,
            previous_unread: outcome.previous_unread,
            windows_refilled: outcome.windows_refilled,
            windows_narrowed: outcome.windows_narrowed,
            starts_at_oldest: outcome.starts_at_oldest,
            starts_at_time: outcome.starts_at_time,
            plain_losses: outcome.plain_losses,
            steps: outcome.steps,
            max_steps: outcome.steps,
        });
    }

    /// Adds another report. Independent of the order in which reports are added.
    fn merge(&mut self, other: Self) {
        let Self {
            schedules,
            violations,
            first_failing_seed,
            first_violation,
            faults,
            events,
            delivered,
            attempts,
            live_checks,
            previous_read,
            previous_unread,
            windows_refilled,
            windows_narrowed,
            starts_at_oldest,
            starts_at_time,
            plain_losses,
            steps,
            max_steps,
        } = other;
        for (sum, more) in [
            (&mut self.schedules, schedules),
            (&mut self.violations, violations),
            (&mut self.events, events),
            (&mut self.delivered, delivered),
            (&mut self.attempts, attempts),
            (&mut self.live_checks, live_checks),
            (&mut self.previous_read, previous_read),
            (&mut self.previous_unread, previous_unread),
            (&mut self.windows_refilled, windows_refilled),
            (&mut self.windows_narrowed, windows_narrowed),
            (&mut self.starts_at_oldest, starts_at_oldest),
            (&mut self.starts_at_time, starts_at_time),
            (&mut self.plain_losses, plain_losses),
            (&mut self.steps, steps),
        ] {
            *sum += more;
        }
        self.max_steps = self.max_steps.max(max_steps);
        for (fault, count) in faults {
            *self.faults.entry(fault).or_default() += count;
        }
        let is_earlier = |seed| self.first_failing_seed.is_none_or(|first| seed < first);
        if first_failing_seed.is_some_and(is_earlier) {
            (self.first_failing_seed, self.first_violation) = (first_failing_seed, first_violation);
        }
    }
}
