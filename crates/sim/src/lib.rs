//! The deterministic world in which the machines are tested.
//!
//! A schedule is a seed. From it come the clients and what they subscribe, the publishers, and the
//! faults; everything runs in virtual time, on one thread, over the very machines that the driver
//! and the server run: [`steadfast_session::Endpoint`], the client core, the hub and a log. At the
//! end every subscription must have got exactly what a naive filter over the acknowledged events
//! says, and nothing may be left behind.
//!
//! Equal seeds give equal runs, in any process. Nothing depends on this crate.

mod agenda;
mod client;
mod faults;
mod net;
mod oracle;
mod pace;
mod publisher;
mod server;
mod subscription;
mod world;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::faults::Fault;

/// What a schedule showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What must not happen and did; empty in a good run.
    pub violations: Vec<String>,
    /// How often each kind of fault struck something: data in flight, or a stream in use.
    pub bites: BTreeMap<Fault, u64>,
    /// Events in the log at the end.
    pub events: u64,
    /// Changes delivered to applications.
    pub delivered: u64,
    /// Attempts of all clients.
    pub attempts: u64,
    /// A digest of everything that happened, for comparing two runs of one seed.
    pub trace: u64,
}

/// What many schedules showed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many were run.
    pub schedules: u64,
    /// What must not happen and did, over all of them.
    pub violations: u64,
    /// The first seed with a violation.
    pub first_failing_seed: Option<u64>,
    /// What happened there.
    pub first_violation: Option<String>,
    /// How often each kind of fault struck something.
    pub faults: BTreeMap<String, u64>,
    /// Events published.
    pub events: u64,
    /// Changes delivered.
    pub delivered: u64,
    /// Attempts of all clients.
    pub attempts: u64,
}

/// Runs one schedule.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    world::World::new(seed).run()
}

/// Runs `schedules` of them, from `first_seed` on; stops at the first violation if asked to.
#[must_use]
pub fn run_many(first_seed: u64, schedules: u64, stop_at_violation: bool) -> Report {
    let mut report = Report::default();
    for fault in Fault::ALL {
        report.faults.insert(fault.name().to_owned(), 0);
    }
    for seed in first_seed..first_seed.saturating_add(schedules) {
        let outcome = run(seed);
        report.schedules += 1;
        report.events += outcome.events;
        report.delivered += outcome.delivered;
        report.attempts += outcome.attempts;
        for (fault, count) in outcome.bites {
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
