//! Reading what was missed: a client that subscribes after the first event of a long log.
//!
//! Servers are separate processes. Each row has the rate by the clock and the CPU time of both sides
//! per event; the baseline of the rate is tonic's generated server and client with the same messages,
//! or reading the log and nothing else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use steadfast_bench::{figure::Figures, measure::load_average};
use steadfast_streamer::{Client, Filter, Item, Position, client::Subscription};
use steadfast_wire::streamer::streamer_message::Payload;
use tokio::{runtime, task::JoinSet, time::timeout};

use crate::streamer::{
    COLLECTION, DATABASE, DOCUMENTS, EPOCH, Kind, PARTS, Process, RawStream, Run, log_events,
};

/// The number of runs of each row; the median counts.
const RUNS: usize = 5;

/// The longest time for one run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The reader of a row.
#[derive(Clone, Copy, Debug)]
enum Reader {
    /// Generated code; our server gives it unlimited credit.
    Generated,
    /// Our client with its default settings and one subscription.
    Client,
    /// Our client with a hundred filtered subscriptions, each for another hundredth of the events.
    Filtered,
}

pub(crate) fn run(quick: bool) -> Result<Figures> {
    let events = if quick { 50_000 } else { 200_000 };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let directory = tempfile::tempdir()?;
    // First, because it writes the log that the server on disk opens below.
    let log_seconds = log_events(directory.path(), events, DOCUMENTS)?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut figures = Figures::new();
    let per_second = |run: Run| events as f64 / run.seconds;

    let raw = Process::start(Kind::Raw, nowhere, events)?;
    let memory = Process::start(Kind::Memory, nowhere, events)?;
    let disk = Process::start(Kind::Disk(directory.path()), nowhere, events)?;
    let rows = [
        ("raw_tonic", &raw, Reader::Generated),
        ("memory_generated_client", &memory, Reader::Generated),
        ("memory_client", &memory, Reader::Client),
        ("memory_100_filters", &memory, Reader::Filtered),
        ("disk_generated_client", &disk, Reader::Generated),
        ("disk_client", &disk, Reader::Client),
    ];
    // In turn, so that a disturbance does not hit one row alone.
    let mut runs = vec![Vec::new(); rows.len()];
    for _ in 0..RUNS {
        for ((_, server, reader), runs) in rows.iter().zip(&mut runs) {
            runs.push(runtime.block_on(measure(server, *reader, events))?);
        }
    }
    let mut baseline = 0.0;
    for ((name, ..), runs) in rows.iter().zip(runs) {
        let run = Run::median(&runs);
        let rate = per_second(run);
        if *name == "raw_tonic" {
            baseline = rate;
        }
        let name = format!("catchup_{name}");
        figures.put_against(&*name, "events/s", rate, (baseline, rate / baseline));
        let mut add = |side, cpu| {
            let each = cpu / events as f64 * 1e9;
            figures.put(format!("{name}_{side}_cpu"), "ns/event", each);
        };
        add("server", run.server_cpu);
        add("client", run.client_cpu);
    }
    figures.put("catchup_log_alone", "events/s", events as f64 / log_seconds);
    figures.put("catchup_load_average", "tasks", load_average()?);
    Ok(figures)
}

async fn measure(server: &Process, reader: Reader, events: u64) -> Result<Run> {
    let began = Run::begin(server)?;
    let address = server.address();
    let reading = async {
        match reader {
            Reader::Generated => read_generated(address, events).await,
            Reader::Client => read_client(address, &[Filter::all()], events).await,
            Reader::Filtered => {
                let filters = (0..PARTS).map(|part| Filter::from_text([format!("part == {part}")]));
                let filters = filters.collect::<Result<Vec<_>, _>>()?;
                read_client(address, &filters, events).await
            }
        }
    };
    timeout(TIMEOUT, reading)
        .await
        .context("a reader is stuck")??;
    began.end(server)
}

async fn read_generated(server: SocketAddr, events: u64) -> Result<()> {
    let mut stream = RawStream::subscribe(server).await?;
    let mut received = 0;
    while received < events {
        if let Payload::Delivery(delivery) = stream.next().await? {
            received += 1;
            let offset = delivery.position.map_or(0, |position| position.offset);
            anyhow::ensure!(offset == received, "event {offset} instead of {received}");
        }
    }
    Ok(())
}

async fn read_client(server: SocketAddr, filters: &[Filter], events: u64) -> Result<()> {
    let client = Client::builder(server.to_string()).build()?;
    // Parts take turns in the log, so that every filter selects the same number.
    let each = events / filters.len() as u64;
    let mut readers = JoinSet::new();
    for filter in filters {
        let subscribe = client
            .subscribe(DATABASE, COLLECTION, filter.clone())
            .after(Position::new(EPOCH, 0));
        readers.spawn(async move { take(subscribe.await?, each).await });
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    client.close().await;
    Ok(())
}

async fn take(mut subscription: Subscription, changes: u64) -> Result<()> {
    let mut last = 0;
    for _ in 0..changes {
        match subscription.next().await.transpose()? {
            Some(Item::Change(change)) => {
                let at = change.position.context("a change without a position")?;
                anyhow::ensure!(at.offset > last, "{} after {last}", at.offset);
                last = at.offset;
            }
            other => bail!("{other:?} instead of a change"),
        }
    }
    Ok(())
}
