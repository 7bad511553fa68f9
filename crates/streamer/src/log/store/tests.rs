mod damage;
mod failures;

use std::{fs, ops::RangeInclusive, path::Path, sync::Arc};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{ReadableTable, WriteTransaction};

use super::{
    conversion::EVENTS,
    disk::Directory,
    engine::{FORMAT, META, TERMS, set_number},
    head::{HEAD_FILE, KnownHead},
    open::OpenFailure,
    segment::RECORDS,
    simulated_disk::{Disk, INDEX, SegmentDisk},
    *,
};
use crate::{
    Event, Position, Previous,
    log::{DocumentPage, DocumentQuery, Outcome, PRODUCER_LIFETIME_MS, Submission, with_sources},
};

const EPOCH_7: Epoch = Epoch(7);

fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1 << 20,
        // So small that every test has several.
        segment_bytes: 8 << 10,
        ..StoreOptions::new(EPOCH_7)
    }
}

fn entry(sequence: u64) -> Submission {
    let document = DocumentKey::new("default", "users", format!("d{}", sequence % 7));
    let text = "x".repeat(100);
    let data = format!("{{\"n\":{sequence},\"text\":\"{text}\"}}");
    Submission::new("p", sequence, document, data)
}

/// Opens the log on a disk; creates it if the disk is empty.
fn open_on(disk: &Disk, options: &StoreOptions) -> Result<SegmentLog, OpenFailure> {
    simulation::open_on(disk, options, tempfile::tempfile().unwrap())
}

fn read_all(log: &SegmentLog) -> Vec<Arc<Event>> {
    let reader = log.reader();
    let first = reader.bounds().first;
    reader.read(first, usize::MAX, usize::MAX).unwrap()
}

/// Creates a log on a new disk.
fn new_log(options: &StoreOptions) -> SegmentLog {
    open_on(&Disk::default(), options).unwrap()
}

/// Appends entries in batches of `batch`, the last one included.
fn fill(log: &mut SegmentLog, sequences: RangeInclusive<u64>, batch: usize) {
    let sequences: Vec<_> = sequences.collect();
    for batch in sequences.chunks(batch) {
        log.append(batch.iter().copied().map(entry).collect(), 1)
            .unwrap();
    }
}

/// Maintains the log until no work is due.
fn maintain(log: &mut SegmentLog, now_ms: i64) {
    while log.maintain(now_ms).unwrap() {}
}

fn documents(log: &SegmentLog) -> Result<DocumentPage, LogError> {
    log.reader().documents(DocumentQuery::all("default"))
}

/// Returns the size of the events that the log holds, and of the records between them.
fn held_bytes(log: &SegmentLog) -> u64 {
    let Bounds { first, head } = log.reader().bounds();
    let mut held = 0;
    let segments = &log.shared.segments;
    segments
        .visit(first, head, |visited| {
            let segments::Visited::Event(_, bytes_before) = visited else {
                panic!("{visited:?}");
            };
            held = log.appender.bytes() - bytes_before;
            false
        })
        .unwrap();
    held
}

#[test]
fn documents_are_read_while_the_log_is_trimmed() {
    let mut log = new_log(&options());
    fill(&mut log, 1..=50, 10);
    maintain(&mut log, 20_000);
    let reader = log.reader();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reading = std::thread::spawn(move || {
        let mut pages = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let page = reader.documents(DocumentQuery::all("default")).unwrap();
            assert_eq!(page.documents.len(), 7);
            pages += 1;
        }
        pages
    });
    for round in 1..=150 {
        fill(&mut log, round * 50 + 1..=round * 50 + 50, 10);
        log.trim(round * 50 + 45).unwrap();
    }
    drop(stop);
    assert!(reading.join().unwrap() > 50);
}

/// Creates a log, changes its tables, and returns the error of reopening it.
fn reopen_changed(change: impl FnOnce(&WriteTransaction)) -> OpenError {
    let dir = tempfile::tempdir().unwrap();
    drop(SegmentLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
    drop(database);
    SegmentLog::open(dir.path(), &options()).unwrap_err()
}

/// Asserts that the error names a removed file, and that the log has stopped.
fn check_stopped_by_removal(log: &mut SegmentLog, error: &LogError, name: &str) {
    let text = with_sources(error);
    assert!(text.contains(name), "{text}");
    assert!(matches!(
        log.append(vec![entry(4)], 1),
        Err(LogError::Stopped { .. })
    ));
}

#[test]
fn restored_copy_refuses_positions_after_it_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let [original, copy] = ["original", "copy"].map(|name| dir.path().join(name));
    let open = |path: &Path, id| SegmentLog::open(path, &StoreOptions::new(Epoch(id))).unwrap();
    let mut log = open(&original, 1);
    fill(&mut log, 1..=10, 10);
    drop(log);
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(&original).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let mut log = open(&original, 2);
    fill(&mut log, 11..=20, 10);
    drop(log);

    let mut log = open(&copy, 3);
    fill(&mut log, 11..=25, 15);
    let terms = log.reader().terms();
    for (epoch, offset, expected) in [
        (1, 10, true),
        (1, 11, false),
        (2, 10, false),
        (2, 20, false),
        (3, 25, true),
    ] {
        let position = Position::new(Epoch(epoch), offset);
        assert_eq!(terms.contain(position), expected, "{position}");
    }
}

#[test]
fn log_without_terms_begins_with_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    drop(SegmentLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().remove(TERMS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let log = SegmentLog::open(dir.path(), &StoreOptions::new(Epoch(8))).unwrap();
    assert_eq!(
        log.reader().terms().as_parts(),
        [(EPOCH_7, 0), (Epoch(8), 0)]
    );
}

#[test]
fn directory_is_locked_while_log_or_reader_lives() {
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(dir.path(), &options()).unwrap();
    let reader = log.reader();
    for _ in 0..2 {
        let error = SegmentLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(&error, OpenError::Locked { dir: locked } if locked == dir.path()));
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    }
    drop(log);
    assert!(SegmentLog::open(dir.path(), &options()).is_err());
    drop(reader);
    SegmentLog::open(dir.path(), &options()).unwrap();
}

#[test]
fn log_with_another_format_does_not_open() {
    let error = reopen_changed(|transaction| set_number(transaction, FORMAT, 99).unwrap());
    assert!(
        matches!(error, OpenError::Format { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn damaged_metadata_is_detected() {
    let error = reopen_changed(|transaction| {
        let mut table = transaction.open_table(META).unwrap();
        let mut encoded = table.get(TERMS).unwrap().unwrap().value().to_vec();
        *encoded.last_mut().unwrap() ^= 1;
        table.insert(TERMS, &*encoded).unwrap();
    });
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let error = with_sources(&error);
    assert!(error.contains("terms"), "{error}");
}

#[test]
fn foreign_file_is_an_error_and_unchanged() {
    for content in [&b""[..], b"x", &[0; 10_000], b"redb but not really"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        fs::write(&path, content).unwrap();
        let error = SegmentLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn interrupted_creation_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log.redb.new"), [1; 5_000]).unwrap();
    let log = SegmentLog::open(dir.path().join("."), &options()).unwrap();
    assert_eq!(log.epoch(), EPOCH_7);
    assert!(!dir.path().join("log.redb.new").exists());
}

#[test]
fn unusable_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = SegmentLog::open(&path, &options()).unwrap_err();
        assert!(matches!(error, OpenError::Directory { .. }), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn symbolic_links_in_the_directory_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = SegmentLog::open(dir.path(), &options()).unwrap();
    fill(&mut log, 1..=100, 10);
    // Under a running server, a link costs the events that it stands for.
    let oldest = dir.path().join(segments::file_name(1));
    let elsewhere = dir.path().join("elsewhere");
    let link = |file: &Path| {
        fs::rename(file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file).unwrap();
    };
    link(&oldest);
    let error = log.reader().read(0, 1, usize::MAX).unwrap_err();
    assert!(matches!(error, LogError::Open { .. }), "{error}");
    fs::rename(&elsewhere, &oldest).unwrap();
    assert_eq!(read_all(&log).len(), 100);
    drop(log);

    let names = Directory(dir.path().to_owned()).names().unwrap();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        let file = dir.path().join(&name);
        let before = fs::read(&file).unwrap();
        link(&file);
        let opened = SegmentLog::open(dir.path(), &options()).err();
        let read = SegmentLog::open_read_only(dir.path(), &options()).err();
        let verified = SegmentLog::verify(dir.path(), &options(), |_| ()).err();
        for error in [opened, read, verified] {
            let is_refused = matches!(error, Some(OpenError::Directory { .. }));
            assert!(is_refused, "{name}: {error:?}");
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), before, "{name}");
        // One that leads nowhere is no missing file.
        fs::rename(&elsewhere, dir.path().join("away")).unwrap();
        SegmentLog::open(dir.path(), &options()).unwrap_err();
        assert!(!elsewhere.exists(), "{name}");
        fs::rename(dir.path().join("away"), &file).unwrap();
    }
    let log = SegmentLog::open(dir.path(), &options()).unwrap();
    assert_eq!(read_all(&log).len(), 100);
}

#[test]
fn pending_documents_are_bounded() {
    let mut log = new_log(&options());
    fill(&mut log, 1..=20_000, 1_000);
    let as_of = documents(&log).unwrap().as_of;
    assert!(
        (1..20_000).contains(&as_of),
        "without maintenance, documents are as of {as_of}"
    );
    maintain(&mut log, 20_000);
    let page = documents(&log).unwrap();
    assert_eq!((page.as_of, page.documents.len()), (20_000, 7));
}

#[test]
fn bytes_that_a_crash_would_replay_are_counted() {
    // One segment, because what another one left free is not replayed.
    let options = StoreOptions {
        segment_bytes: 1 << 20,
        ..options()
    };
    let disk = Disk::default();
    let mut log = open_on(&disk, &options).unwrap();
    fill(&mut log, 1..=100, 7);
    assert_eq!(log.documents.replay_bytes(), log.appender.bytes());
    let log = open_on(&disk.after_kill(), &options).unwrap();
    assert_eq!(log.documents.replay_bytes(), log.appender.bytes());
}

#[test]
fn versions_continue_past_trimming_and_restarts() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    let mut versions = [0; 20];
    for sequence in 1..=1_500 {
        let document = rng.random_range(0..versions.len());
        let mut submission = entry(sequence);
        submission.document = DocumentKey::new("default", "users", format!("d{document}"));
        if rng.random_range(0..5) == 0 {
            submission.operation = Some(crate::Operation::Delete);
        }
        let outcomes = log.append(vec![submission], 1).unwrap();
        let [Outcome::Appended(event)] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        versions[document] += 1;
        let version = format!("\"version\":{}}}", versions[document]);
        let text = std::str::from_utf8(&event.data).unwrap();
        assert!(text.ends_with(&version), "{text}, not {version}");
        match rng.random_range(0..60) {
            0 => log.trim(rng.random_range(0..=sequence)).unwrap(),
            1 => maintain(&mut log, i64::try_from(sequence).unwrap() * 20_000),
            // A failed commit must leave nothing behind.
            2 => {
                disk.set_full_after(Some(0));
                let error = log.append(vec![entry(sequence + 1)], 1).unwrap_err();
                assert!(error.is_full(), "{error}");
                disk.set_full_after(None);
            }
            3 => {
                drop(log);
                disk = disk.after_kill();
                log = open_on(&disk, &options()).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn retention_by_bytes_keeps_about_its_limit() {
    let mut log = new_log(&StoreOptions {
        retention_bytes: Some(100_000),
        ..options()
    });
    fill(&mut log, 1..=10_000, 500);
    maintain(&mut log, 1);
    let kept = read_all(&log);
    let bytes = held_bytes(&log);
    assert!((60_000..=100_000).contains(&bytes), "{bytes}");
    assert_eq!(kept.last().unwrap().offset, 10_000);

    fill(&mut log, 10_001..=10_001, 1);
    maintain(&mut log, 1_001);
    let left = read_all(&log).len();
    // The new segment has room that no commit needed yet.
    let expected = kept.len()..=kept.len() + 1;
    assert!(expected.contains(&left), "one added, {left} left");
}

#[test]
fn transactions_of_the_index_change_a_bounded_number_of_rows() {
    let mut log = new_log(&StoreOptions {
        retention_bytes: Some(1 << 20),
        segment_bytes: 64 << 10,
        ..options()
    });
    let (mut first, mut largest) = (0, 0);
    for batch in 0..40_u32 {
        // Each event is the last one of its document.
        let before = u64::from(batch) * 1_000;
        let entries = (before + 1..=before + 1_000).map(|sequence| {
            let mut entry = entry(sequence);
            entry.document.document_id = format!("d{sequence}").into();
            entry
        });
        log.append(entries.collect(), 1).unwrap();
        while log.maintain(i64::from(batch) * 1_000).unwrap() {
            let next = log.reader().bounds().first;
            assert!(next - first <= SLICE as u64, "from {first} to {next}");
            first = next;
            largest = largest.max(log.index_rows);
        }
    }
    assert!(first > 30_000, "{first} are trimmed");
    let bound = documents::RECORDS_MAX + 1_000 + SLICE;
    assert!((SLICE..=bound).contains(&largest), "{largest} rows");
    // The moved ones and the others.
    let (mut count, mut after) = (0, None);
    loop {
        let query = DocumentQuery {
            after: after.as_ref(),
            ..DocumentQuery::all("default")
        };
        let page = log.reader().documents(query).unwrap();
        count += page.documents.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(count as u64, documents(&log).unwrap().as_of);
}

#[test]
fn commits_go_on_while_the_index_is_written() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    log.maintain_in_background();
    fill(&mut log, 1..=10, 5);
    let shared = Arc::clone(&log.shared);
    // The next transaction of the index waits for this one.
    let other = shared.engine.begin_write().unwrap();
    assert!(log.maintain(20_000).unwrap());
    for sequence in 11..=40 {
        let outcomes = log.append(vec![entry(sequence)], 20_000).unwrap();
        let [Outcome::Appended(event)] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        let version = format!("\"version\":{}}}", sequence.div_ceil(7));
        assert!(event.data.ends_with(version.as_bytes()), "{event:?}");
        assert!(!log.maintain(40_000).unwrap(), "one transaction at a time");
        assert!(log.maintenance_due() < Some(Duration::from_secs(1)));
        assert_eq!(log.reader().producer("p").unwrap().last_sequence, sequence);
    }
    assert_eq!(read_all(&log).len(), 40);
    other.abort().unwrap();
    log.finish_index_job(true).unwrap();
    let page = documents(&log).unwrap();
    let newest = page.documents.iter().map(|it| it.offset).max();
    assert_eq!((page.as_of, newest), (10, Some(10)));
    // A transaction that was begun is over when the log is closed.
    let killed = disk.after_kill();
    assert!(log.maintain(40_000).unwrap());
    drop((log, shared));
    for (disk, as_of) in [(disk, 40), (killed, 10)] {
        let log = open_on(&disk, &options()).unwrap();
        let page = documents(&log).unwrap();
        assert_eq!((page.as_of, read_all(&log).len()), (as_of, 40));
        assert_eq!(log.reader().producer("p").unwrap().last_sequence, 40);
    }
}

#[test]
fn commits_wait_for_a_trimming_that_they_overtake() {
    let mut log = new_log(&StoreOptions {
        retention_bytes: Some(1_000),
        ..options()
    });
    log.index_mode = IndexMode::Held;
    fill(&mut log, 1..=2 * SLICE as u64, 1_024);
    while !log.running.as_ref().is_some_and(|running| running.trims) {
        assert!(log.maintain(1).unwrap());
    }
    let half = SLICE as u64 / 2;
    for (sequence, first) in [(0, 0), (half, 0), (half + 1, SLICE as u64)] {
        let head = log.reader().bounds().head;
        fill(&mut log, head + 1..=2 * SLICE as u64 + sequence, 1_024);
        assert_eq!(log.reader().bounds().first, first, "{sequence} later");
    }
}

#[test]
fn clock_that_jumps_trims_little_and_keeps_new_events() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let mut log = new_log(&StoreOptions {
        retention_age: Some(Duration::from_secs(7 * 24 * 60 * 60)),
        ..options()
    });
    // An entry an hour, for six days.
    for sequence in 1..=144 {
        let now_ms = i64::try_from(sequence).unwrap() * 60 * 60 * 1_000;
        log.append(vec![entry(sequence)], now_ms).unwrap();
        (0..7).for_each(|step| maintain(&mut log, now_ms + step * 600_000));
    }
    assert_eq!(log.reader().bounds().first, 0);
    for (sequence, days) in [(145, 400), (146, -400), (147, 6)] {
        log.append(vec![entry(sequence)], days * DAY_MS).unwrap();
        maintain(&mut log, days * DAY_MS);
        maintain(&mut log, days * DAY_MS + 2_000);
        assert_eq!(log.reader().bounds().first, 0, "{days} days");
    }
    // A server that was stopped for long trims what is too old after all, little by little.
    let mut now_ms = 500 * DAY_MS;
    for _ in 0..1_500 {
        now_ms += 1_000;
        maintain(&mut log, now_ms);
    }
    let bounds = log.reader().bounds();
    assert!(bounds.first > 100, "{bounds:?}");
}

#[test]
fn retention_by_age_trims_older_events() {
    let mut log = new_log(&StoreOptions {
        retention_age: Some(Duration::from_secs(10)),
        ..options()
    });
    for sequence in 1..=20 {
        let now_ms = i64::try_from(sequence).unwrap() * 1_000;
        log.append(vec![entry(sequence)], now_ms).unwrap();
        maintain(&mut log, now_ms);
    }
    assert_eq!(log.reader().bounds(), Bounds { first: 9, head: 20 });
}

#[test]
fn upkeep_goes_on_after_the_clock_was_set_back() {
    let mut log = new_log(&StoreOptions {
        retention_bytes: Some(10_000),
        ..options()
    });
    fill(&mut log, 1..=200, 100);
    maintain(&mut log, 9 * PRODUCER_LIFETIME_MS);
    let document = DocumentKey::new("default", "users", "d");
    let idle = Submission::new("idle", 1, document, "{}");
    log.append(vec![idle], 1).unwrap();

    // In small steps: a clock that jumps forward ages nothing by more than that.
    for step in 0..=1_100 {
        maintain(&mut log, 1 + step * (PRODUCER_LIFETIME_MS / 1_000));
    }
    let page = documents(&log).unwrap();
    assert_eq!((page.as_of, page.documents.len()), (201, 8), "documents");
    let producer = log.reader().producer("idle").unwrap();
    assert_eq!(producer.last_sequence, 0, "producers");

    log.append((1..=200).map(entry).collect(), 1).unwrap();
    maintain(&mut log, 1);
    let bytes = held_bytes(&log);
    assert!(bytes <= 10_000, "retention keeps {bytes} bytes");
    assert_eq!(log.reader().bounds().head, 401);
}

#[test]
fn engine_panic_becomes_an_error_with_its_message() {
    let number = 7;
    for error in [
        catch_panics::<()>(|| panic!("page 7")).unwrap_err(),
        catch_panics::<()>(|| panic!("page {number}")).unwrap_err(),
    ] {
        assert!(with_sources(&error).contains("page 7"), "{error:?}");
    }
}
