//! The snapshot of a large collection for one subscriber.
//!
//! The server is a separate process with its log on disk. The baseline is the same number of messages of
//! tonic's generated server and client.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use steadfast_bench::figure::Figures;
use steadfast_streamer::{Client, Filter, Item, client::Snapshot};
use steadfast_wire::streamer::streamer_message::Payload;
use tokio::{runtime, time::timeout};

use crate::streamer::{COLLECTION, DATABASE, Kind, Process, RawStream, Run, log_events};

/// The number of runs; the median counts.
const RUNS: usize = 3;

/// The longest time for one run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The goal for the documents in a second.
const GOAL: f64 = 200_000.0;

pub(super) fn measure(documents: u64, figures: &mut Figures) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let directory = tempfile::tempdir()?;
    log_events(directory.path(), documents, documents)?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Process::start(Kind::Disk(directory.path()), nowhere, documents)?;
    let raw = Process::start(Kind::Raw, nowhere, documents)?;
    let before = server.memory_mib("VmRSS:")?;
    let (mut ours, mut baseline) = (Vec::new(), Vec::new());
    // In turn, so that a disturbance meets both.
    for _ in 0..RUNS {
        let began = Run::begin(&server)?;
        let reading = read_snapshot(server.address(), documents);
        runtime.block_on(within(reading))?;
        ours.push(began.end(&server)?);
        let began = Run::begin(&raw)?;
        runtime.block_on(within(read_raw(raw.address(), documents)))?;
        baseline.push(began.end(&raw)?);
    }
    let grown = server.memory_mib("VmHWM:")? - before;
    let (ours, baseline) = (Run::median(&ours), Run::median(&baseline));
    let rate = |run: Run| documents as f64 / run.seconds;
    let unit = "documents/s";
    for (name, other) in [
        ("live_snapshot", rate(baseline)),
        ("live_snapshot_goal", GOAL),
    ] {
        figures.put_against(name, unit, rate(ours), (other, rate(ours) / other));
    }
    for (side, cpu) in [("server", ours.server_cpu), ("client", ours.client_cpu)] {
        let each = cpu / documents as f64 * 1e9;
        figures.put(format!("live_snapshot_{side}_cpu"), "ns/document", each);
    }
    figures.put("live_snapshot_server_memory_growth", "MiB", grown);
    Ok(())
}

async fn within(reading: impl Future<Output = Result<()>>) -> Result<()> {
    let read = timeout(TIMEOUT, reading).await;
    read.context("a reader is stuck")?
}

/// Reads a whole snapshot with our client. Each document comes once: in a page, or as a change after the
/// first page.
async fn read_snapshot(server: SocketAddr, documents: u64) -> Result<()> {
    let client = Client::builder(server.to_string()).build()?;
    let subscribe = client.subscribe(DATABASE, COLLECTION, Filter::all());
    let mut subscription = subscribe.with_snapshot().await?;
    let mut received = 0;
    loop {
        match subscription.next().await.transpose()? {
            // The table of documents lags behind the log, and is not waited for.
            Some(Item::Snapshot(Snapshot::Document(_)) | Item::Change(_)) => received += 1,
            Some(Item::Snapshot(Snapshot::End(_))) => break,
            Some(Item::Snapshot(Snapshot::Begin { .. })) => {}
            other => bail!("{other:?} instead of a document"),
        }
    }
    ensure!(
        received == documents,
        "{received} of {documents} documents and changes"
    );
    client.close().await;
    Ok(())
}

async fn read_raw(server: SocketAddr, events: u64) -> Result<()> {
    let mut stream = RawStream::subscribe(server).await?;
    let mut received = 0;
    while received < events {
        if let Payload::Delivery(_) = stream.next().await? {
            received += 1;
        }
    }
    Ok(())
}
