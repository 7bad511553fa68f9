//! The snapshot of a large collection for one subscriber.
//!
//! The server is a separate process with its log on disk. The baseline is the same number of messages of
//! tonic's generated server and client.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
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
    for _ in 0..RUNS {
        let began = Run::begin(&server)?;
        let reading = read_snapshot(server.address(), documents);
        runtime
            .block_on(async { timeout(TIMEOUT, reading).await })
            .context("the subscriber is stuck")??;
        ours.push(began.end(&server)?);
        let began = Run::begin(&raw)?;
        let reading = read_raw(raw.address(), documents);
        runtime
            .block_on(async { timeout(TIMEOUT, reading).await })
            .context("the reader is stuck")??;
        baseline.push(began.end(&raw)?);
    }
    let grown = server.memory_mib("VmHWM:")? - before;
    let (ours, baseline) = (Run::median(&ours), Run::median(&baseline));
    let rate = |run: Run| documents as f64 / run.seconds;
    let ratio = rate(ours) / rate(baseline);
    let against = (rate(baseline), ratio);
    figures.put_against("live_snapshot", "documents/s", rate(ours), against);
    figures.put_against(
        "live_snapshot_goal",
        "documents/s",
        rate(ours),
        (GOAL, rate(ours) / GOAL),
    );
    for (side, cpu) in [("server", ours.server_cpu), ("client", ours.client_cpu)] {
        let each = cpu / documents as f64 * 1e9;
        figures.put(format!("live_snapshot_{side}_cpu"), "ns/document", each);
    }
    figures.put("live_snapshot_server_memory_growth", "MiB", grown);
    Ok(())
}

/// Reads a whole snapshot with our client.
async fn read_snapshot(server: SocketAddr, documents: u64) -> Result<()> {
    let client = Client::builder(server.to_string()).build()?;
    let subscribe = client.subscribe(DATABASE, COLLECTION, Filter::all());
    let mut subscription = subscribe.with_snapshot().await?;
    let mut received = 0;
    loop {
        match subscription.next().await.transpose()? {
            Some(Item::Snapshot(Snapshot::Document(_))) => received += 1,
            Some(Item::Snapshot(Snapshot::End(_))) => break,
            Some(Item::Snapshot(Snapshot::Begin)) => {}
            other => bail!("{other:?} instead of a document"),
        }
    }
    anyhow::ensure!(received == documents, "{received} of {documents} documents");
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
