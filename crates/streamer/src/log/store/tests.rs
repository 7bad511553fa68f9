mod disk;

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{ReadableTable, StorageBackend};

use self::disk::Disk;
use super::{
    engine::{EPOCH, FORMAT, META, set_number},
    open::Failure,
    *,
};
use crate::{
    Event,
    log::{Outcome, RefusedEntry, Submission},
};

const NAME: Epoch = Epoch(7);

fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1 << 20,
        ..StoreOptions::new(NAME)
    }
}

fn entry(sequence: u64) -> Submission {
    Submission {
        producer: "p".into(),
        sequence,
        database: "default".into(),
        collection: "users".into(),
        document_id: format!("d{}", sequence % 7).into(),
        operation: None,
        data: Bytes::from(format!(
            "{{\"n\":{sequence},\"text\":\"{}\"}}",
            "x".repeat(100)
        )),
        origin: None,
    }
}

/// A log on a disk, which becomes one when the disk is empty.
fn open_on(disk: &Disk, options: &StoreOptions) -> Result<RedbLog, Failure> {
    guarded(|| {
        let is_new = disk.len().unwrap() == 0;
        let mut builder = redb::Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder.set_check_integrity_on_open(options.verify_on_open);
        let opened = (|| {
            let database = builder.create_with_backend(disk.clone())?;
            if is_new {
                open::initialize(&database, options.epoch)?;
            }
            RedbLog::on(
                database,
                Path::new("."),
                tempfile::tempfile().unwrap(),
                options,
            )
        })();
        Ok(opened)
    })
    .map_err(Failure::Log)
    .flatten()
}

fn read_all(log: &RedbLog) -> Vec<Arc<Event>> {
    let reader = log.reader();
    let first = reader.bounds().first;
    reader.read(first, usize::MAX, usize::MAX).unwrap()
}

#[test]
fn a_log_keeps_the_name_of_its_creation() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbLog::open(dir.path(), &options()).unwrap());
    let other = StoreOptions::new(Epoch(8));
    assert_eq!(RedbLog::open(dir.path(), &other).unwrap().epoch(), NAME);
}

#[test]
fn a_directory_is_locked_as_long_as_anything_of_the_log_lives() {
    let dir = tempfile::tempdir().unwrap();
    let log = RedbLog::open(dir.path(), &options()).unwrap();
    let reader = log.reader();
    for _ in 0..2 {
        let error = RedbLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(&error, OpenError::Locked { dir: told } if told == dir.path()));
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    }
    drop(log);
    assert!(RedbLog::open(dir.path(), &options()).is_err());
    drop(reader);
    RedbLog::open(dir.path(), &options()).unwrap();
}

#[test]
fn a_log_of_another_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    set_number(&transaction, FORMAT, 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbLog::open(dir.path(), &options()).unwrap_err();
    assert!(
        matches!(error, OpenError::Format { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn a_damaged_number_of_the_log_itself_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(META).unwrap();
        let mut record = table.get(EPOCH).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 1;
        table.insert(EPOCH, &*record).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let error = RedbLog::open(dir.path(), &options()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("epoch"), "{error}");
}

#[test]
fn a_file_that_is_no_log_is_an_error_and_stays_as_it_is() {
    for content in [&b""[..], b"x", &[0; 10_000], b"redb but not really"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        fs::write(&path, content).unwrap();
        let error = RedbLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_creation_that_was_interrupted_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log.redb.new"), [1; 5_000]).unwrap();
    let log = RedbLog::open(dir.path().join("."), &options()).unwrap();
    assert_eq!(log.epoch(), NAME);
    assert!(!dir.path().join("log.redb.new").exists());
}

#[test]
fn a_directory_that_can_not_be_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = RedbLog::open(&path, &options()).unwrap_err();
        assert!(matches!(error, OpenError::Directory { .. }), "{error}");
    }
}

#[test]
fn documents_are_written_before_too_many_wait() {
    let mut log = RedbLog::open(tempfile::tempdir().unwrap().path(), &options()).unwrap();
    for start in (1..=20_000).step_by(1_000) {
        log.append((start..start + 1_000).map(entry).collect(), 1)
            .unwrap();
    }
    let reader = log.reader();
    let as_of = |reader: &Arc<dyn LogReader>| {
        let page = reader
            .documents("default", None, None, 100, usize::MAX)
            .unwrap();
        (page.as_of, page.documents.len())
    };
    let (behind, _) = as_of(&reader);
    assert!(
        (1..20_000).contains(&behind),
        "without maintenance at {behind}"
    );
    while log.maintain(20_000).unwrap() {}
    assert_eq!(as_of(&reader), (20_000, 7));
}

#[test]
fn retention_by_bytes_keeps_about_as_many_bytes() {
    let mut options = options();
    options.retention_bytes = Some(100_000);
    let mut log = RedbLog::open(tempfile::tempdir().unwrap().path(), &options).unwrap();
    for start in (1..=10_000).step_by(500) {
        log.append((start..start + 500).map(entry).collect(), 1)
            .unwrap();
    }
    while log.maintain(1).unwrap() {}
    let kept = read_all(&log);
    let bytes: usize = kept.iter().map(|event| event.weight()).sum();
    assert!((60_000..=100_000).contains(&bytes), "{bytes}");
    assert_eq!(kept.last().unwrap().offset, 10_000);

    log.append(vec![entry(10_001)], 1).unwrap();
    while log.maintain(1_001).unwrap() {}
    assert_eq!(read_all(&log).len(), kept.len(), "one came, one went");
}

#[test]
fn retention_by_age_drops_what_is_older() {
    let mut options = options();
    options.retention_age = Some(Duration::from_secs(10));
    let mut log = RedbLog::open(tempfile::tempdir().unwrap().path(), &options).unwrap();
    for sequence in 1..=20 {
        let now_ms = i64::try_from(sequence).unwrap() * 1_000;
        log.append(vec![entry(sequence)], now_ms).unwrap();
        while log.maintain(now_ms).unwrap() {}
    }
    assert_eq!(log.reader().bounds(), Bounds { first: 9, head: 20 });
}

#[test]
fn a_damaged_entry_is_told_when_its_turn_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = RedbLog::open(dir.path(), &options()).unwrap();
    log.append((1..=9).map(entry).collect(), 1).unwrap();
    while log.maintain(1_000_000).unwrap() {}
    let transaction = log.shared.engine.begin_write().unwrap();
    {
        let mut events = transaction.open_table(engine::EVENTS).unwrap();
        let mut record = events.get(5).unwrap().unwrap().value().to_vec();
        record[40] ^= 4;
        events.insert(5, &*record).unwrap();
        events.remove(7).unwrap();
    }
    transaction.commit().unwrap();

    let reader = log.reader();
    assert_eq!(reader.read(0, 100, usize::MAX).unwrap().len(), 4);
    for (after, expected) in [(4, 5), (6, 7)] {
        assert!(matches!(
            reader.read(after, 100, usize::MAX),
            Err(LogError::Damaged { offset, .. }) if offset == expected
        ));
    }
    assert_eq!(reader.read(5, 100, usize::MAX).unwrap().len(), 1);
    assert_eq!(reader.read(7, 100, usize::MAX).unwrap().len(), 2);
    // Retention gets past it.
    log.trim(8).unwrap();
    assert_eq!(log.reader().bounds().first, 8);
}

#[test]
fn an_io_error_stops_the_writing_until_the_log_is_opened_anew() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    log.append(vec![entry(1)], 1).unwrap();
    disk.fail_after(0);
    let error = log.append(vec![entry(2)], 1).unwrap_err();
    assert!(matches!(error, LogError::Storage(_)), "{error}");
    // The disk may work again; what it did in between is not known.
    disk.fail_never();
    for _ in 0..2 {
        let error = log.append(vec![entry(2)], 1).unwrap_err();
        assert!(matches!(&error, LogError::Stopped { cause } if cause.contains("injected")));
        assert!(matches!(log.maintain(1), Err(LogError::Stopped { .. })));
    }
    assert_eq!(log.reader().bounds().head, 1, "no reader sees what failed");
    drop(log);
    let mut log = open_on(&disk, &options()).unwrap();
    assert!(log.append(vec![entry(2)], 1).is_ok());
}

#[test]
fn a_full_disk_refuses_entries_and_stops_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = RedbLog::open(dir.path(), &options()).unwrap();
    log.append(vec![entry(1)], 1).unwrap();
    for _ in 0..2 {
        log.space = Space::new(dir.path(), 1 << 60);
        let error = log.append(vec![entry(2)], 1).unwrap_err();
        assert!(
            matches!(error, LogError::Full { free, needed } if free < needed && free > 0),
            "{error}"
        );
        assert_eq!(read_all(&log).len(), 1);
        assert!(log.maintain(1_000_000).is_ok());
    }
    // What needs no room is told as ever.
    assert_eq!(log.append(Vec::new(), 1).unwrap(), []);
    log.space = Space::new(dir.path(), 0);
    log.append(vec![entry(2)], 1).unwrap();
    assert_eq!(read_all(&log).len(), 2);
}

/// What a run of appends was told before the disk failed.
struct Told {
    acknowledged: u64,
    submitted: u64,
}

/// Appends, trims and writes documents until the disk fails or all is done.
fn work(disk: &Disk) -> Option<Told> {
    let mut told = Told {
        acknowledged: 0,
        submitted: 0,
    };
    let mut log = open_on(disk, &options()).ok()?;
    for round in 1..=12_u64 {
        let batch: Vec<_> = (1..=round % 4 + 1)
            .map(|step| entry(told.acknowledged + step))
            .collect();
        told.submitted += batch.len() as u64;
        let Ok(outcomes) = log.append(batch, 1_000) else {
            break;
        };
        assert!(outcomes.iter().all(|it| matches!(it, Outcome::Appended(_))));
        told.acknowledged = told.submitted;
        if log
            .maintain(i64::try_from(round).unwrap() * 20_000)
            .is_err()
        {
            break;
        }
        if round % 5 == 0 && log.trim(told.acknowledged / 2).is_err() {
            break;
        }
    }
    Some(told)
}

/// What must hold of a log after whatever happened to the process that wrote it.
fn check(disk: &Disk, told: &Told, situation: &str) {
    let log = open_on(disk, &options());
    let mut log = log.unwrap_or_else(|error| panic!("{situation}: {error:?}"));
    assert_eq!(log.epoch(), NAME, "{situation}");
    let Bounds { first, head } = log.reader().bounds();
    assert!(
        head == told.acknowledged || head == told.submitted,
        "{situation}: head {head}, acknowledged {}, submitted {}",
        told.acknowledged,
        told.submitted
    );
    assert_eq!(
        log.reader().producer("p").unwrap().last_sequence,
        head,
        "{situation}"
    );
    let mut expected = first;
    for event in read_all(&log) {
        expected += 1;
        assert_eq!(event.offset, expected, "{situation}");
        let text = std::str::from_utf8(&event.data).unwrap();
        assert!(text.contains(&format!("\"n\":{expected},")), "{situation}");
        // Every seventh entry changes the same document.
        let version = format!("\"version\":{}}}", expected.div_ceil(7));
        assert!(text.ends_with(&version), "{situation}: {text}");
    }
    assert_eq!(expected, head, "{situation}");

    let next = log.append(vec![entry(head + 1)], 1_000).unwrap();
    let [Outcome::Appended(event)] = &next[..] else {
        panic!("{situation}: {next:?}");
    };
    let version = format!("\"version\":{}}}", (head + 1).div_ceil(7));
    let text = std::str::from_utf8(&event.data).unwrap();
    assert!(text.ends_with(&version), "{situation}: {text}");
    while log.maintain(1_000_000).unwrap() {}
    let documents = log
        .reader()
        .documents("default", None, None, 100, usize::MAX);
    assert_eq!(
        documents.unwrap().documents.len() as u64,
        (head + 1).min(7),
        "{situation}"
    );
}

#[test]
fn no_failure_of_the_disk_at_any_step_loses_or_invents_an_entry() {
    let whole = Disk::default();
    open_on(&whole, &options()).unwrap();
    let disk = whole.after_kill();
    work(&disk).unwrap();
    let steps = disk.operations();
    assert!(
        steps > 100,
        "the run has to reach the disk often, not {steps} times"
    );

    let mut rng = ChaCha8Rng::seed_from_u64(47);
    let mut failed_appends = 0;
    // Every fifth step, so that the test takes seconds.
    for step in (0..steps).step_by(5) {
        let disk = whole.after_kill();
        disk.fail_after(step);
        let Some(told) = work(&disk) else {
            continue;
        };
        failed_appends += u32::from(told.acknowledged < told.submitted);
        disk.fail_never();
        check(&disk.after_kill(), &told, &format!("killed at step {step}"));
        let disk = disk.after_power_cut(&mut rng);
        check(&disk, &told, &format!("power cut at step {step}"));
    }
    assert!(failed_appends > 15, "{failed_appends} of {steps}");
}

#[test]
fn a_flipped_byte_anywhere_is_an_error_or_harmless_but_never_a_panic_or_a_wrong_event() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    for start in (1..=300).step_by(20) {
        log.append((start..start + 20).map(entry).collect(), 1)
            .unwrap();
        while log.maintain(i64::try_from(start).unwrap() * 1_000).unwrap() {}
    }
    let originals = read_all(&log);
    drop(log);
    let length = disk.len().unwrap();

    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let mut noticed = 0;
    for round in 0..240_u64 {
        // The file's header is what everything else hangs on: every place of it.
        let at = if round < 120 {
            round
        } else {
            rng.random_range(0..length)
        };
        let damaged = disk.after_kill();
        damaged.flip(at, 1 << rng.random_range(0..8));
        let mut options = options();
        options.verify_on_open = round % 2 == 0;
        match open_on(&damaged, &options) {
            Err(_) => noticed += 1,
            Ok(log) => noticed += u32::from(!reads_the_same(log, &originals)),
        }
    }
    assert!(noticed > 60, "only {noticed} of 240 flips were noticed");
}

/// Whether everything is there; what is there must be what was written.
fn reads_the_same(mut log: RedbLog, originals: &[Arc<Event>]) -> bool {
    let reader = log.reader();
    let mut after = 0;
    let mut whole = true;
    while let Some(original) = originals.get(usize::try_from(after).unwrap()) {
        let Ok(events) = reader.read(after, 50, usize::MAX) else {
            whole = false;
            after = original.offset;
            continue;
        };
        if events.is_empty() {
            assert!(reader.bounds().head <= after);
            return false;
        }
        for event in events {
            assert_eq!(event, originals[usize::try_from(after).unwrap()]);
            after += 1;
        }
    }
    whole &= reader
        .documents("default", None, None, 100, usize::MAX)
        .is_ok();
    whole &= log.append(vec![entry(301)], 1).is_ok();
    whole &= log.trim(10).is_ok();
    whole
}

#[test]
fn a_truncated_file_is_an_error_and_never_a_panic() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    log.append((1..=300).map(entry).collect(), 1).unwrap();
    let originals = read_all(&log);
    drop(log);
    let length = disk.len().unwrap();
    for part in 1..64 {
        let damaged = disk.after_kill();
        damaged.truncate(length * part / 64);
        if let Ok(log) = open_on(&damaged, &options()) {
            reads_the_same(log, &originals);
        }
    }
}

#[test]
fn a_panic_of_the_engine_is_an_error_with_its_words() {
    let number = 7;
    for error in [
        guarded::<()>(|| panic!("page 7")).unwrap_err(),
        guarded::<()>(|| panic!("page {number}")).unwrap_err(),
    ] {
        assert!(describe(&error).contains("page 7"), "{error:?}");
    }
}

#[test]
fn an_entry_that_is_refused_is_not_in_the_file() {
    let mut log = RedbLog::open(tempfile::tempdir().unwrap().path(), &options()).unwrap();
    let mut broken = entry(1);
    broken.data = Bytes::from_static(b"{");
    let outcomes = log.append(vec![broken], 1).unwrap();
    assert!(matches!(
        outcomes[..],
        [Outcome::Refused(RefusedEntry::NotAnObject(_))]
    ));
    assert_eq!(read_all(&log), []);
}
