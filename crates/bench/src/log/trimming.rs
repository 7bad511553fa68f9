//! The trimming of many events beside a publisher and a subscriber.

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use steadfast_bench::figure::Figures;
use steadfast_streamer::{
    Bounds, Epoch,
    log::{Log as _, LogReader, LogWriter, SegmentLog, StoreOptions, WriterOptions},
};
use tokio::runtime;

use super::{entry, open};

/// Events that are trimmed.
const EVENTS: u64 = 1_000_000;
/// The longest delay that is the goal, in milliseconds.
const GOAL: f64 = 50.0;
/// Interval of the publisher's entries.
const INTERVAL: Duration = Duration::from_millis(2);
/// The longest time for the trimming.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Measures the longest delays of a publisher and of a subscriber while a million events are trimmed.
pub(super) fn run(dir: &Path, figures: &mut Figures) -> Result<()> {
    let dir = dir.join("trimming");
    let mut log = open(&dir)?;
    for start in (1..=EVENTS).step_by(1_000) {
        log.append(
            (start..start + 1_000).map(|it| entry("p", it)).collect(),
            1_000,
        )?;
        log.maintain(1_000)?;
    }
    drop(log);

    let mut options = StoreOptions::new(Epoch(0x5eed));
    options.retention_bytes = Some(1 << 20);
    let start = Instant::now();
    let log = SegmentLog::open(&dir, &options)?;
    let opening = start.elapsed().as_secs_f64() * 1e3;
    figures.put("open_1000000_events", "ms", opening);
    let reader = log.reader();
    let (committed, commits) = mpsc::channel();
    let on_commit = move |events: &[_]| {
        committed.send(events.len()).ok();
    };
    let (started, starts) = mpsc::channel();
    let subscriber = std::thread::spawn({
        let reader = log.reader();
        move || subscribe(&*reader, &commits, &starts)
    });
    let began = Instant::now();
    let writer = LogWriter::spawn(Box::new(log), WriterOptions::default(), on_commit)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let publisher = runtime.block_on(async {
        let mut longest = Duration::ZERO;
        let mut ticks = tokio::time::interval(INTERVAL);
        for sequence in EVENTS + 1.. {
            ticks.tick().await;
            let Bounds { first, .. } = reader.bounds();
            if first >= EVENTS {
                break;
            }
            ensure!(began.elapsed() < TIMEOUT, "trimmed up to {first} only");
            let submitted = Instant::now();
            started.send(submitted)?;
            writer.submit(vec![entry("p", sequence)]).await?;
            longest = longest.max(submitted.elapsed());
        }
        let trimmed = began.elapsed();
        writer.shutdown(Duration::from_secs(10)).await?;
        Ok((longest, trimmed))
    });
    // Also after a failure: the subscriber waits for what was published.
    drop((writer, started));
    let (publisher, trimmed) = publisher?;
    let subscriber = subscriber
        .join()
        .ok()
        .context("the subscriber panicked")??;
    for (name, longest) in [("publisher", publisher), ("subscriber", subscriber)] {
        let name = format!("trim_1000000_events_delay_of_{name}");
        figures.put_less(name, "ms", longest.as_secs_f64() * 1e3, GOAL);
    }
    figures.put("trim_1000000_events", "s", trimmed.as_secs_f64());
    Ok(())
}

/// Reads each event when it is committed. Returns the longest time since an event was published.
fn subscribe(
    reader: &dyn LogReader,
    commits: &mpsc::Receiver<usize>,
    starts: &mpsc::Receiver<Instant>,
) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut after = reader.bounds().head;
    while let Ok(events) = commits.recv() {
        for _ in 0..events {
            let event = reader.read(after, 1, usize::MAX)?;
            after = event.first().context("the event is missing")?.offset;
            longest = longest.max(starts.recv()?.elapsed());
        }
    }
    Ok(longest)
}
