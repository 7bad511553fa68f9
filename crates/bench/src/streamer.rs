//! What the measurements of the Streamer share: servers in separate processes, and clients without our
//! client's code.

mod process;
mod raw;

use std::time::Instant;

use anyhow::Result;
use steadfast_bench::measure::{median, process_cpu_time};
use steadfast_streamer::Epoch;

pub(crate) use self::{
    process::{DOCUMENTS, Kind, Process, log_events, serve},
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

/// The time and the CPU time of both sides of one run, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) server_cpu: f64,
    pub(crate) client_cpu: f64,
}

/// The beginning of a run.
pub(crate) struct Began {
    server_cpu: f64,
    client_cpu: f64,
    at: Instant,
}

impl Run {
    pub(crate) fn begin(server: &Process) -> Result<Began> {
        Ok(Began {
            server_cpu: server.cpu_seconds()?,
            client_cpu: process_cpu_time(),
            at: Instant::now(),
        })
    }

    /// Returns the median of each quantity.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let of = |key: fn(&Self) -> f64| median(runs.iter().map(key));
        Self {
            seconds: of(|run| run.seconds),
            server_cpu: of(|run| run.server_cpu),
            client_cpu: of(|run| run.client_cpu),
        }
    }
}

impl Began {
    /// Ends the run. The server is the one with which it began.
    pub(crate) fn end(&self, server: &Process) -> Result<Run> {
        Ok(Run {
            seconds: self.at.elapsed().as_secs_f64(),
            server_cpu: server.cpu_seconds()? - self.server_cpu,
            client_cpu: process_cpu_time() - self.client_cpu,
        })
    }
}
