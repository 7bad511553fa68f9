//! What the agent says about reading an endpoint, as series of the record.

use std::{collections::HashMap, time::Duration};

use steadfast_exposition::Summary;
use steadfast_recorder::{Kind, Labels, LimitError, Meta, NAME, Recorder, SeriesId, SourceId};

use crate::scrape::Miss;

/// What is said about one reading.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) duration: Duration,
    /// What the page came to, or why there is none.
    pub(super) page: Result<&'a Totals, &'a Miss>,
}

/// What a page came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) summary: Summary,
    pub(super) recorded: u64,
    pub(super) added: u64,
    pub(super) duplicates: u64,
    /// Samples of late series that the record had no room for.
    pub(super) no_room: u64,
    /// Samples of series that the record had taken back.
    pub(super) stale: u64,
}

impl Totals {
    /// Samples for which the record had no room.
    pub(super) fn without_room(&self) -> u64 {
        self.summary.refused.budget + self.no_room
    }
}

/// The series of one endpoint's health. Names are Prometheus's where it has one.
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

    pub(super) fn source(&self) -> SourceId {
        self.source
    }

    /// The values of one reading. Refused ones are left out: the record is full to its last byte.
    pub(super) fn values(
        &mut self,
        recorder: &mut Recorder,
        report: &Report<'_>,
    ) -> Vec<(SeriesId, f64)> {
        let mut values = Vec::new();
        let mut put = |metric: &Metric, reason: &'static str, value: f64| {
            if let Ok(series) = self.series(recorder, metric, reason) {
                values.push((series, value));
            }
        };
        put(&UP, "", f64::from(u8::from(report.page.is_ok())));
        put(&DURATION, "", report.duration.as_secs_f64());
        match report.page {
            Ok(totals) => {
                let summary = &totals.summary;
                let found = summary.samples + summary.refused.total();
                put(&SCRAPED, "", found as f64);
                put(&RECORDED, "", totals.recorded as f64);
                put(&ADDED, "", totals.added as f64);
                put(&BODY, "", totals.bytes as f64);
                for (reason, count) in summary.rejected.iter() {
                    put(&REJECTED, reason.word(), count as f64);
                }
                for (reason, count) in refusals(totals) {
                    if count > 0 {
                        put(&REFUSED, reason, count as f64);
                    }
                }
            }
            Err(miss) => {
                for metric in [&SCRAPED, &RECORDED, &ADDED] {
                    put(metric, "", 0.0);
                }
                put(&MISSED, miss.word(), 1.0);
            }
        }
        values
    }

    fn series(
        &mut self,
        recorder: &mut Recorder,
        metric: &Metric,
        reason: &'static str,
    ) -> Result<SeriesId, LimitError> {
        if let Some(series) = self.series.get(&(metric.name, reason)) {
            return Ok(*series);
        }
        let reasons = (!reason.is_empty()).then_some(("reason", reason));
        let labels = Labels::new(std::iter::once((NAME, metric.name)).chain(reasons))
            .expect("the names are constants and short");
        let meta = Meta {
            kind: Kind::Gauge,
            help: metric.help.to_owned(),
        };
        let series = recorder.series(self.source, &labels, &meta)?;
        self.series.insert((metric.name, reason), series);
        Ok(series)
    }
}

/// Samples that stood on a page and are not recorded, by reason.
pub(super) fn refusals(totals: &Totals) -> [(&'static str, u64); 5] {
    let refused = &totals.summary.refused;
    [
        ("budget", totals.without_room()),
        ("series_limit", refused.series_limit),
        ("labels_too_long", refused.unwanted),
        ("duplicate", totals.duplicates),
        ("stale", totals.stale),
    ]
}

struct Metric {
    name: &'static str,
    help: &'static str,
}

const UP: Metric = Metric {
    name: "up",
    help: "1 if the endpoint was read, 0 if the reading was missed",
};
const DURATION: Metric = Metric {
    name: "scrape_duration_seconds",
    help: "How long the reading took",
};
const SCRAPED: Metric = Metric {
    name: "scrape_samples_scraped",
    help: "Samples that stood on the page",
};
const RECORDED: Metric = Metric {
    name: "scrape_samples_post_metric_relabeling",
    help: "Samples of the page that were recorded",
};
const ADDED: Metric = Metric {
    name: "scrape_series_added",
    help: "Series that the page before did not have",
};
const BODY: Metric = Metric {
    name: "scrape_body_size_bytes",
    help: "Bytes of the page, unpacked",
};
const REJECTED: Metric = Metric {
    name: "steadfast_scrape_lines_rejected",
    help: "Lines of the page that were not taken, by reason",
};
const REFUSED: Metric = Metric {
    name: "steadfast_scrape_samples_refused",
    help: "Samples of the page that were not recorded, by reason",
};
const MISSED: Metric = Metric {
    name: "steadfast_scrape_missed",
    help: "1 if the reading was missed, by reason",
};
