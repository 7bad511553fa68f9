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
mod payload;
mod publisher;
mod rights;
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

/// The counts of one schedule, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
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
    /// Subscriptions that were denied.
    pub denials: u64,
    /// Snapshots that replaced one of other rights.
    pub rights_snapshots: u64,
    /// Steps of all machines.
    pub steps: u64,
}

/// The result of one schedule.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Violated promises; empty in a good run.
    pub violations: Vec<String>,
    /// The number of times each kind of fault had an effect: on data in flight, or on an open stream.
    pub fault_effects: BTreeMap<Fault, u64>,
    /// What happened.
    pub counts: Counts,
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
    /// The first seed with a violation, and its first violation.
    pub first_violation: Option<(u64, String)>,
    /// The number of times each kind of fault had an effect.
    pub faults: BTreeMap<&'static str, u64>,
    /// What happened in all of them.
    #[serde(flatten)]
    pub counts: Counts,
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
        report.faults.insert(fault.name(), 0);
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
        let faults = outcome.fault_effects.iter();
        let first = outcome.violations.first();
        self.merge(Self {
            schedules: 1,
            violations: outcome.violations.len() as u64,
            first_violation: first.map(|what| (seed, what.clone())),
            faults: faults
                .map(|(fault, count)| (fault.name(), *count))
                .collect(),
            counts: outcome.counts,
            max_steps: outcome.counts.steps,
        });
    }

    /// Adds another report. Independent of the order in which reports are added.
    fn merge(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.violations += other.violations;
        self.counts.add(other.counts);
        self.max_steps = self.max_steps.max(other.max_steps);
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        let firsts = [self.first_violation.take(), other.first_violation];
        self.first_violation = firsts.into_iter().flatten().min();
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        let Self {
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
            denials,
            rights_snapshots,
            steps,
        } = other;
        self.events += events;
        self.delivered += delivered;
        self.attempts += attempts;
        self.live_checks += live_checks;
        self.previous_read += previous_read;
        self.previous_unread += previous_unread;
        self.windows_refilled += windows_refilled;
        self.windows_narrowed += windows_narrowed;
        self.starts_at_oldest += starts_at_oldest;
        self.starts_at_time += starts_at_time;
        self.plain_losses += plain_losses;
        self.denials += denials;
        self.rights_snapshots += rights_snapshots;
        self.steps += steps;
    }
}
