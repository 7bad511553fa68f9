//! The agent's own metrics on its page of metrics.

use std::collections::BTreeMap;

use steadfast_exposition::Kind;
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
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families.add(BUILD_INFO, version, 1.0, None);
    families.add(
        READY,
        [],
        f64::from(u8::from(status.unready().is_none())),
        None,
    );
    families.add(WRITE_ERRORS, [], status.record.write_errors as f64, None);
    families.add(BUDGET, [], record.budget as f64, None);
    families.add(BYTES, [], record.used as f64, None);
    families.add(SERIES, [], record.series as f64, None);
    for ((endpoint, labels), share) in status.endpoints.iter().zip(labels).zip(shares) {
        add_endpoint(families, endpoint, labels, share);
    }
}

fn add_endpoint(
    families: &mut Families,
    endpoint: &EndpointStatus,
    labels: &BTreeMap<String, String>,
    share: &Stats,
) {
    let mut put = |metric: Metric, reason: Option<&str>, value: u64| {
        let own = labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let labels = own.chain(reason.map(|reason| ("reason", reason)));
        families.add(metric, labels, value as f64, None);
    };
    put(SHARE, None, share.used);
    put(SCRAPES, None, endpoint.scrapes);
    put(SAMPLES, None, endpoint.samples);
    put(SKIPPED, None, endpoint.ticks_skipped);
    put(TIMESTAMPS, None, endpoint.timestamps_ignored);
    for (metric, counts) in [
        (MISSED, &endpoint.missed),
        (REJECTED, &endpoint.lines_rejected),
        (REFUSED, &endpoint.samples_refused),
    ] {
        for (reason, count) in counts {
            put(metric, Some(reason), *count);
        }
    }
}

type Metric = (&'static str, Kind, &'static str);

const BUILD_INFO: Metric = (
    "steadfast_agent_build_info",
    Kind::Gauge,
    "1, with the version of the agent",
);
const READY: Metric = (
    "steadfast_agent_ready",
    Kind::Gauge,
    "1 if every endpoint has been scraped at least once and the record can be written",
);
const WRITE_ERRORS: Metric = (
    "steadfast_agent_record_write_errors_total",
    Kind::Counter,
    "Writes and syncs of the record that failed",
);
const BUDGET: Metric = (
    "steadfast_agent_record_budget_bytes",
    Kind::Gauge,
    "Maximum size of the record",
);
const BYTES: Metric = (
    "steadfast_agent_record_bytes",
    Kind::Gauge,
    "Size of the record",
);
const SERIES: Metric = (
    "steadfast_agent_record_series",
    Kind::Gauge,
    "Series in the record",
);
const SHARE: Metric = (
    "steadfast_agent_endpoint_record_bytes",
    Kind::Gauge,
    "Size of the endpoint's part of the record",
);
const SCRAPES: Metric = (
    "steadfast_agent_scrapes_total",
    Kind::Counter,
    "Scrapes of the endpoint, including missed ones",
);
const MISSED: Metric = (
    "steadfast_agent_scrapes_missed_total",
    Kind::Counter,
    "Missed scrapes of the endpoint by reason",
);
const SKIPPED: Metric = (
    "steadfast_agent_scrape_ticks_skipped_total",
    Kind::Counter,
    "Ticks that passed while a scrape of the endpoint was under way",
);
const SAMPLES: Metric = (
    "steadfast_agent_samples_recorded_total",
    Kind::Counter,
    "Recorded samples of the endpoint",
);
const TIMESTAMPS: Metric = (
    "steadfast_agent_line_timestamps_ignored_total",
    Kind::Counter,
    "Timestamps on lines of the endpoint that were dropped",
);
const REJECTED: Metric = (
    "steadfast_agent_lines_rejected_total",
    Kind::Counter,
    "Rejected lines of the endpoint by reason",
);
const REFUSED: Metric = (
    "steadfast_agent_samples_refused_total",
    Kind::Counter,
    "Samples of the endpoint that were not recorded, by reason",
);
