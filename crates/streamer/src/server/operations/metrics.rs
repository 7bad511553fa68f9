//! The page of metrics.

use std::collections::BTreeMap;

use steadfast_exposition::{
    Kind::{Counter, Gauge, Histogram},
    Numbers, Writer,
};
use steadfast_net::{Refusals, Tls};

use super::{Gathered, figures};
use crate::log::Durations;

/// The prefix of all metrics.
const PREFIX: &str = "steadfast_streamer";
/// The longest value of a label, in characters: peers choose the ids of sessions, and filters.
const LABEL_MAX: usize = 64;

/// Returns the page in the text format of Prometheus.
pub(super) fn page(gathered: &Gathered, own: &Refusals) -> String {
    let mut page = Writer::new(Numbers::Plain);
    let build = format!("{PREFIX}_build_info");
    page.family(&build, Gauge, Some("1, with the version of the server"));
    page.sample(&build, [("version", env!("CARGO_PKG_VERSION"))], 1.0, None);
    let uptime = format!("{PREFIX}_uptime_seconds");
    page.family(&uptime, Gauge, Some("Time since the server started"));
    page.sample(&uptime, [], gathered.uptime.as_secs_f64(), None);
    for figure in figures::all(gathered) {
        let total = if figure.kind == Counter { "_total" } else { "" };
        let name = format!("{PREFIX}_{}{total}", figure.name);
        page.family(&name, figure.kind, Some(figure.help));
        page.sample(&name, [], figure.value as f64, None);
    }
    for (name, help, durations) in [
        (
            "log_sync",
            "Durations of syncs of the log",
            &gathered.log.syncs,
        ),
        (
            "log_commit",
            "Durations of commits, syncs included",
            &gathered.writer.commits,
        ),
    ] {
        histogram(&mut page, name, help, durations);
    }
    let refusals = gathered.connections.refusals();
    for (listener, name, refusals) in [
        ("the listener", "refused_total", refusals),
        (
            "the listener for operations",
            "operations_refused_total",
            own,
        ),
    ] {
        let name = format!("{PREFIX}_{name}");
        let help = format!("Connections, requests and messages that {listener} refused, by reason");
        page.family(&name, Counter, Some(&help));
        for (reason, count) in refusals.all() {
            page.sample(&name, [("reason", reason)], count as f64, None);
        }
    }
    streams(&mut page, gathered);
    filters(&mut page, gathered);
    for figure in gathered.tls.iter().flat_map(Tls::figures) {
        let name = format!("{PREFIX}_{}", figure.name);
        let kind = if figure.is_counter { Counter } else { Gauge };
        page.family(&name, kind, Some(figure.help));
        let labels = figure.reason.map(|reason| ("reason", reason));
        page.sample(&name, labels, figure.value, None);
    }
    page.take()
}

fn histogram(page: &mut Writer, name: &str, help: &str, durations: &Durations) {
    let name = format!("{PREFIX}_{name}_seconds");
    page.family(&name, Histogram, Some(help));
    let (bucket, mut count) = (format!("{name}_bucket"), 0);
    for (bound, within) in &durations.buckets {
        count += within;
        let le = bound.map_or("+Inf".to_owned(), |bound| number(bound.as_secs_f64()));
        page.sample(&bucket, [("le", le.as_str())], count as f64, None);
    }
    // A log without files has no buckets, and a histogram must have the last one.
    if durations.buckets.is_empty() {
        page.sample(&bucket, [("le", "+Inf")], 0.0, None);
    }
    page.sample(
        &format!("{name}_sum"),
        [],
        durations.sum.as_secs_f64(),
        None,
    );
    page.sample(&format!("{name}_count"), [], count as f64, None);
}

/// Writes the slowest streams one by one, and the others as sums.
fn streams(page: &mut Writer, gathered: &Gathered) {
    let survey = &gathered.survey;
    let name = format!("{PREFIX}_streams_by_lag");
    let help = "Streams whose lag is at most `le` events, now";
    page.family(&name, Gauge, Some(help));
    let mut count = 0;
    for (bound, streams) in super::report::lag_buckets(survey) {
        count += streams;
        let le = bound.map_or("+Inf".to_owned(), |bound| bound.to_string());
        page.sample(&name, [("le", le.as_str())], count as f64, None);
    }
    let name = format!("{PREFIX}_slow_stream_lag_events");
    let help = "Events between the slowest subscription of a stream and the head, of the slowest \
                streams; stream=\"others\" is the sum of all others";
    page.family(&name, Gauge, Some(help));
    // Streams without a lag are among the slowest if bytes are queued: others each time, with new labels.
    for stream in survey.slowest.iter().filter(|stream| stream.lag > 0) {
        let id = stream.stream.0.to_string();
        let peer = gathered.peers.get(&stream.stream);
        let peer = peer.map(ToString::to_string).unwrap_or_default();
        let session = shortened(stream.session.as_deref().unwrap_or_default());
        let principal = shortened(stream.principal.as_deref().unwrap_or_default());
        let labels = [
            ("stream", id.as_str()),
            ("peer", peer.as_str()),
            ("session", session.as_str()),
            ("principal", principal.as_str()),
        ];
        page.sample(&name, labels, stream.lag as f64, None);
    }
    let (_, lag) = survey.others();
    page.sample(&name, [("stream", "others")], lag as f64, None);
}

/// Writes the filters that use most of the cost of matching.
fn filters(page: &mut Writer, gathered: &Gathered) {
    let name = format!("{PREFIX}_filter_cost_ratio");
    let help = "Share of the most expensive filters in the cost of evaluating all, from 0 to 1; \
                from samples of the last events";
    page.family(&name, Gauge, Some(help));
    // Filters that begin alike are one series: a page must not have one twice.
    let mut shares = BTreeMap::<_, f64>::new();
    for filter in &gathered.survey.expensive {
        let labels = [&filter.database, &filter.collection, &filter.filter];
        *shares.entry(labels.map(|it| shortened(it))).or_default() += filter.cost_share;
    }
    for (labels, share) in &shares {
        let names = ["database", "collection", "filter"].into_iter();
        let labels = names.zip(labels.iter().map(String::as_str));
        page.sample(&name, labels, *share, None);
    }
}

/// Returns the beginning of a text that a peer has chosen.
fn shortened(text: &str) -> String {
    text.chars().take(LABEL_MAX).collect()
}

fn number(value: f64) -> String {
    let mut text = String::new();
    Numbers::Shortest.write(value, &mut text);
    text
}
