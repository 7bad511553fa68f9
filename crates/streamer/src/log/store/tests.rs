mod disk;

use std::{fs, ops::RangeInclusive, path::Path, sync::Arc};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::{ReadableTable, StorageBackend};

use self::disk::{Disk, INDEX};
use super::{
    conversion::EVENTS,
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
fn open_on(disk: &Disk, options: &StoreOptions) -> Result<RedbLog, OpenFailure> {
    catch_panics(|| {
        let index = disk.index();
        let is_new = index.len().unwrap() == 0;
        let mut builder = redb::Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder.set_check_integrity_on_open(options.verify_on_open);
        let opened = (|| {
            let database = builder.create_with_backend(index)?;
            if is_new {
                open::initialize(&database, options.epoch)?;
            }
            RedbLog::from_database(
                database,
                Arc::new(disk.clone()),
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

/// Returns the segment of an entry, and the place of a byte of its payload.
fn find_entry(disk: &Disk, sequence: u64) -> (String, usize) {
    let text = format!("\"n\":{sequence},");
    for name in disk.segments() {
        let content = disk.content(&name);
        let found = content
            .windows(text.len())
            .position(|it| it == text.as_bytes());
        if let Some(at) = found {
            return (name, at);
        }
    }
    panic!("entry {sequence} is in no segment");
}

/// Flips a bit in the payload of an entry.
fn damage_entry(disk: &Disk, sequence: u64) {
    let (name, at) = find_entry(disk, sequence);
    disk.flip(&name, at, 4);
}

/// Checks which events can be read, and that each run of others is one error with its last offset.
fn check_readable(log: &RedbLog, runs: &[RangeInclusive<u64>]) {
    let reader = log.reader();
    let Bounds { first, head } = reader.bounds();
    let mut after = first;
    let mut readable = Vec::new();
    while after < head {
        match reader.read(after, 100, usize::MAX) {
            Ok(events) => {
                readable.extend(events.iter().map(|event| event.offset));
                after = events.last().unwrap().offset;
            }
            Err(LogError::Damaged { offset, .. }) => after = offset,
            Err(error) => panic!("{error}"),
        }
    }
    let expected: Vec<_> = (first + 1..=head)
        .filter(|offset| !runs.iter().any(|run| run.contains(offset)))
        .collect();
    assert_eq!(readable, expected);
}

#[test]
fn damaged_event_fails_only_reads_that_begin_at_it() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=9, 9);
    maintain(&mut log, 1_000_000);
    // The header of 7 is damaged, too: it is found missing.
    damage_entry(&disk, 5);
    let (name, at) = find_entry(&disk, 7);
    (at - 60..at - 50).for_each(|at| disk.flip(&name, at, 1));
    for reopened in [false, true] {
        if reopened {
            drop(log);
            log = open_on(&disk, &options()).unwrap();
        }
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
    }
    // Trimming continues past both.
    log.trim(8).unwrap();
    assert_eq!(log.reader().bounds().first, 8);
}

#[test]
fn lost_or_swapped_segment_costs_only_its_events() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=300, 10);
    maintain(&mut log, 1_000_000);
    let bases: Vec<u64> = log.shared.segments.bases();
    drop(log);
    assert!(bases.len() > 4, "{bases:?}");
    let names = disk.segments();

    let lost = disk.after_kill();
    lost.delete(&names[1]);
    let log = open_on(&lost, &options()).unwrap();
    check_readable(&log, &[bases[1] + 1..=bases[2]]);

    // The copy answers for none of the events that it does not have.
    let swapped = disk.after_kill();
    swapped.copy(&names[1], &names[2]);
    let log = open_on(&swapped, &options()).unwrap();
    check_readable(&log, &[bases[2] + 1..=bases[3]]);

    // The head stays: the index has seen it.
    let cut = disk.after_kill();
    cut.delete(names.last().unwrap());
    let mut log = open_on(&cut, &options()).unwrap();
    check_readable(&log, &[bases.last().unwrap() + 1..=300]);
    fill(&mut log, 301..=301, 1);
    check_readable(&log, &[bases.last().unwrap() + 1..=300]);
}

#[test]
fn commit_is_one_write_and_one_sync() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=1, 1);
    let before = disk.segment_use();
    let operations = disk.operations();
    fill(&mut log, 2..=2, 1);
    let after = disk.segment_use();
    assert_eq!(
        (after.writes, after.syncs),
        (before.writes + 1, before.syncs + 1)
    );
    assert_eq!(disk.operations(), operations + 2, "nothing else is written");
    let entry = entry(2).weight();
    let written = after.bytes - before.bytes;
    assert!(
        written <= 3 * entry,
        "{written} bytes for an entry of {entry}"
    );
}

#[test]
fn interrupted_commit_leaves_nothing_behind_a_shorter_one() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=3, 3);
    // The write of a large commit stops in the middle, and the space comes back.
    disk.set_full_after(Some(0));
    let batch: Vec<_> = (4..=11).map(entry).collect();
    for _ in 0..2 {
        let error = log.append(batch.clone(), 1).unwrap_err();
        assert!(error.is_full(), "{error}");
        assert_eq!(read_all(&log).len(), 3, "reading goes on");
        assert!(log.maintain(1_000_000).is_ok());
    }
    disk.set_full_after(None);
    log.append(vec![entry(4)], 1).unwrap();
    drop(log);
    let log = open_on(&disk, &options()).unwrap();
    assert_eq!(log.reader().bounds().head, 4);
    check_readable(&log, &[]);
}

#[test]
fn removed_segment_is_noticed_by_the_next_commit() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=3, 3);
    let name = disk.segments().pop().unwrap();
    disk::SegmentDisk::remove(&disk, &name).unwrap();
    let error = log.append(vec![entry(4)], 1).unwrap_err();
    assert!(
        with_sources(&error).contains(&name),
        "{}",
        with_sources(&error)
    );
    assert!(matches!(
        log.append(vec![entry(4)], 1),
        Err(LogError::Stopped { .. })
    ));
}

#[test]
fn removed_file_of_an_idle_log_is_noticed() {
    for index in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RedbLog::open(dir.path(), &options()).unwrap();
        fill(&mut log, 1..=3, 3);
        maintain(&mut log, 1_000_000);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        names.retain(|it| {
            it.as_ref().unwrap().path().extension()
                == Some(if index { "redb" } else { "seg" }.as_ref())
        });
        let [Ok(file)] = &names[..] else {
            panic!("{names:?}")
        };
        fs::remove_file(file.path()).unwrap();
        let error = log.maintain(1_002_000).unwrap_err();
        let name = file.file_name().into_string().unwrap();
        assert!(
            with_sources(&error).contains(&name),
            "{}",
            with_sources(&error)
        );
        assert!(matches!(
            log.append(vec![entry(4)], 1),
            Err(LogError::Stopped { .. })
        ));
    }
}

#[test]
fn damaged_row_of_the_index_costs_only_its_own_state() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=20, 20);
    maintain(&mut log, 1_000_000);
    let transaction = log.shared.engine.begin_commit().unwrap();
    {
        let key = ("default", "users", "d1");
        let mut table = transaction.open_table(DOCUMENTS).unwrap();
        let mut row = table.get(key).unwrap().unwrap().value().to_vec();
        row[7] ^= 1;
        table.insert(key, &*row).unwrap();
        let mut table = transaction.open_table(PRODUCERS).unwrap();
        let mut row = table.get("p").unwrap().unwrap().value().to_vec();
        row[7] ^= 1;
        table.insert("q", &*row).unwrap();
    }
    transaction.commit().unwrap();
    // Its version still increases.
    let outcomes = log.append(vec![entry(21), entry(22)], 1).unwrap();
    let [Outcome::Appended(_), Outcome::Appended(event)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    let text = std::str::from_utf8(&event.data).unwrap();
    assert!(text.ends_with("\"version\":21}"), "{text}");
    let mut lost = entry(5);
    lost.producer = "q".into();
    let outcomes = log.append(vec![lost], 1).unwrap();
    assert_eq!(outcomes, [Outcome::Jump { last: 0 }]);
    log.trim(20).unwrap();
    maintain(&mut log, 1 << 40);
}

#[test]
fn retention_by_bytes_bounds_the_files_after_a_burst() {
    const LIMIT: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let size = || {
        let files = fs::read_dir(dir.path()).unwrap();
        let sizes = files.map(|file| file.unwrap().metadata().unwrap().len());
        sizes.sum::<u64>()
    };
    let unlimited = StoreOptions::new(EPOCH_7);
    let mut log = RedbLog::open(dir.path(), &unlimited).unwrap();
    for start in (1..=100_000).step_by(1_000) {
        fill(&mut log, start..=start + 999, 1_000);
    }
    let burst = size();
    drop(log);
    let options = StoreOptions {
        retention_bytes: Some(LIMIT),
        ..unlimited
    };
    let mut log = RedbLog::open(dir.path(), &options).unwrap();
    for start in (100_001..=120_000).step_by(500) {
        fill(&mut log, start..=start + 499, 500);
        maintain(&mut log, i64::try_from(start).unwrap() * 1_000);
    }
    let (events, after) = (read_all(&log).len(), size());
    // The index has the documents, and a fixed minimum.
    assert!(
        burst > 16 * LIMIT && after < 6 * LIMIT,
        "{burst} before, {after} after"
    );
    assert!(events > 2_000, "{events}");
}

#[test]
fn log_of_format_1_is_converted_at_any_interruption() {
    // Lays out a log as format 1 did.
    let whole = Disk::default();
    let mut log = open_on(&whole, &options()).unwrap();
    fill(&mut log, 1..=60, 7);
    maintain(&mut log, 1_000_000);
    let originals = read_all(&log);
    let transaction = log.shared.engine.begin_commit().unwrap();
    {
        let mut events = transaction.open_table(EVENTS).unwrap();
        log.shared
            .segments
            .visit(0, 60, |visited| {
                let segments::Visited::Event(stored, _) = visited else {
                    panic!("{visited:?}");
                };
                let value = stored.encode_format_1();
                events.insert(stored.event.offset, &*value).unwrap();
                true
            })
            .unwrap();
    }
    set_number(&transaction, FORMAT, 1).unwrap();
    transaction.commit().unwrap();
    drop(log);
    for name in whole.segments() {
        whole.delete(&name);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut interrupted = 0;
    for step in 0.. {
        let disk = whole.after_kill();
        disk.fail_after(step);
        let failed = open_on(&disk, &options()).is_err();
        interrupted += u32::from(failed);
        disk.fail_never();
        for disk in [disk.after_kill(), disk.after_power_cut(&mut rng)] {
            let mut log = open_on(&disk, &options()).unwrap();
            assert_eq!(read_all(&log), originals, "step {step}");
            let transaction = log.shared.engine.begin_read().unwrap();
            assert!(transaction.open_table(EVENTS).is_err(), "step {step}");
            drop(transaction);
            let next = log.append(vec![entry(61)], 1).unwrap();
            assert!(matches!(next[..], [Outcome::Appended(_)]), "step {step}");
        }
        if !failed {
            break;
        }
    }
    assert!(interrupted > 8, "{interrupted}");
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
        log.min_free_bytes = 1 << 60;
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
    log.min_free_bytes = 0;
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
    for step in 0..steps {
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
    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let segments = disk.segments();
    let (mut refused, mut detected) = (0, 0);
    for round in 0..360_usize {
        // Every byte of the header of the index, random ones of its rest, and ones of the segments.
        let damaged = disk.after_kill();
        let (name, at) = match round {
            0..120 => (INDEX.to_owned(), round),
            120..240 => (
                INDEX.to_owned(),
                rng.random_range(0..disk.content(INDEX).len()),
            ),
            _ => {
                let name = segments[round % segments.len()].clone();
                let length = disk.content(&name).len();
                (name, rng.random_range(0..length))
            }
        };
        damaged.flip(&name, at, 1 << rng.random_range(0..8));
        let mut options = options();
        options.verify_on_open = round % 2 == 0;
        match open_on(&damaged, &options) {
            Err(error) => {
                assert_eq!(name, INDEX, "{error:?}");
                refused += 1;
            }
            Ok(log) => detected += u32::from(!reads_the_same(log, &originals)),
        }
    }
    assert!(
        refused < 150 && detected > 60,
        "refused {refused}, detected {detected}"
    );
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
    for name in [INDEX.to_owned()].into_iter().chain(disk.segments()) {
        let length = disk.content(&name).len();
        for part in 1..32 {
            let damaged = disk.after_kill();
            damaged.truncate(&name, length * part / 32);
            match open_on(&damaged, &options()) {
                Ok(log) => drop(reads_the_same(log, &originals)),
                Err(error) => assert_eq!(name, INDEX, "{error:?}"),
            }
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
