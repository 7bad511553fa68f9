//! What the measurements of the Streamer share: servers in separate processes, and clients without our
//! client's code.

mod process;
mod raw;

use steadfast_streamer::Epoch;

pub(crate) use self::{
    process::{Kind, Process, log_events, serve},
    raw::RawStream,
};

/// The epoch of every log.
pub(crate) const EPOCH: Epoch = Epoch(0x5eed);

/// The database and the collection of every event.
pub(crate) const DATABASE: &str = "default";
pub(crate) const COLLECTION: &str = "orders";

/// Events are spread over so many values of the field `part`.
pub(crate) const PARTS: u64 = 100;

/// Returns the data of the event at an offset: about 200 bytes with its names.
pub(crate) fn data(offset: u64) -> String {
    let part = offset % PARTS;
    let padding = "x".repeat(128);
    format!(r#"{{"part":{part},"n":{offset},"text":"{padding}"}}"#)
}

/// Returns the 1-minute load average, for people who read the figures.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
