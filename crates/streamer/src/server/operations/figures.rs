//! The figures of a server that are single numbers, for metrics and status alike.

use steadfast_exposition::Kind::{self, Counter, Gauge};

use super::Gathered;
use crate::hub::{Counters, Gauges};

/// A single number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    /// The name, without the prefix and the `_total` of the metric.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) value: u64,
}

const fn gauge(name: &'static str, value: usize, help: &'static str) -> Figure {
    Figure {
        name,
        kind: Gauge,
        help,
        value: value as u64,
    }
}

const fn counter(name: &'static str, value: u64, help: &'static str) -> Figure {
    Figure {
        name,
        kind: Counter,
        help,
        value,
    }
}

/// Returns all figures.
pub(super) fn all(gathered: &Gathered) -> Vec<Figure> {
    [
        &server(gathered)[..],
        &publishing(gathered),
        &streams(&gathered.survey.gauges),
        &subscriptions(&gathered.survey.gauges),
        &stream_totals(&gathered.survey.counters),
        &matching_totals(&gathered.survey.counters),
        &delivery_totals(&gathered.survey.counters),
        &puller(gathered),
    ]
    .concat()
}

fn server(gathered: &Gathered) -> [Figure; 10] {
    let Gathered {
        connections,
        bounds,
        log,
        survey,
        ..
    } = gathered;
    [
        gauge("connections", connections.count(), "Open connections"),
        gauge(
            "connections_limit",
            connections.limit(),
            "Connections that may be open",
        ),
        gauge(
            "unfinished_bytes",
            connections.unfinished_bytes(),
            "Bytes of messages that peers have begun and not finished",
        ),
        gauge(
            "log_head_offset",
            bounds.head as usize,
            "Offset of the newest event",
        ),
        gauge(
            "log_first_offset",
            bounds.first as usize,
            "Offset after which the log begins",
        ),
        gauge(
            "log_bytes",
            log.bytes as usize,
            "Size of the files with events",
        ),
        gauge("log_files", log.files, "Files with events"),
        gauge(
            "log_recovered_records",
            log.recovered as usize,
            "Records read again at the start, which the index did not have",
        ),
        gauge(
            "log_lost_changes",
            log.lost_changes as usize,
            "Changes that damage took from the log, of documents that are unknown",
        ),
        gauge(
            "stream_lag_events_sum",
            survey.lag_sum as usize,
            "Sum of the lags of all streams, in events",
        ),
    ]
}

fn publishing(gathered: &Gathered) -> [Figure; 8] {
    let Gathered {
        writer, publishing, ..
    } = gathered;
    [
        gauge(
            "log_full",
            usize::from(writer.is_full),
            "1 while the disk is full and entries are refused",
        ),
        gauge(
            "log_queued_entries",
            writer.queued_entries,
            "Entries that wait for their commit",
        ),
        gauge(
            "log_queued_bytes",
            writer.queued_bytes,
            "Size of the entries that wait for their commit",
        ),
        gauge(
            "publishers",
            publishing.streams as usize,
            "Open streams of publishers",
        ),
        counter(
            "entries_received",
            publishing.received,
            "Entries received from publishers",
        ),
        counter(
            "entries_appended",
            publishing.appended,
            "Entries of publishers appended to the log",
        ),
        counter(
            "entries_duplicate",
            publishing.duplicates,
            "Entries of publishers that the log had before",
        ),
        counter(
            "entries_refused",
            publishing.refused,
            "Entries of publishers that the log refused",
        ),
    ]
}

fn streams(it: &Gauges) -> [Figure; 10] {
    [
        gauge("streams", it.streams, "Open streams of subscribers"),
        gauge(
            "streams_profile",
            it.profile_streams,
            "Open streams that speak the resume profile",
        ),
        gauge(
            "streams_refused",
            it.refused_streams,
            "Open streams that are being refused",
        ),
        gauge("sessions", it.sessions, "Sessions held by a stream"),
        gauge(
            "queued_bytes",
            it.queued_bytes,
            "Bytes queued for subscribers and not sent",
        ),
        gauge(
            "queued_messages",
            it.queued_messages,
            "Messages queued for subscribers and not sent",
        ),
        gauge(
            "pages",
            it.reads,
            "Pages of the log and of documents being read or matched",
        ),
        gauge(
            "unmatched_events",
            it.unmatched,
            "Committed events in memory that are not matched yet",
        ),
        gauge(
            "overloaded_collections",
            it.overloaded,
            "Collections with more waiting events than fit into memory",
        ),
        gauge("timers", it.timers, "Timers of streams"),
    ]
}

fn subscriptions(it: &Gauges) -> [Figure; 7] {
    [
        gauge("subscriptions", it.subscriptions, "Subscriptions"),
        gauge(
            "subscriptions_document",
            it.document_subscriptions,
            "Subscriptions to one document by its id",
        ),
        gauge(
            "subscriptions_collection",
            it.collection_subscriptions,
            "Subscriptions to a whole collection",
        ),
        gauge(
            "subscriptions_filter",
            it.filter_subscriptions,
            "Subscriptions with other filters",
        ),
        gauge(
            "subscriptions_left",
            it.left_subscriptions,
            "Subscriptions that are told when a document leaves",
        ),
        gauge(
            "subscriptions_snapshot",
            it.snapshot_subscriptions,
            "Subscriptions that asked for a snapshot",
        ),
        gauge(
            "subscriptions_behind",
            it.behind,
            "Subscriptions that read missed events from the log",
        ),
    ]
}

fn stream_totals(it: &Counters) -> [Figure; 10] {
    [
        counter("streams_opened", it.opened, "Streams opened"),
        counter("streams_ended", it.ended, "Streams ended, for any cause"),
        counter(
            "streams_fenced",
            it.fenced,
            "Streams ended because a newer one of the session took over",
        ),
        counter(
            "streams_late",
            it.late,
            "Streams ended because the session had a newer one already",
        ),
        counter(
            "streams_evicted",
            it.evicted,
            "Streams ended because they exceeded a limit",
        ),
        counter(
            "streams_full",
            it.full,
            "Streams ended because the server had too many",
        ),
        counter(
            "streams_silent",
            it.silent,
            "Streams ended because the peer was silent",
        ),
        counter(
            "streams_misused",
            it.misused,
            "Streams ended because the peer broke the protocol",
        ),
        counter("streams_drained", it.drained, "Streams ended by a drain"),
        counter(
            "streams_failed",
            it.failed,
            "Streams ended because the log failed",
        ),
    ]
}

fn matching_totals(it: &Counters) -> [Figure; 10] {
    [
        counter("events", it.events, "Committed events"),
        counter(
            "events_unreadable",
            it.unreadable,
            "Committed events whose data is not a JSON object",
        ),
        counter(
            "candidate_filters",
            it.candidates,
            "Possible matches that were looked up for events",
        ),
        counter(
            "matched_subscriptions",
            it.matched,
            "Subscriptions that committed events matched",
        ),
        counter("match_slices", it.slices, "Slices of matching"),
        counter(
            "match_cost",
            it.match_cost,
            "Cost of matching, in evaluated candidates",
        ),
        counter(
            "overloads",
            it.overloads,
            "Times that waiting events of a collection were left to the log",
        ),
        counter("pages_read", it.pages, "Pages of the log read"),
        counter(
            "page_events",
            it.page_events,
            "Events matched for subscriptions that were behind",
        ),
        counter(
            "read_faults",
            it.read_faults,
            "Reads of the log that failed",
        ),
    ]
}

fn delivery_totals(it: &Counters) -> [Figure; 11] {
    [
        counter(
            "subscriptions_refused",
            it.refused_subscriptions,
            "Subscribe requests refused",
        ),
        counter(
            "principal_subscriptions_refused",
            it.principals_full,
            "Subscribe requests refused because their principal had too many subscriptions",
        ),
        counter(
            "subscriptions_taken_over",
            it.taken_over,
            "Subscriptions moved from an older stream to a newer one",
        ),
        counter(
            "subscriptions_fell_behind",
            it.fell_behind,
            "Times that a subscription fell behind",
        ),
        counter(
            "subscriptions_caught_up",
            it.caught_up,
            "Times that a subscription became live again",
        ),
        counter(
            "resyncs",
            it.resyncs,
            "Times that a subscription lost events and continued at the head",
        ),
        counter("deliveries", it.deliveries, "Deliveries queued"),
        counter(
            "delivered_subscriptions",
            it.delivered_ids,
            "Subscriptions in the deliveries",
        ),
        counter("progress_reports", it.progress, "Progress reports sent"),
        counter(
            "snapshot_documents",
            it.snapshot_documents,
            "Documents of snapshots sent",
        ),
        counter(
            "left",
            it.left,
            "Events sent because their documents may have left the filter",
        ),
    ]
}

fn puller(gathered: &Gathered) -> Vec<Figure> {
    let Some(puller) = &gathered.puller else {
        return Vec::new();
    };
    let connected = puller.link.state == steadfast::session::State::Connected;
    let counters = &puller.counters;
    let dropped = counters.dropped.values().sum();
    vec![
        gauge(
            "puller_connected",
            usize::from(connected),
            "1 while the Puller is connected",
        ),
        gauge(
            "puller_waits_for_space",
            usize::from(counters.waits_for_space),
            "1 while the intake waits for space on the disk",
        ),
        counter(
            "puller_appended",
            counters.appended,
            "Changes of the Puller appended to the log",
        ),
        counter(
            "puller_dropped",
            dropped,
            "Changes of the Puller that are none of a document",
        ),
        counter(
            "puller_refused",
            counters.refused,
            "Changes of the Puller that the log refused",
        ),
        counter(
            "puller_losses",
            counters.losses,
            "Times that the Puller had lost changes",
        ),
    ]
}
