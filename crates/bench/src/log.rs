//! The log on disk: commits beside the disk's own syncs, CPU time, bytes written, recovery, and trimming.

mod reopening;
mod steady;
mod trimming;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steadfast_bench::{
    figure::Figures,
    measure::{load_average, median, process_cpu_time},
};
use steadfast_streamer::{
    Epoch,
    log::{DocumentKey, Log as _, LogWriter, SegmentLog, StoreOptions, Submission, WriterOptions},
};

/// Commits of one document and syncs of the disk are measured in turns of this many.
const TURN: usize = 50;
const TURNS: usize = 16;
/// Concurrent publishers, each with one document in flight.
const PUBLISHERS: usize = 64;
/// Documents of different ids.
const DOCUMENTS: u64 = 200_000;
/// Size of a document's content, in bytes.
const DOCUMENT_BYTES: usize = 200;

/// Measures the log in a temporary directory.
pub(crate) fn run() -> Result<Figures> {
    let dir = tempfile::tempdir()?;
    let mut figures = Figures::new();
    single(dir.path(), &mut figures)?;
    concurrent(dir.path(), &mut figures)?;
    batches(dir.path(), &mut figures)?;
    steady::run(dir.path(), &mut figures)?;
    reopening::run(dir.path(), &mut figures)?;
    trimming::run(dir.path(), &mut figures)?;
    figures.put("load_average", "tasks", load_average()?);
    Ok(figures)
}

fn open(dir: &Path) -> Result<SegmentLog> {
    // The epoch is also the salt of the checksums; each measurement has a log of its own.
    Ok(SegmentLog::open(dir, &StoreOptions::new(Epoch(0x5eed)))?)
}

fn entry(producer: &str, sequence: u64) -> Submission {
    sized_entry(producer, sequence, DOCUMENT_BYTES)
}

fn sized_entry(producer: &str, sequence: u64, bytes: usize) -> Submission {
    let document = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) % DOCUMENTS;
    let key = DocumentKey::new("default", "users", format!("user-{document}"));
    let text = "x".repeat(bytes - 30);
    Submission::new(
        producer,
        sequence,
        key,
        format!("{{\"n\":{sequence:>10},\"text\":\"{text}\"}}"),
    )
}

/// One publisher beside the syncs of a file whose blocks are allocated.
fn single(dir: &Path, figures: &mut Figures) -> Result<()> {
    let mut log = open(&dir.join("single"))?;
    let file = allocated(&dir.join("sync"))?;
    let (mut sequence, mut at) = (0, 0);
    let (mut ours, mut disk) = (Vec::new(), Vec::new());
    let written = bytes_written()?;
    let mut published = 0;
    let mut synced = 0;
    for _ in 0..TURNS {
        let start = Instant::now();
        for _ in 0..TURN {
            sequence += 1;
            let entry = entry("p", sequence);
            published += entry.weight() as u64;
            log.append(vec![entry], 1_000)?;
        }
        ours.push(start.elapsed());
        let start = Instant::now();
        for _ in 0..TURN {
            file.write_all_at(&[0xa5; 512], at)?;
            file.sync_data()?;
            at += 512;
            synced += 512;
        }
        disk.push(start.elapsed());
    }
    // The system counts for the whole process, and the baseline writes as well.
    let written = (bytes_written()? - written).saturating_sub(synced);
    let rate = |turn: &Duration| TURN as f64 / turn.as_secs_f64();
    let ratios = ours
        .iter()
        .zip(&disk)
        .map(|(ours, disk)| rate(ours) / rate(disk));
    let ratio = median(ratios);
    let ours = median(ours.iter().map(rate));
    let disk = median(disk.iter().map(rate));
    figures.put_against("publish_one_publisher", "1/s", ours, (disk, ratio));
    figures.put(
        "written_per_byte_one_publisher",
        "bytes",
        written as f64 / published as f64,
    );
    Ok(())
}

/// Many publishers: documents per second, and CPU time per document, index included.
fn concurrent(dir: &Path, figures: &mut Figures) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;
    let log = open(&dir.join("concurrent"))?;
    let writer = LogWriter::spawn(Box::new(log), WriterOptions::default(), |_| ())?;
    // Made beforehand: only publishing is measured.
    let entries: Vec<Vec<_>> = (0..PUBLISHERS)
        .map(|publisher| {
            let producer = format!("p{publisher}");
            (1..=2_000)
                .map(|sequence| entry(&producer, sequence))
                .collect()
        })
        .collect();
    let (start, cpu) = (Instant::now(), process_cpu_time());
    let documents = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for entries in entries {
            let writer = writer.clone();
            tasks.spawn(async move {
                let mut done = 0;
                for entry in entries {
                    if start.elapsed() > Duration::from_secs(10) {
                        break;
                    }
                    writer.submit(vec![entry]).await?;
                    done += 1;
                }
                Ok(done)
            });
        }
        let done: Result<Vec<u64>> = tasks.join_all().await.into_iter().collect();
        done.map(|done| done.iter().sum::<u64>())
    })?;
    let (passed, cpu) = (start.elapsed(), process_cpu_time() - cpu);
    runtime.block_on(writer.shutdown(Duration::from_secs(10)))?;
    figures.put(
        "publish_64_publishers",
        "1/s",
        documents as f64 / passed.as_secs_f64(),
    );
    let micros = cpu * 1e6 / documents as f64;
    figures.put("cpu_per_document_64_publishers", "us", micros);
    Ok(())
}

/// Commits of 64 documents, with the maintenance that a writer does.
fn batches(dir: &Path, figures: &mut Figures) -> Result<()> {
    let mut log = open(&dir.join("batches"))?;
    let (mut sequence, mut published) = (0, 0);
    let (mut commits, mut all) = (0, 0);
    for round in 0..400 {
        let batch: Vec<_> = (1..=64).map(|it| entry("p", sequence + it)).collect();
        sequence += 64;
        published += batch.iter().map(|entry| entry.weight() as u64).sum::<u64>();
        let before = bytes_written()?;
        log.append(batch, 1_000 + round)?;
        let after = bytes_written()?;
        log.maintain(1_000 + round)?;
        commits += after - before;
        all += bytes_written()? - before;
    }
    figures.put(
        "written_per_byte_batches",
        "bytes",
        commits as f64 / published as f64,
    );
    figures.put(
        "written_per_byte_with_index",
        "bytes",
        all as f64 / published as f64,
    );
    Ok(())
}

fn allocated(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 16 << 20)?;
    file.sync_all()?;
    Ok(file)
}

/// Returns the bytes that this process has passed to the system's writes.
fn bytes_written() -> Result<u64> {
    let counters = fs::read_to_string("/proc/self/io")?;
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "));
    Ok(line.context("/proc/self/io has no wchar")?.parse()?)
}
