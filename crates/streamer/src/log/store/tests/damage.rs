//! Damaged, lost and removed files, and the conversion of a log of format 1.

use super::*;

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
pub(super) fn check_readable(log: &SegmentLog, runs: &[RangeInclusive<u64>]) {
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
    (at - 40..at - 30).for_each(|at| disk.flip(&name, at, 1));
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
fn segment_that_is_cut_under_an_open_log_costs_its_events() {
    for is_indexed in [false, true] {
        let disk = Disk::default();
        let mut log = open_on(&disk, &options()).unwrap();
        fill(&mut log, 1..=300, 10);
        let bases = log.shared.segments.bases();
        if !is_indexed {
            // An opened log scans an old segment when it is read first.
            drop(log);
            log = open_on(&disk, &options()).unwrap();
        }
        disk.set_length(&disk.segments()[1], RECORDS);
        check_readable(&log, &[bases[1] + 1..=bases[2]]);
        fill(&mut log, 301..=310, 10);
        log.trim(305).unwrap();
        assert_eq!(read_all(&log).len(), 5);
    }
}

#[test]
fn segment_that_somebody_extended_is_read_to_a_bound() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=200, 10);
    drop(log);
    let segments = disk.segments();
    for name in [&segments[0], segments.last().unwrap()] {
        disk.set_length(name, 64 << 20);
        let mut log = open_on(&disk, &options()).unwrap();
        check_readable(&log, &[]);
        let next = log.reader().bounds().head + 1;
        fill(&mut log, next..=next, 1);
        let held = log.reader().stats().bytes;
        assert!(held < 66 << 20, "{held} bytes");
    }
}

#[test]
fn events_lost_at_the_end_of_a_log_are_damage() {
    type Damage = fn(&Disk, &str);
    let damages: [Damage; 5] = [
        |disk, last| disk.delete(last),
        |disk, last| disk.set_length(last, 0),
        |disk, last| disk.set_length(last, 1_100),
        // The last commit becomes zeros, and the one before it is not whole.
        |disk, _| {
            let (name, at) = find_entry(disk, 55);
            (at..disk.content(&name).len()).for_each(|at| {
                let byte = disk.content(&name)[at];
                disk.flip(&name, at, byte);
            });
        },
        |disk, _| damage_entry(disk, 60),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        for is_closed in [false, true] {
            let disk = Disk::default();
            let mut log = open_on(&disk, &options()).unwrap();
            fill(&mut log, 1..=60, 6);
            // Too early for the index, which would know of them as well.
            maintain(&mut log, 200);
            let mut disk = disk.after_kill();
            if is_closed {
                drop(log);
                disk = disk.after_kill();
            }
            damage(&disk, disk.segments().last().unwrap());
            let log = open_on(&disk, &options()).unwrap();
            let reader = log.reader();
            assert_eq!(reader.bounds().head, 60, "damage {number}");
            let mut after = 0;
            let mut lost = 0;
            while after < 60 {
                match reader.read(after, 100, usize::MAX) {
                    Ok(events) => after = events.last().unwrap().offset,
                    Err(LogError::Damaged { offset, .. }) => {
                        lost += offset - after;
                        after = offset;
                    }
                    Err(error) => panic!("damage {number}: {error}"),
                }
            }
            assert!((1..60).contains(&lost), "damage {number}: {lost}");
            // A publisher whose state is lost is told, and nobody else's sequence is.
            let known = reader.producer("p").unwrap().last_sequence;
            assert!(known == 60 || lost > 1, "damage {number}: {known}");
        }
    }
}

#[test]
fn file_of_the_head_may_be_damaged_or_missing() {
    type Damage = fn(&Disk);
    let damages: [Damage; 4] = [
        |disk| disk.delete(HEAD_FILE),
        |disk| disk.set_length(HEAD_FILE, 7),
        |disk| disk.set_length(HEAD_FILE, 0),
        |disk| disk.flip(HEAD_FILE, 17, 1),
    ];
    for damage in damages {
        let disk = Disk::default();
        let mut log = open_on(&disk, &options()).unwrap();
        fill(&mut log, 1..=60, 6);
        drop(log);
        damage(&disk);
        let log = open_on(&disk, &options()).unwrap();
        check_readable(&log, &[]);
        // It is written again.
        let known = KnownHead::read(&disk).unwrap().unwrap();
        assert_eq!((known.head, known.is_closed), (60, false));
    }
}

#[test]
fn removed_or_replaced_file_of_an_idle_log_is_noticed() {
    type Fault = fn(&Path);
    let remove: Fault = |file| fs::remove_file(file).unwrap();
    // Another file under its name, as a copy that is put back.
    let replace: Fault = |file| {
        let copy = file.with_extension("copy");
        fs::copy(file, &copy).unwrap();
        fs::rename(copy, file).unwrap();
    };
    for (name, fault) in [
        (&*segments::file_name(1), remove),
        (INDEX, remove),
        (INDEX, replace),
        (HEAD_FILE, remove),
        (HEAD_FILE, replace),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = SegmentLog::open(dir.path(), &options()).unwrap();
        fill(&mut log, 1..=3, 3);
        maintain(&mut log, 1_000_000);
        fault(&dir.path().join(name));
        let error = log.maintain(1_002_000).unwrap_err();
        check_stopped_by_removal(&mut log, &error, name);
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
    // Without what is known from before the damage.
    drop(log);
    let mut log = open_on(&disk, &options()).unwrap();
    // Its version still increases, and whether it existed is in doubt.
    let outcomes = log.append(vec![entry(21), entry(22)], 1).unwrap();
    let [Outcome::Appended(_), Outcome::Appended(event)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    let text = std::str::from_utf8(&event.data).unwrap();
    assert!(text.ends_with("\"version\":21}"), "{text}");
    assert_eq!(event.previous, Previous::Unknown);
    let mut lost = entry(5);
    lost.producer = "q".into();
    let outcomes = log.append(vec![lost], 1).unwrap();
    assert_eq!(outcomes, [Outcome::Jump { last: 0 }]);
    log.trim(20).unwrap();
    maintain(&mut log, 1 << 40);
}

/// Changes a document, and returns what the log knows of it from before, and its version.
fn change(log: &mut SegmentLog, id: &str) -> (Previous, u64) {
    let sequence = log.reader().producer("q").unwrap().last_sequence + 1;
    let document = DocumentKey::new("default", "users", id);
    let submission = Submission::new("q", sequence, document, "{}");
    let outcomes = log.append(vec![submission], 1).unwrap();
    let [Outcome::Appended(event)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    let document: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
    let version = document["version"].as_u64().unwrap();
    (event.previous.clone(), version)
}

#[test]
fn documents_are_in_doubt_after_changes_are_lost() {
    type Damage = fn(&Disk);
    // Each with the offset of the last event that is lost.
    let damages: [(Damage, u64); 4] = [
        (|disk| damage_entry(disk, 57), 57),
        (|disk| disk.delete(&disk.segments()[0]), 0),
        (|disk| disk.delete(disk.segments().last().unwrap()), 60),
        // The index is built again, from what is not trimmed.
        (|disk| disk.delete(INDEX), 0),
    ];
    for (number, (damage, lost_upto)) in damages.into_iter().enumerate() {
        let disk = Disk::default();
        let mut log = open_on(&disk, &options()).unwrap();
        fill(&mut log, 1..=60, 6);
        if number == 3 {
            log.trim(50).unwrap();
        }
        // Too early for the index otherwise.
        maintain(&mut log, 200);
        let disk = disk.after_kill();
        let second = log.shared.segments.bases().get(1).copied();
        damage(&disk);
        // What the first segment had.
        let lost_upto = lost_upto.max(match number {
            1 => second.unwrap(),
            3 => log.shared.segments.bases()[0],
            _ => 0,
        });
        assert!(lost_upto > 0, "damage {number}");
        let mut log = open_on(&disk, &options()).unwrap();
        assert!(log.reader().stats().lost_changes > 0, "damage {number}");
        for last in 54..=60 {
            let (previous, version) = change(&mut log, &format!("d{}", last % 7));
            let expected = match last {
                _ if last <= lost_upto => Previous::Unknown,
                _ => Previous::At(last),
            };
            assert_eq!(previous, expected, "damage {number}, event {last}");
            // The changes of the document, the lost ones included.
            assert!(version > (last - 1) / 7 + 1, "damage {number}: {version}");
        }
        for is_applied in [false, true] {
            let id = format!("new-{is_applied}");
            assert_eq!(
                change(&mut log, &id).0,
                Previous::Unknown,
                "damage {number}"
            );
            let head = log.reader().bounds().head;
            assert_eq!(change(&mut log, &id).0, Previous::At(head));
            maintain(&mut log, 1_000_000);
            drop(log);
            log = open_on(&disk, &options()).unwrap();
        }
    }
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
    let mut log = SegmentLog::open(dir.path(), &unlimited).unwrap();
    for start in (1..=100_000).step_by(1_000) {
        fill(&mut log, start..=start + 999, 1_000);
    }
    let burst = size();
    drop(log);
    let options = StoreOptions {
        retention_bytes: Some(LIMIT),
        ..unlimited
    };
    let mut log = SegmentLog::open(dir.path(), &options).unwrap();
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
fn retention_by_bytes_counts_what_commits_leave_free() {
    const LIMIT: u64 = 1 << 20;
    let disk = Disk::default();
    let options = StoreOptions {
        retention_bytes: Some(LIMIT),
        ..StoreOptions::new(EPOCH_7)
    };
    let mut log = open_on(&disk, &options).unwrap();
    // A commit takes a little more than half of a segment of 128 KiB, so that no second one fits.
    for start in (1..=12_000).step_by(400) {
        fill(&mut log, start..=start + 399, 400);
        maintain(&mut log, i64::try_from(start).unwrap() * 1_000);
    }
    let names = disk.segments();
    let segments = names.iter().map(|name| disk.content(name).len() as u64);
    let (size, largest) = (segments.clone().sum::<u64>(), segments.max().unwrap());
    assert!(largest <= LIMIT / 4, "{largest}");
    let bound = LIMIT + 2 * largest;
    assert!(size <= bound, "{size} bytes in {} files", names.len());
    assert!(size >= LIMIT / 2, "{size} bytes");
    let bounds = log.reader().bounds();
    drop(log);
    let log = open_on(&disk, &options).unwrap();
    assert_eq!(log.reader().bounds(), bounds);
}

#[test]
fn retention_goes_past_a_long_damaged_run_at_the_beginning() {
    let disk = Disk::default();
    let mut log = open_on(&disk, &options()).unwrap();
    fill(&mut log, 1..=12_000, 500);
    maintain(&mut log, 1);
    let bases = log.shared.segments.bases();
    drop(log);
    // More events than one transaction removes: no slice reaches a sound one.
    let lost = bases.partition_point(|base| *base <= 9_000) - 1;
    assert!(bases[lost] > 2 * SLICE as u64, "{bases:?}");
    for name in &disk.segments()[..lost] {
        disk.delete(name);
    }
    let limited = StoreOptions {
        retention_bytes: Some(100_000),
        ..options()
    };
    let mut log = open_on(&disk, &limited).unwrap();
    maintain(&mut log, 1_001);
    let first = log.reader().bounds().first;
    assert!(
        first > bases[lost],
        "first {first}, sound after {}",
        bases[lost]
    );
    assert!(held_bytes(&log) <= 100_000);
}

#[test]
fn log_of_format_1_is_converted_at_any_interruption() {
    // Lays out a log as format 1 did.
    let whole = Disk::default();
    let mut log = open_on(&whole, &options()).unwrap();
    fill(&mut log, 1..=60, 7);
    maintain(&mut log, 1_000_000);
    // Format 1 does not say what was before an event.
    let alone = |event: Arc<Event>| Event {
        previous: Previous::Unknown,
        ..Event::clone(&event)
    };
    let originals: Vec<_> = read_all(&log)
        .into_iter()
        .map(alone)
        .map(Arc::new)
        .collect();
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
            let [Outcome::Appended(event)] = &next[..] else {
                panic!("step {step}: {next:?}");
            };
            // The ninth change of its document.
            assert!(event.data.ends_with(b"\"version\":9}"), "step {step}");
        }
        if !failed {
            break;
        }
    }
    assert!(interrupted > 8, "{interrupted}");
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
                // What follows the last commit is zeros, of which a changed one has no effect.
                let content = disk.content(&name);
                let used = content.iter().rposition(|byte| *byte != 0).unwrap();
                (name, rng.random_range(0..=used))
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
fn reads_the_same(mut log: SegmentLog, originals: &[Arc<Event>]) -> bool {
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
            damaged.set_length(&name, length * part / 32);
            match open_on(&damaged, &options()) {
                Ok(log) => drop(reads_the_same(log, &originals)),
                Err(error) => assert_eq!(name, INDEX, "{error:?}"),
            }
        }
    }
}
