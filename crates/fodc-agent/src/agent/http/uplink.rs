//! The uplink on `/readyz` and `/metrics`.

use steadfast_exposition::Kind::{Counter, Gauge};
use steadfast_session::{Cause, State, Status};

use super::exposition::Families;
use crate::uplink::{SourceStatus, Uplink};

/// Returns a line about the part of the uplink that is not connected, if any.
///
/// An agent without its proxy is ready: it records, and a pod must not lose its traffic because a
/// proxy is away.
pub(super) fn problem(uplink: &Uplink) -> String {
    let registration = uplink.status();
    if registration.state != State::Connected {
        // Without a registration there is no metrics stream, and nothing is said about it.
        return format!("not registered with the proxy: {}\n", cause(&registration));
    }
    let metrics = [("metrics", uplink.metrics_status())];
    let sources = uplink.source_streams().iter();
    let sources = sources.map(|source| (source.name, source.current()));
    let streams = metrics.into_iter().chain(sources);
    streams
        .map(|(name, status)| stream_problem(name, status.as_ref()))
        .collect()
}

/// Returns a line about a stream that is not open.
fn stream_problem(name: &str, status: Option<&Status>) -> String {
    match status {
        Some(status) if status.state == State::Connected => String::new(),
        Some(status) => format!("no {name} stream to the proxy: {}\n", cause(status)),
        None => format!("no {name} stream to the proxy yet\n"),
    }
}

fn cause(status: &Status) -> String {
    match &status.cause {
        Cause::Requested => "connecting".to_owned(),
        Cause::Live => "connected".to_owned(),
        Cause::Ended(end) => end.to_string(),
        Cause::PeerDraining(message) => format!("the proxy is stopping: {message}"),
    }
}

/// Adds the uplink's metrics.
pub(super) fn add(families: &mut Families, uplink: &Uplink) {
    let mut put = |name: &str, kind, help: &str, value: u64| {
        let name = format!("steadfast_agent_uplink_{name}");
        families.add((&name, kind, help), [], value as f64, None);
    };
    let is_live = |status: Option<Status>| {
        u64::from(status.is_some_and(|status| status.state == State::Connected))
    };
    put(
        "registered",
        Gauge,
        "1 while the agent is registered with its proxy",
        is_live(Some(uplink.status())),
    );
    put(
        "metrics_stream_open",
        Gauge,
        "1 while the proxy can query the agent",
        is_live(uplink.metrics_status()),
    );
    for (name, help, value) in uplink.counters().all() {
        put(&format!("{name}_total"), Counter, help, value);
    }
    for source in uplink.source_streams() {
        add_source(families, source, is_live(source.current()));
    }
}

/// Adds the metrics of the stream of a source.
fn add_source(families: &mut Families, source: &SourceStatus, is_open: u64) {
    let mut put = |name: &str, kind, help: &str, value: u64| {
        let name = format!("steadfast_agent_uplink_source_{name}");
        let labels = [("stream", source.name)];
        families.add((&name, kind, help), labels, value as f64, None);
    };
    put(
        "open",
        Gauge,
        "1 while the proxy can query the source",
        is_open,
    );
    for (name, help, value) in source.counters.all() {
        put(&format!("{name}_total"), Counter, help, value);
    }
}
