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

use std::collections::BTreeMap;

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

/// Runs `schedules` schedules with consecutive seeds. With `stop_at_violation`, stops at the first
/// violation.
#[must_use]
pub fn run_many(first_seed: u64, schedules: u64, stop_at_violation: bool) -> Report {
    let mut report = Report::default();
    for fault in Fault::ALL {
        // A kind that never took effect must be in the report, or nobody would notice it.
        report.faults.insert(fault.name().to_owned(), 0);
    }
    for seed in first_seed..first_seed.saturating_add(schedules) {
        let outcome = run(seed);
        report.schedules += 1;
        report.events += outcome.events;
        report.delivered += outcome.delivered;
        report.live_checks += outcome.live_checks;
        report.previous_read += outcome.previous_read;
        report.previous_unread += outcome.previous_unread;
        report.windows_refilled += outcome.windows_refilled;
        report.windows_narrowed += outcome.windows_narrowed;
        report.attempts += outcome.attempts;
        report.steps += outcome.steps;
        report.max_steps = report.max_steps.max(outcome.steps);
        for (fault, count) in outcome.fault_effects {
            *report.faults.entry(fault.name().to_owned()).or_default() += count;
        }
        if let Some(violation) = outcome.violations.first() {
            report.violations += outcome.violations.len() as u64;
            report.first_failing_seed.get_or_insert(seed);
            report
                .first_violation
                .get_or_insert_with(|| violation.clone());
            if stop_at_violation {
                break;
            }
        }
    }
    report
}
