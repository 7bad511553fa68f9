//! The file-backed log under `kill -9`: a process appends and says what was acknowledged, is killed
//! at any instant, and the log must have all of it.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use steadfast_streamer::{
    Epoch, Event,
    log::{Log, LogWriter, OpenError, Outcome, RedbLog, StoreOptions, Submission, WriterOptions},
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

/// Held while this process has a log open, and while it starts another process. Between its birth and
/// its program a child holds every file of its parent, and with a log's file the lock on it; a test
/// beside this one would find its own log locked.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the log, makes it if it is not there, and closes it.
fn open_and_close(dir: &Path) {
    let _alone = alone();
    drop(open(dir).unwrap());
}

fn open(dir: &Path) -> Result<RedbLog, OpenError> {
    RedbLog::open(dir, &StoreOptions::new(EPOCH))
}

fn entry(producer: &str, sequence: u64) -> Submission {
    Submission {
        producer: producer.into(),
        sequence,
        database: "default".into(),
        collection: "users".into(),
        document_id: format!("d{}", sequence % DOCUMENTS).into(),
        operation: None,
        data: Bytes::from(format!("{{\"n\":{sequence},\"p\":\"{producer}\"}}")),
        origin: None,
    }
}

/// A clock a thousand times as fast, so that documents are written many times a second.
fn fast_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

/// The process that is killed. It ends by itself after a while, in case nobody does.
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
                    // The dot tells a whole line from one that was cut off.
                    println!("acknowledged {producer} {sequence} {} .", event.offset);
                }
                next += count;
            }
        });
    }
    tasks.join_all().await;
}

fn start(dir: &Path) -> Child {
    let _alone = alone();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "append_until_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What was acknowledged, by offset.
type Acknowledged = BTreeMap<u64, (String, u64)>;

/// Collects what the process says, kills it at `end`, and takes the rest of what it said.
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
            let said = (producer.to_owned(), sequence.parse().unwrap());
            assert_eq!(acknowledged.insert(offset.parse().unwrap(), said), None);
        }
    }
    assert!(killed, "the process ended by itself");
}

/// What the checks so far have seen of the log.
#[derive(Default)]
struct Seen {
    head: u64,
    sequences: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
}

impl Seen {
    fn take(&mut self, event: &Event, acknowledged: &Acknowledged) {
        self.head += 1;
        assert_eq!(event.offset, self.head, "no holes");
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        let producer = data["p"].as_str().unwrap().to_owned();
        let sequence = data["n"].as_u64().unwrap();
        if let Some(said) = acknowledged.get(&event.offset) {
            assert_eq!(
                *said,
                (producer.clone(), sequence),
                "it is what was acknowledged"
            );
        }
        let last = self.sequences.entry(producer).or_default();
        *last += 1;
        assert_eq!(sequence, *last, "every sequence once and in order");
        let version = self
            .versions
            .entry(event.document_id.to_string())
            .or_default();
        *version += 1;
        assert_eq!(
            data["version"].as_u64(),
            Some(*version),
            "versions count on"
        );
    }

    fn check(&mut self, dir: &Path, acknowledged: &Acknowledged) {
        let _alone = alone();
        let log = open(dir).unwrap();
        assert_eq!(log.epoch(), EPOCH);
        let reader = log.reader();
        loop {
            let events = reader.read(self.head, 1_000, usize::MAX).unwrap();
            if events.is_empty() {
                break;
            }
            for event in events {
                self.take(&event, acknowledged);
            }
        }
        assert_eq!(reader.bounds().head, self.head);
        let newest = acknowledged
            .last_key_value()
            .map_or(0, |(offset, _)| *offset);
        assert!(
            newest <= self.head,
            "{newest} was acknowledged, {} is the last",
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
async fn everything_acknowledged_survives_kill_9_at_any_instant() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    open_and_close(dir);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut acknowledged = Acknowledged::new();
    let mut seen = Seen::default();
    let mut cycles_with_news = 0;
    for _ in 0..CYCLES {
        let before = acknowledged.len();
        let life = Duration::from_micros(rng.random_range(5_000..350_000));
        listen_and_kill(start(dir), life, &mut acknowledged).await;
        seen.check(dir, &acknowledged);
        cycles_with_news += usize::from(acknowledged.len() > before);
    }
    assert!(
        cycles_with_news > CYCLES / 2,
        "only {cycles_with_news} cycles wrote"
    );
    println!(
        "{CYCLES} kills, {} entries acknowledged, {} in the log",
        acknowledged.len(),
        seen.head
    );
    // All of it once more, by eyes that saw nothing yet.
    Seen::default().check(dir, &acknowledged);
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
