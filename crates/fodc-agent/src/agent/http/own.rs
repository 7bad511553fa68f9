//! The agent's own metrics on its page of metrics.

use std::collections::BTreeMap;

use steadfast_exposition::Kind::{self, Counter, Gauge};
use steadfast_net::{Refusals, access::PageRights};
use steadfast_recorder::Stats;

use super::exposition::Families;
use crate::agent::status::{EndpointStatus, StatusSnapshot};

/// Adds the agent's own metrics. `labels` are those of each endpoint.
pub(super) fn add(
    families: &mut Families,
    status: &StatusSnapshot,
    labels: &[BTreeMap<String, String>],
    (record, shares): (&Stats, &[Stats]),
) {
    families.add(
        (
            "steadfast_agent_build_info",
            Gauge,
            "1, with the version of the agent",
        ),
        [("version", env!("CARGO_PKG_VERSION"))],
        1.0,
        None,
    );
    let mut put = |name: &str, kind, help: &str, value: u64| {
        families.add((name, kind, help), [], value as f64, None);
    };
    put(
        "steadfast_agent_ready",
        Gauge,
        "1 if every endpoint has been scraped at least once and the record can be written",
        u64::from(status.unready().is_none()),
    );
    put(
        "steadfast_agent_record_failing",
        Gauge,
        "1 while the record cannot be written: what is shown here is not recorded",
        u64::from(status.record.failing.is_some()),
    );
    put(
        "steadfast_agent_record_write_errors_total",
        Counter,
        "Writes and syncs of the record that failed",
        status.record.write_errors,
    );
    put(
        "steadfast_agent_record_budget_bytes",
        Gauge,
        "Maximum size of the record",
        record.budget,
    );
    put(
        "steadfast_agent_record_bytes",
        Gauge,
        "Size of the record",
        record.used,
    );
    put(
        "steadfast_agent_record_series",
        Gauge,
        "Series in the record",
        record.series as u64,
    );
    for ((endpoint, labels), share) in status.endpoints.iter().zip(labels).zip(shares) {
        add_endpoint(families, endpoint, labels, share);
    }
}

/// Adds the counters of what the listener has refused.
pub(super) fn add_refusals(families: &mut Families, refused: &Refusals, rights: &PageRights) {
    let mut put = |name, help, (reason, count): (&str, u64)| {
        families.add(
            (name, Counter, help),
            [("reason", reason)],
            count as f64,
            None,
        );
    };
    let help = "Connections, requests and bodies that the listener refused, by reason";
    for one in refused.all() {
        put("steadfast_agent_refused_total", help, one);
    }
    let help = "Requests that the policy refused, or whose response it ended, by reason";
    for one in rights.denials() {
        put("steadfast_agent_access_refused_total", help, one);
    }
}

fn add_endpoint(
    families: &mut Families,
    endpoint: &EndpointStatus,
    labels: &BTreeMap<String, String>,
    share: &Stats,
) {
    let mut put = |(name, kind, help): (&str, Kind, &str), reason: Option<&str>, value: u64| {
        let own = labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let labels = own.chain(reason.map(|reason| ("reason", reason)));
        families.add((name, kind, help), labels, value as f64, None);
    };
    for (name, kind, help, value) in [
        (
            "steadfast_agent_endpoint_record_bytes",
            Gauge,
            "Size of the endpoint's part of the record",
            share.used,
        ),
        (
            "steadfast_agent_scrapes_total",
            Counter,
            "Scrapes of the endpoint, including missed ones",
            endpoint.scrapes,
        ),
        (
            "steadfast_agent_samples_recorded_total",
            Counter,
            "Recorded samples of the endpoint",
            endpoint.samples,
        ),
        (
            "steadfast_agent_scrape_ticks_skipped_total",
            Counter,
            "Ticks that passed while a scrape of the endpoint was under way",
            endpoint.ticks_skipped,
        ),
        (
            "steadfast_agent_line_timestamps_ignored_total",
            Counter,
            "Timestamps on lines of the endpoint that were dropped",
            endpoint.timestamps_ignored,
        ),
    ] {
        put((name, kind, help), None, value);
    }
    for (name, help, counts) in [
        (
            "steadfast_agent_scrapes_missed_total",
            "Missed scrapes of the endpoint by reason",
            &endpoint.missed,
        ),
        (
            "steadfast_agent_lines_rejected_total",
            "Rejected lines of the endpoint by reason",
            &endpoint.lines_rejected,
        ),
        (
            "steadfast_agent_samples_refused_total",
            "Samples of the endpoint that were not recorded, by reason",
            &endpoint.samples_refused,
        ),
    ] {
        for (reason, count) in counts {
            put((name, Counter, help), Some(reason), *count);
        }
    }
}
