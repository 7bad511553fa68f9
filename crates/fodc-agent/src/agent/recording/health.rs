//! The health of an endpoint's scrapes, as series of the record.

use std::{collections::HashMap, time::Duration};

use steadfast_exposition::Summary;
use steadfast_recorder::{Kind, Labels, LimitError, Meta, NAME, Scrape, SeriesId, SourceId};

use crate::scrape::ScrapeError;

/// The totals of one page.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) summary: Summary,
    pub(super) recorded: u64,
    pub(super) added: u64,
    pub(super) duplicates: u64,
    /// Samples of pending series for which the budget was exhausted.
    pub(super) pending_refused: u64,
    /// Samples of series that the record has evicted since they were registered.
    pub(super) stale: u64,
}

impl Totals {
    /// Returns the samples for which the budget was exhausted.
    pub(super) fn over_budget(&self) -> u64 {
        self.summary.refused.budget + self.pending_refused
    }
}

/// Returns the samples of a page that were not recorded, by reason.
pub(super) fn refusals(totals: &Totals) -> [(&'static str, u64); 5] {
    let refused = &totals.summary.refused;
    [
        ("budget", totals.over_budget()),
        ("series_limit", refused.series_limit),
        ("labels_too_long", refused.unwanted),
        ("duplicate", totals.duplicates),
        ("stale", totals.stale),
    ]
}

/// The series of one endpoint's health. They have Prometheus's names where it has one.
#[derive(Debug)]
pub(super) struct Health {
    source: SourceId,
    series: HashMap<(&'static str, &'static str), SeriesId>,
}

impl Health {
    pub(super) fn new(source: SourceId) -> Self {
        Self {
            source,
            series: HashMap::new(),
        }
    }

    /// Adds the health of a scrape to it, so that both are committed together.
    pub(super) fn add(
        &mut self,
        scrape: &mut Scrape<'_>,
        duration: Duration,
        page: Result<&Totals, &ScrapeError>,
    ) {
        let mut values = vec![
            (UP, "", f64::from(u8::from(page.is_ok()))),
            (DURATION, "", duration.as_secs_f64()),
        ];
        match page {
            Ok(totals) => {
                let summary = &totals.summary;
                // As in Prometheus, refused samples were scraped, too.
                let found = summary.samples + summary.refused.total();
                values.push((SCRAPED, "", found as f64));
                values.push((RECORDED, "", totals.recorded as f64));
                values.push((ADDED, "", totals.added as f64));
                values.push((BODY, "", totals.bytes as f64));
                for (reason, count) in summary.rejected.iter() {
                    values.push((REJECTED, reason.word(), count as f64));
                }
                for (reason, count) in refusals(totals) {
                    // A zero would register a series for each reason, with each endpoint.
                    if count > 0 {
                        values.push((REFUSED, reason, count as f64));
                    }
                }
            }
            Err(error) => {
                // As Prometheus does for a failed scrape.
                values.extend([SCRAPED, RECORDED, ADDED].map(|metric| (metric, "", 0.0)));
                values.push((MISSED, error.reason(), 1.0));
            }
        }
        // A source of its own: a missed scrape ends all series of the page, but not its health.
        scrape.add_source(self.source);
        for (metric, reason, value) in values {
            // A refused series is left out: the record is then full to its last byte.
            let known = self.series.get(&(metric.name, reason)).copied();
            let series = match known {
                Some(series) => Ok(series),
                None => register(metric, reason, |labels, meta| {
                    scrape.series_of(self.source, labels, meta)
                }),
            };
            if let Ok(series) = series {
                self.series.insert((metric.name, reason), series);
                scrape.set(series, value, None);
            }
        }
    }
}

fn register(
    metric: Metric,
    reason: &'static str,
    register: impl FnOnce(&Labels, &Meta) -> Result<SeriesId, LimitError>,
) -> Result<SeriesId, LimitError> {
    let reasons = (!reason.is_empty()).then_some(("reason", reason));
    let labels = Labels::new(std::iter::once((NAME, metric.name)).chain(reasons))
        .expect("the names are constants and short");
    let meta = Meta {
        kind: Kind::Gauge,
        help: metric.help.to_owned(),
    };
    register(&labels, &meta)
}

#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

const UP: Metric = metric(
    "up",
    "1 if the endpoint was scraped, 0 if the scrape was missed",
);
const DURATION: Metric = metric("scrape_duration_seconds", "Duration of the scrape");
const SCRAPED: Metric = metric("scrape_samples_scraped", "Samples on the page");
const RECORDED: Metric = metric(
    "scrape_samples_post_metric_relabeling",
    "Samples of the page that were recorded",
);
const ADDED: Metric = metric(
    "scrape_series_added",
    "Series that the page before did not have",
);
const BODY: Metric = metric("scrape_body_size_bytes", "Uncompressed size of the page");
const REJECTED: Metric = metric(
    "steadfast_scrape_lines_rejected",
    "Rejected lines of the page by reason",
);
const REFUSED: Metric = metric(
    "steadfast_scrape_samples_refused",
    "Samples of the page that were not recorded, by reason",
);
const MISSED: Metric = metric(
    "steadfast_scrape_missed",
    "1 if the scrape was missed, by reason",
);
