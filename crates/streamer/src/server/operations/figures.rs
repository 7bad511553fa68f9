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
        &hub_now(&gathered.survey.gauges),
        &hub_totals(&gathered.survey.counters),
        &puller(gathered),
    ]
    .concat()
}

fn server(gathered: &Gathered) -> [Figure; 16] {
    let Gathered {
        connections,
        bounds,
        log,
        writer,
        publishing,
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
            "Records that were read at the start because the index did not have them",
        ),
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
        gauge(
            "stream_lag_events_sum",
            survey.lag_sum as usize,
            "Sum of the lags of all streams, in events",
        ),
    ]
}

fn hub_now(gauges: &Gauges) -> [Figure; 17] {
    let Gauges {
        streams,
        profile_streams,
        refused_streams,
        sessions,
        subscriptions,
        document_subscriptions,
        collection_subscriptions,
        filter_subscriptions,
        left_subscriptions,
        snapshot_subscriptions,
        behind,
        queued_bytes,
        queued_messages,
        reads,
        unmatched,
        overloaded,
        timers,
        ..
    } = *gauges;
    [
        gauge("streams", streams, "Open streams of subscribers"),
        gauge(
            "streams_profile",
            profile_streams,
            "Open streams that speak the resume profile",
        ),
        gauge(
            "streams_refused",
            refused_streams,
            "Open streams that are being refused",
        ),
        gauge("sessions", sessions, "Sessions held by a stream"),
        gauge("subscriptions", subscriptions, "Subscriptions"),
        gauge(
            "subscriptions_document",
            document_subscriptions,
            "Subscriptions to one document by its id",
        ),
        gauge(
            "subscriptions_collection",
            collection_subscriptions,
            "Subscriptions to a whole collection",
        ),
        gauge(
            "subscriptions_filter",
            filter_subscriptions,
            "Subscriptions with other filters",
        ),
        gauge(
            "subscriptions_left",
            left_subscriptions,
            "Subscriptions that are told when a document leaves",
        ),
        gauge(
            "subscriptions_snapshot",
            snapshot_subscriptions,
            "Subscriptions that asked for a snapshot",
        ),
        gauge(
            "subscriptions_behind",
            behind,
            "Subscriptions that read missed events from the log",
        ),
        gauge(
            "queued_bytes",
            queued_bytes,
            "Bytes queued for subscribers and not sent",
        ),
        gauge(
            "queued_messages",
            queued_messages,
            "Messages queued for subscribers and not sent",
        ),
        gauge(
            "pages",
            reads,
            "Pages of the log and of documents being read or matched",
        ),
        gauge(
            "unmatched_events",
            unmatched,
            "Committed events in memory that are not matched yet",
        ),
        gauge(
            "overloaded_collections",
            overloaded,
            "Collections of which more events wait than fit into memory",
        ),
        gauge("timers", timers, "Timers of streams"),
    ]
}

fn hub_totals(counters: &Counters) -> [Figure; 30] {
    let c = counters;
    [
        counter("streams_opened", c.opened, "Streams opened"),
        counter("streams_ended", c.ended, "Streams ended, for any cause"),
        counter(
            "streams_fenced",
            c.fenced,
            "Streams ended because a newer one of the session took over",
        ),
        counter(
            "streams_late",
            c.late,
            "Streams ended because the session had a newer one already",
        ),
        counter(
            "streams_evicted",
            c.evicted,
            "Streams ended because they exceeded a limit",
        ),
        counter(
            "streams_full",
            c.full,
            "Streams ended because the server had too many",
        ),
        counter(
            "streams_silent",
            c.silent,
            "Streams ended because the peer was silent",
        ),
        counter(
            "streams_misused",
            c.misused,
            "Streams ended because the peer broke the protocol",
        ),
        counter("streams_drained", c.drained, "Streams ended by a drain"),
        counter(
            "streams_failed",
            c.failed,
            "Streams ended because the log failed",
        ),
        counter(
            "subscriptions_refused",
            c.refused_subscriptions,
            "Subscribe requests refused",
        ),
        counter(
            "subscriptions_taken_over",
            c.taken_over,
            "Subscriptions moved from an older stream to a newer one",
        ),
        counter(
            "subscriptions_fell_behind",
            c.fell_behind,
            "Times that a subscription fell behind",
        ),
        counter(
            "subscriptions_caught_up",
            c.caught_up,
            "Times that a subscription became live again",
        ),
        counter(
            "resyncs",
            c.resyncs,
            "Times that a subscription lost events and continued at the head",
        ),
        counter("events", c.events, "Committed events"),
        counter(
            "events_unreadable",
            c.unreadable,
            "Committed events whose data is not a JSON object",
        ),
        counter(
            "candidate_filters",
            c.candidates,
            "Filters looked up as possible matches of committed events",
        ),
        counter(
            "matched_subscriptions",
            c.matched,
            "Subscriptions that committed events matched",
        ),
        counter("match_slices", c.slices, "Slices of matching"),
        counter(
            "match_cost",
            c.match_cost,
            "Cost of matching, in evaluated candidates",
        ),
        counter(
            "overloads",
            c.overloads,
            "Times that the waiting events of a collection were left to the log",
        ),
        counter("deliveries", c.deliveries, "Deliveries queued"),
        counter(
            "delivered_subscriptions",
            c.delivered_ids,
            "Subscriptions in the deliveries",
        ),
        counter("progress_reports", c.progress, "Progress reports sent"),
        counter("pages_read", c.pages, "Pages of the log read"),
        counter(
            "page_events",
            c.page_events,
            "Events matched for subscriptions that were behind",
        ),
        counter("read_faults", c.read_faults, "Reads of the log that failed"),
        counter(
            "snapshot_documents",
            c.snapshot_documents,
            "Documents of snapshots sent",
        ),
        counter(
            "left",
            c.left,
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
