//! Measures the durable append rate of the log on disk, for several commit sizes, and through the
//! writer thread with many submitters.
//!
//! ```text
//! cargo run --release -p steadfast-streamer --example append_rate [DIRECTORY]
//! ```
//!
//! Without a directory it uses the system's temporary one. If that is in memory, the figures are
//! meaningless.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use steadfast_streamer::{
    Epoch,
    log::{DocumentKey, Log, LogWriter, SegmentLog, StoreOptions, Submission, WriterOptions},
};

const PER_ROUND: Duration = Duration::from_secs(4);
/// Number of documents of about 300 bytes; many, so that their table is large.
const DOCUMENTS: u64 = 100_000;
const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor \
    incididunt ut labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation \
    ullamco laboris nisi ut aliquip ex ea commodo consequat.";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn entry(producer: &str, sequence: u64) -> Submission {
    // A multiplicative hash: consecutive entries change documents far apart.
    let document = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) % DOCUMENTS;
    let document = DocumentKey::new("default", "users", format!("user-{document}"));
    let data = format!("{{\"n\":{sequence},\"text\":\"{TEXT}\"}}");
    Submission::new(producer, sequence, document, data)
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

fn open(dir: &Path, name: &str) -> Result<SegmentLog> {
    Ok(SegmentLog::open(
        dir.join(name),
        &StoreOptions::new(Epoch(1)),
    )?)
}

/// Measures commits of this many entries, with maintenance in between as the writer does it.
fn commits_of(dir: &Path, entries: u64) -> Result<()> {
    let mut log = open(dir, &format!("commits-of-{entries}"))?;
    let mut times = Vec::new();
    let mut maintaining = Vec::new();
    let mut sequence = 0;
    let start = Instant::now();
    while start.elapsed() < PER_ROUND {
        let batch = (1..=entries).map(|it| entry("p", sequence + it)).collect();
        sequence += entries;
        let begin = Instant::now();
        log.append(batch, 1_000)?;
        times.push(begin.elapsed());
        let begin = Instant::now();
        log.maintain(1_000)?;
        maintaining.push(begin.elapsed());
    }
    let rate = sequence as f64 / start.elapsed().as_secs_f64();
    println!(
        "{entries:>5} per commit: {rate:>9.0} entries/s, commit p50 {:?} p99 {:?}, maintenance max {:?}",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99),
        percentile(&mut maintaining, 1.0),
    );
    Ok(())
}

/// Measures this many submitters, each with one entry at a time.
async fn submitters(dir: &Path, count: usize) -> Result<()> {
    let log = open(dir, &format!("submitters-{count}"))?;
    let writer = LogWriter::spawn(Box::new(log), WriterOptions::default(), |_| ())?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for submitter in 0..count {
        let writer = writer.clone();
        tasks.spawn(async move {
            let producer = format!("p{submitter}");
            let mut times = Vec::new();
            let mut sequence = 0;
            while start.elapsed() < PER_ROUND {
                sequence += 1;
                let begin = Instant::now();
                if let Err(error) = writer.submit(vec![entry(&producer, sequence)]).await {
                    eprintln!("{producer} stops at {sequence}: {error}");
                    break;
                }
                times.push(begin.elapsed());
            }
            times
        });
    }
    let mut times = tasks.join_all().await.concat();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    println!(
        "{count:>5} submitters: {rate:>9.0} entries/s, acknowledged p50 {:?} p99 {:?}",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99),
    );
    writer.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    for entries in [1, 64, 1_000] {
        commits_of(&dir, entries)?;
    }
    for count in [1, 64, 1_000] {
        submitters(&dir, count).await?;
    }
    Ok(())
}
