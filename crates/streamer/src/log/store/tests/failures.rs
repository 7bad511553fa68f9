//! Failing, full and interrupted disks.

use super::{damage::check_readable, *};

/// Returns an entry with a document of 200 bytes.
fn entry_of_200_bytes(sequence: u64) -> Submission {
    let mut submission = entry(sequence);
    let rest = 200 - r#"{"text":""}"#.len();
    submission.data = format!(r#"{{"text":"{}"}}"#, "x".repeat(rest)).into();
    submission
}

#[test]
fn commit_is_one_write_and_one_sync() {
    // The bytes that are written for each byte that is published.
    for (entries, ratio) in [(1, 1.5), (64, 1.2)] {
        let disk = Disk::default();
        let segment_bytes = 1 << 20;
        let mut log = open_on(
            &disk,
            &StoreOptions {
                segment_bytes,
                ..options()
            },
        )
        .unwrap();
        let mut append = |first: u64| {
            let batch: Vec<_> = (first..first + entries).map(entry_of_200_bytes).collect();
            let weight: usize = batch.iter().map(Submission::weight).sum();
            // A time of today: numbers take more space later.
            log.append(batch, 1_800_000_000_000).unwrap();
            weight
        };
        append(1);
        let before = disk.segment_use();
        let operations = disk.operations();
        let weight = append(1 + entries);
        let after = disk.segment_use();
        assert_eq!(
            (after.writes, after.syncs),
            (before.writes + 1, before.syncs + 1)
        );
        assert_eq!(disk.operations(), operations + 2, "nothing else is written");
        let written = (after.bytes - before.bytes) as f64 / weight as f64;
        assert!(written <= ratio, "{written} bytes for each published");
    }
}

#[test]
fn page_of_documents_opens_a_segment_once_and_reads_little() {
    const DOCUMENTS: u64 = 1_000;
    // In the order in which the documents were changed, and far apart from each other.
    for (step, most) in [(1, 400), (337, 500)] {
        let disk = Disk::default();
        let mut log = open_on(&disk, &StoreOptions::new(EPOCH_7)).unwrap();
        let own = |sequence: u64| {
            let mut submission = entry_of_200_bytes(sequence);
            let id = format!("d{:04}", sequence * step % DOCUMENTS);
            submission.document = DocumentKey::new("db", "c", id);
            submission
        };
        log.append((1..=DOCUMENTS).map(own).collect(), 0).unwrap();
        log.maintain(20_000).unwrap();
        let (opens, bytes) = disk.segment_reads();
        let page = log.reader().documents(DocumentQuery {
            database: "db",
            collection: Some("c"),
            after: None,
            max_documents: DOCUMENTS as usize,
            max_bytes: usize::MAX,
        });
        let mut offsets: Vec<_> = page.unwrap().documents.iter().map(|it| it.offset).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=DOCUMENTS).collect::<Vec<_>>());
        let (opened, read) = disk.segment_reads();
        assert_eq!(opened - opens, 1);
        let each = (read - bytes) / DOCUMENTS as usize;
        assert!(each <= most, "{each} bytes are read for each document");
    }
}

#[test]
fn index_adds_little_to_what_is_written() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &StoreOptions::new(EPOCH_7)).unwrap();
    let (bytes, syncs) = (disk.bytes_written(), disk.syncs());
    let (mut published, mut commits) = (0, 0);
    for round in 0..300 {
        let batch: Vec<_> = (1..=64)
            .map(|it| {
                let sequence = round * 64 + it;
                let mut entry = entry_of_200_bytes(sequence);
                let id = format!("user-{}", sequence.wrapping_mul(0x9e37_79b9) % 20_000);
                entry.document.document_id = id.into();
                entry
            })
            .collect();
        published += batch.iter().map(Submission::weight).sum::<usize>();
        log.append(batch, 1_800_000_000_000).unwrap();
        commits += 1;
        log.maintain(1_800_000_000_000).unwrap();
    }
    let written = (disk.bytes_written() - bytes) as f64 / published as f64;
    assert!(written <= 1.6, "{written} bytes for each published");
    let syncs = (disk.syncs() - syncs) as f64 / f64::from(commits);
    assert!(syncs <= 1.1, "{syncs} syncs for each commit");
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
    SegmentDisk::remove(&disk, &name).unwrap();
    let error = log.append(vec![entry(4)], 1).unwrap_err();
    check_stopped_by_removal(&mut log, &error, &name);
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
    let mut log = SegmentLog::open(dir.path(), &options()).unwrap();
    log.append(vec![entry(1)], 1).unwrap();
    for _ in 0..2 {
        log.min_free_bytes = 1 << 60;
        let error = log.append(vec![entry(2)], 1).unwrap_err();
        assert!(
            matches!(error, LogError::Full { free, needed } if free < needed && free > 0),
            "{error}"
        );
        let checked = Log::check_space(&log, 1);
        assert!(matches!(checked, Err(LogError::Full { .. })), "{checked:?}");
        assert_eq!(read_all(&log).len(), 1);
        assert!(log.maintain(1_000_000).is_ok());
    }
    // An empty batch needs no space.
    assert_eq!(log.append(Vec::new(), 1).unwrap(), []);
    log.min_free_bytes = 0;
    log.check_space(1).unwrap();
    log.append(vec![entry(2)], 1).unwrap();
    assert_eq!(read_all(&log).len(), 2);
}

#[test]
fn files_that_cannot_be_opened_stop_no_log() {
    let disk = Disk::default();
    let options = StoreOptions {
        retention_bytes: Some(20 << 10),
        ..options()
    };
    let mut log = open_on(&disk, &options).unwrap();
    fill(&mut log, 1..=400, 4);
    let segments = disk.segments().len();
    assert!(segments > 5, "{segments} segments");
    let (mut now_ms, mut next) = (1_000_000, 401);
    // The search for the oldest event opens a file, trimming it one after another.
    for opens in [0, 0, 1, 2, 3] {
        disk.refuse_opens_after(Some(opens));
        now_ms += 2_000;
        maintain(&mut log, now_ms);
        let Bounds { first, .. } = log.reader().bounds();
        assert_eq!(first > 0, opens > 1, "the events after {first} are left");
        log.append(vec![entry(next)], 1).unwrap();
        next += 1;
        let error = log.reader().read(first, 1, usize::MAX).unwrap_err();
        let told = "cannot open 0000000000000000000";
        assert!(with_sources(&error).starts_with(told), "{error}");
        // What a directory that is moved away refuses does not come back.
        assert!(!error.is_full());
    }
    disk.refuse_opens_after(None);
    maintain(&mut log, now_ms + 2_000);
    assert!(held_bytes(&log) <= 20 << 10);
    assert_eq!(documents(&log).unwrap().documents.len(), 7);
    drop(log);
    let log = open_on(&disk, &options).unwrap();
    check_readable(&log, &[]);
    assert_eq!(log.reader().bounds().head, next - 1);
}

#[test]
fn file_system_that_is_read_only_refuses_entries_only() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=20, 4);
    disk.set_read_only(true);
    for now_ms in [1_000_000, 1_020_000] {
        let error = log.append(vec![entry(21)], 1).unwrap_err();
        assert!(with_sources(&error).contains("allow writing"), "{error}");
        assert!(error.is_full(), "{error}");
        maintain(&mut log, now_ms);
        assert_eq!(read_all(&log).len(), 20);
    }
    disk.set_read_only(false);
    log.append(vec![entry(21)], 1).unwrap();
    maintain(&mut log, 2_000_000);
    assert_eq!(documents(&log).unwrap().documents.len(), 7);
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
