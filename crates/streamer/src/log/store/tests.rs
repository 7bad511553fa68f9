mod disk;

use std::{fs, ops::RangeInclusive, path::Path, sync::Arc};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{ReadableTable, StorageBackend};

use self::disk::Disk;
use super::{
    engine::{FORMAT, META, TERMS, set_number},
    open::OpenFailure,
    *,
};
use crate::{
    Event, Position,
    log::{DocumentPage, DocumentQuery, Outcome, Submission, with_sources},
};

const EPOCH_7: Epoch = Epoch(7);

fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 1 << 20,
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
fn open_on(disk: &Disk, options: &StoreOptions) -> Result<RedbLog, OpenFailure> {
    catch_panics(|| {
        let is_new = disk.len().unwrap() == 0;
        let mut builder = redb::Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder.set_check_integrity_on_open(options.verify_on_open);
        let opened = (|| {
            let database = builder.create_with_backend(disk.clone())?;
            if is_new {
                open::initialize(&database, options.epoch)?;
            }
            RedbLog::from_database(
                database,
                Path::new("."),
                tempfile::tempfile().unwrap(),
                options,
            )
        })();
        Ok(opened)
    })?
}

fn read_all(log: &RedbLog) -> Vec<Arc<Event>> {
    let reader = log.reader();
    let first = reader.bounds().first;
    reader.read(first, usize::MAX, usize::MAX).unwrap()
}

/// Creates a log on a new disk.
fn new_log(options: &StoreOptions) -> RedbLog {
    open_on(&Disk::default(), options).unwrap()
}

/// Appends entries in batches of `batch`, the last one included.
fn fill(log: &mut RedbLog, sequences: RangeInclusive<u64>, batch: usize) {
    let sequences: Vec<_> = sequences.collect();
    for batch in sequences.chunks(batch) {
        log.append(batch.iter().copied().map(entry).collect(), 1)
            .unwrap();
    }
}

/// Maintains the log until no work is due.
fn maintain(log: &mut RedbLog, now_ms: i64) {
    while log.maintain(now_ms).unwrap() {}
}

fn documents(log: &RedbLog) -> Result<DocumentPage, LogError> {
    log.reader().documents(DocumentQuery::all("default"))
}

/// Creates a log, changes its tables, and returns the error of reopening it.
fn reopen_changed(change: impl FnOnce(&redb::WriteTransaction)) -> OpenError {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
    drop(database);
    RedbLog::open(dir.path(), &options()).unwrap_err()
}

#[test]
fn restored_copy_refuses_positions_after_it_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let [original, copy] = ["original", "copy"].map(|name| dir.path().join(name));
    let open = |path: &Path, id| RedbLog::open(path, &StoreOptions::new(Epoch(id))).unwrap();
    let mut log = open(&original, 1);
    fill(&mut log, 1..=10, 10);
    drop(log);
    fs::create_dir(&copy).unwrap();
    fs::copy(original.join("log.redb"), copy.join("log.redb")).unwrap();
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
    drop(RedbLog::open(dir.path(), &options()).unwrap());
    let database = redb::Database::open(dir.path().join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().remove(TERMS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let log = RedbLog::open(dir.path(), &StoreOptions::new(Epoch(8))).unwrap();
    assert_eq!(
        log.reader().terms().as_parts(),
        [(EPOCH_7, 0), (Epoch(8), 0)]
    );
}

#[test]
fn directory_is_locked_while_log_or_reader_lives() {
    let dir = tempfile::tempdir().unwrap();
    let log = RedbLog::open(dir.path(), &options()).unwrap();
    let reader = log.reader();
    for _ in 0..2 {
        let error = RedbLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(&error, OpenError::Locked { dir: locked } if locked == dir.path()));
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
    }
    drop(log);
    assert!(RedbLog::open(dir.path(), &options()).is_err());
    drop(reader);
    RedbLog::open(dir.path(), &options()).unwrap();
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
        let error = RedbLog::open(dir.path(), &options()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn interrupted_creation_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log.redb.new"), [1; 5_000]).unwrap();
    let log = RedbLog::open(dir.path().join("."), &options()).unwrap();
    assert_eq!(log.epoch(), EPOCH_7);
    assert!(!dir.path().join("log.redb.new").exists());
}

#[test]
fn unusable_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = RedbLog::open(&path, &options()).unwrap_err();
        assert!(matches!(error, OpenError::Directory { .. }), "{error}");
    }
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
fn retention_by_bytes_keeps_about_its_limit() {
    let mut log = new_log(&StoreOptions {
        retention_bytes: Some(100_000),
        ..options()
    });
    fill(&mut log, 1..=10_000, 500);
    maintain(&mut log, 1);
    let kept = read_all(&log);
    let bytes: usize = kept.iter().map(|event| event.weight()).sum();
    assert!((60_000..=100_000).contains(&bytes), "{bytes}");
    assert_eq!(kept.last().unwrap().offset, 10_000);

    fill(&mut log, 10_001..=10_001, 1);
    maintain(&mut log, 1_001);
    assert_eq!(read_all(&log).len(), kept.len(), "one added, one trimmed");
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
fn damaged_event_fails_only_reads_that_begin_at_it() {
    let mut log = new_log(&options());
    fill(&mut log, 1..=9, 9);
    maintain(&mut log, 1_000_000);
    let transaction = log.shared.engine.begin_write().unwrap();
    {
        let mut events = transaction.open_table(EVENTS).unwrap();
        let mut encoded = events.get(5).unwrap().unwrap().value().to_vec();
        encoded[40] ^= 4;
        events.insert(5, &*encoded).unwrap();
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
    // Trimming continues past both.
    log.trim(8).unwrap();
    assert_eq!(log.reader().bounds().first, 8);
}

#[test]
fn io_error_stops_writes_until_reopened() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    log.append(vec![entry(1)], 1).unwrap();
    disk.fail_after(0);
    let error = log.append(vec![entry(2)], 1).unwrap_err();
    assert!(matches!(error, LogError::Storage(_)), "{error}");
    // Even if the disk works again: its content is unknown after the failure.
    disk.fail_never();
    for _ in 0..2 {
        let error = log.append(vec![entry(2)], 1).unwrap_err();
        assert!(
            matches!(&error, LogError::Stopped { cause } if with_sources(cause).contains("injected"))
        );
        assert!(matches!(log.maintain(1), Err(LogError::Stopped { .. })));
    }
    assert_eq!(
        log.reader().bounds().head,
        1,
        "readers do not see the failed batch"
    );
    drop(log);
    let mut log = open_on(&disk, &options()).unwrap();
    assert!(log.append(vec![entry(2)], 1).is_ok());
}

#[test]
fn full_disk_only_rejects_entries() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = RedbLog::open(dir.path(), &options()).unwrap();
    log.append(vec![entry(1)], 1).unwrap();
    for _ in 0..2 {
        log.disk_space = DiskSpace::new(dir.path(), 1 << 60);
        let error = log.append(vec![entry(2)], 1).unwrap_err();
        assert!(
            matches!(error, LogError::Full { free, needed } if free < needed && free > 0),
            "{error}"
        );
        assert_eq!(read_all(&log).len(), 1);
        assert!(log.maintain(1_000_000).is_ok());
    }
    // An empty batch needs no space.
    assert_eq!(log.append(Vec::new(), 1).unwrap(), []);
    log.disk_space = DiskSpace::new(dir.path(), 0);
    log.append(vec![entry(2)], 1).unwrap();
    assert_eq!(read_all(&log).len(), 2);
}

/// The progress of [`run_until_failure`].
struct Progress {
    acknowledged: u64,
    submitted: u64,
}

/// Appends, trims and maintains until the disk fails or 12 rounds are done. Returns `None` if the log
/// does not open.
fn run_until_failure(disk: &Disk) -> Option<Progress> {
    let mut progress = Progress {
        acknowledged: 0,
        submitted: 0,
    };
    let mut log = open_on(disk, &options()).ok()?;
    for round in 1..=12_u64 {
        let batch: Vec<_> = (1..=round % 4 + 1)
            .map(|step| entry(progress.acknowledged + step))
            .collect();
        progress.submitted += batch.len() as u64;
        let Ok(outcomes) = log.append(batch, 1_000) else {
            break;
        };
        assert!(outcomes.iter().all(|it| matches!(it, Outcome::Appended(_))));
        progress.acknowledged = progress.submitted;
        if log
            .maintain(i64::try_from(round).unwrap() * 20_000)
            .is_err()
        {
            break;
        }
        if round % 5 == 0 && log.trim(progress.acknowledged / 2).is_err() {
            break;
        }
    }
    Some(progress)
}

/// Checks the invariants of a log after a crash.
fn check(disk: &Disk, progress: &Progress, situation: &str) {
    let log = open_on(disk, &options());
    let mut log = log.unwrap_or_else(|error| panic!("{situation}: {error:?}"));
    assert_eq!(log.epoch(), EPOCH_7, "{situation}");
    let Bounds { first, head } = log.reader().bounds();
    assert!(
        head == progress.acknowledged || head == progress.submitted,
        "{situation}: head {head}, acknowledged {}, submitted {}",
        progress.acknowledged,
        progress.submitted
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
    maintain(&mut log, 1_000_000);
    assert_eq!(
        documents(&log).unwrap().documents.len() as u64,
        (head + 1).min(7),
        "{situation}"
    );
}

#[test]
fn disk_failure_at_any_step_neither_loses_nor_invents_events() {
    let whole = Disk::default();
    open_on(&whole, &options()).unwrap();
    let disk = whole.after_kill();
    run_until_failure(&disk).unwrap();
    let steps = disk.operations();
    assert!(steps > 100, "{steps} disk operations are too few");

    let mut rng = ChaCha8Rng::seed_from_u64(47);
    let mut failed_appends = 0;
    // Only every fifth, so that the test takes seconds.
    for step in (0..steps).step_by(5) {
        let disk = whole.after_kill();
        disk.fail_after(step);
        let Some(progress) = run_until_failure(&disk) else {
            continue;
        };
        failed_appends += u32::from(progress.acknowledged < progress.submitted);
        disk.fail_never();
        check(
            &disk.after_kill(),
            &progress,
            &format!("killed at step {step}"),
        );
        let disk = disk.after_power_cut(&mut rng);
        check(&disk, &progress, &format!("power cut at step {step}"));
    }
    assert!(failed_appends > 15, "{failed_appends} of {steps}");
}

#[test]
fn flipped_bit_never_panics_or_yields_a_wrong_event() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    for start in (1..=300).step_by(20) {
        fill(&mut log, start..=start + 19, 20);
        maintain(&mut log, i64::try_from(start).unwrap() * 1_000);
    }
    let originals = read_all(&log);
    drop(log);
    let length = disk.len().unwrap();

    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let mut detected = 0;
    for round in 0..240_u64 {
        // Every byte of the file's header, and random ones of the rest.
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
            Err(_) => detected += 1,
            Ok(log) => detected += u32::from(!reads_the_same(log, &originals)),
        }
    }
    assert!(detected > 60, "only {detected} of 240 flips were detected");
}

/// Returns `true` if the log is complete and works. Panics if it returns a wrong event.
fn reads_the_same(mut log: RedbLog, originals: &[Arc<Event>]) -> bool {
    let reader = log.reader();
    let mut after = 0;
    let mut intact = true;
    while let Some(original) = originals.get(usize::try_from(after).unwrap()) {
        let Ok(events) = reader.read(after, 50, usize::MAX) else {
            intact = false;
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
    intact &= documents(&log).is_ok();
    intact &= log.append(vec![entry(301)], 1).is_ok();
    intact &= log.trim(10).is_ok();
    intact
}

#[test]
fn truncated_file_never_panics() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=300, 300);
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
fn engine_panic_becomes_an_error_with_its_message() {
    let number = 7;
    for error in [
        catch_panics::<()>(|| panic!("page 7")).unwrap_err(),
        catch_panics::<()>(|| panic!("page {number}")).unwrap_err(),
    ] {
        assert!(with_sources(&error).contains("page 7"), "{error:?}");
    }
}
