//! The log on disk under `kill -9`: a process appends and prints what was acknowledged, is killed at
//! a random instant, and the log must contain all of it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    path::Path,
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use steadfast_streamer::{
    Epoch, Event,
    log::{
        DocumentKey, Log, LogWriter, OpenError, Outcome, SegmentLog, StoreOptions, Submission,
        WriterOptions,
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, timeout_at},
};

const EPOCH: Epoch = Epoch(0x5eed);
const PRODUCERS: [&str; 3] = ["p0", "p1", "p2"];
const DOCUMENTS: u64 = 40;
const DIR: &str = "STEADFAST_TEST_LOG_DIR";
const CYCLES: usize = 40;

/// Locked while this process has a log open, and while it starts a child. Between fork and exec, a
/// child holds every open file of its parent, and thus the lock of any open log; a test that runs in
/// parallel would find its own log locked.
fn exclusive() -> MutexGuard<'static, ()> {
    static EXCLUSIVE: Mutex<()> = Mutex::new(());
    EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the log, creates it if it does not exist, and closes it.
fn open_and_close(dir: &Path) {
    let _exclusive = exclusive();
    drop(open(dir).unwrap());
}

fn open(dir: &Path) -> Result<SegmentLog, OpenError> {
    SegmentLog::open(dir, &StoreOptions::new(EPOCH))
}

fn entry(producer: &str, sequence: u64) -> Submission {
    let document = DocumentKey::new("default", "users", format!("d{}", sequence % DOCUMENTS));
    let data = format!("{{\"n\":{sequence},\"p\":\"{producer}\"}}");
    Submission::new(producer, sequence, document, data)
}

/// A clock that runs a thousand times as fast, so that documents are written many times a second.
fn fast_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

/// The process that is killed. It ends by itself after 10 s if it is not.
#[tokio::test]
#[ignore = "started by the other test"]
async fn append_until_killed() {
    let dir = std::env::var_os(DIR).unwrap();
    let log = open(Path::new(&dir)).unwrap();
    let lasts = PRODUCERS.map(|producer| log.reader().producer(producer).unwrap().last_sequence);
    let mut options = WriterOptions::default();
    options.clock = fast_clock;
    let writer = LogWriter::spawn(Box::new(log), options, |_| ()).unwrap();
    let mut tasks = JoinSet::new();
    for (producer, last) in PRODUCERS.into_iter().zip(lasts) {
        let writer = writer.clone();
        tasks.spawn(async move {
            let end = Instant::now() + Duration::from_secs(10);
            let mut next = last + 1;
            while Instant::now() < end {
                let count = next % 5 + 1;
                let batch = (next..next + count).map(|it| entry(producer, it)).collect();
                for (sequence, outcome) in (next..).zip(writer.submit(batch).await.unwrap()) {
                    let Outcome::Appended(event) = outcome else {
                        panic!("{outcome:?}");
                    };
                    // The dot marks a line that was printed completely.
                    println!("acknowledged {producer} {sequence} {} .", event.offset);
                }
                next += count;
            }
        });
    }
    tasks.join_all().await;
}

fn start(dir: &Path) -> Child {
    let _exclusive = exclusive();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "append_until_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Producer and sequence of each acknowledged entry, by offset.
type Acknowledged = BTreeMap<u64, (String, u64)>;

/// Collects the output of the process, kills it at `end`, and collects the rest of its output.
async fn listen_and_kill(mut child: Child, end: Duration, acknowledged: &mut Acknowledged) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let end = Instant::now() + end;
    let mut killed = false;
    loop {
        let line = if killed {
            lines.next_line().await
        } else if let Ok(line) = timeout_at(end, lines.next_line()).await {
            line
        } else {
            child.kill().await.unwrap();
            killed = true;
            continue;
        };
        let Some(line) = line.unwrap() else {
            break;
        };
        if let ["acknowledged", producer, sequence, offset, "."] =
            line.split(' ').collect::<Vec<_>>()[..]
        {
            let entry = (producer.to_owned(), sequence.parse().unwrap());
            assert_eq!(acknowledged.insert(offset.parse().unwrap(), entry), None);
        }
    }
    assert!(killed, "the process ended by itself");
}

/// The part of the log that was checked.
#[derive(Default)]
struct Checked {
    head: u64,
    sequences: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
}

impl Checked {
    fn add(&mut self, event: &Event, acknowledged: &Acknowledged) {
        self.head += 1;
        assert_eq!(event.offset, self.head, "no holes");
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        let producer = data["p"].as_str().unwrap().to_owned();
        let sequence = data["n"].as_u64().unwrap();
        if let Some(entry) = acknowledged.get(&event.offset) {
            assert_eq!(
                *entry,
                (producer.clone(), sequence),
                "the acknowledged entry"
            );
        }
        let last = self.sequences.entry(producer).or_default();
        *last += 1;
        assert_eq!(sequence, *last, "each sequence once, in order");
        let version = self
            .versions
            .entry(event.document_id.to_string())
            .or_default();
        *version += 1;
        assert_eq!(
            data["version"].as_u64(),
            Some(*version),
            "versions continue"
        );
    }

    fn check(&mut self, dir: &Path, acknowledged: &Acknowledged) {
        let _exclusive = exclusive();
        let log = open(dir).unwrap();
        assert_eq!(log.epoch(), EPOCH);
        let reader = log.reader();
        loop {
            let events = reader.read(self.head, 1_000, usize::MAX).unwrap();
            if events.is_empty() {
                break;
            }
            for event in events {
                self.add(&event, acknowledged);
            }
        }
        assert_eq!(reader.bounds().head, self.head);
        let newest = acknowledged
            .last_key_value()
            .map_or(0, |(offset, _)| *offset);
        assert!(
            newest <= self.head,
            "offset {newest} was acknowledged, the head is {}",
            self.head
        );
        for producer in PRODUCERS {
            let expected = self.sequences.get(producer).copied().unwrap_or(0);
            assert_eq!(
                log.reader().producer(producer).unwrap().last_sequence,
                expected
            );
        }
    }
}

#[tokio::test]
async fn acknowledged_entries_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    open_and_close(dir);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut acknowledged = Acknowledged::new();
    let mut checked = Checked::default();
    let mut cycles_that_wrote = 0;
    for _ in 0..CYCLES {
        let before = acknowledged.len();
        let life = Duration::from_micros(rng.random_range(5_000..350_000));
        listen_and_kill(start(dir), life, &mut acknowledged).await;
        checked.check(dir, &acknowledged);
        cycles_that_wrote += usize::from(acknowledged.len() > before);
    }
    assert!(
        cycles_that_wrote > CYCLES / 2,
        "only {cycles_that_wrote} cycles wrote"
    );
    println!(
        "{CYCLES} kills, {} entries acknowledged, {} in the log",
        acknowledged.len(),
        checked.head
    );
    // Earlier events must still be the same.
    Checked::default().check(dir, &acknowledged);
}

#[tokio::test]
async fn log_is_locked_against_a_second_process() {
    let dir = tempfile::tempdir().unwrap();
    open_and_close(dir.path());
    let mut child = start(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.starts_with("acknowledged") {
            break;
        }
    }
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    child.kill().await.unwrap();
    open_and_close(dir.path());
}
