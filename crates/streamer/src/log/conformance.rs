//! The contract of [`Log`] and [`LogReader`]: each test runs on every implementation.
//!
//! To test another implementation, add a variant to [`TestLog`] and a module to `on_every_log!`.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    Bounds, DocumentKey, DocumentQuery, Limits, Log, LogError, LogReader, MemoryLog, Origin,
    Outcome, PRODUCER_LIFETIME_MS, ProducerState, RefusedEntry, SegmentLog, StoreOptions,
    Submission, age_clock::AgeClock, with_previous,
};
use crate::{Epoch, Event, Operation, Position, Previous};

const EPOCH: Epoch = Epoch(0x00c0_ffee);
const LIMITS: Limits = Limits {
    entry_bytes: 1_000,
    name_bytes: 100,
};

macro_rules! on_every_log {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $test() { super::$test(super::TestLog::memory()); })*
        }
        mod file {
            $(#[test] fn $test() { super::$test(super::TestLog::file()); })*
        }
    };
}

on_every_log!(
    offsets_are_consecutive,
    committed_sequence_is_a_duplicate,
    jump_changes_nothing,
    refused_entry_uses_up_its_sequence,
    batch_with_every_kind_of_outcome,
    invalid_producer_name_records_no_sequence,
    versions_continue_across_a_delete,
    read_respects_its_limits,
    read_at_or_beyond_the_head_returns_nothing,
    read_of_a_trimmed_offset_fails,
    offsets_continue_after_trimming_everything,
    reopened_log_has_every_commit,
    opening_begins_a_term_at_the_head,
    documents_are_paged_in_key_order,
    documents_outlive_trimmed_events,
    batch_without_changes_keeps_the_head,
    idle_producer_is_forgotten_after_its_lifetime,
    connected_producer_is_never_forgotten,
    clock_that_jumps_forgets_no_producer,
    marker_is_committed_with_its_entry_and_never_forgotten,
    events_tell_the_previous_one_of_their_document,
    concurrent_reader_sees_whole_commits,
);

/// A log under test, with the means to reopen it as a new process would.
enum TestLog {
    Memory(MemoryLog),
    File {
        dir: TempDir,
        log: Option<Box<SegmentLog>>,
        /// The id of the current term.
        epoch: Epoch,
    },
}

impl TestLog {
    fn memory() -> Self {
        Self::Memory(MemoryLog::with_limits(EPOCH, LIMITS))
    }

    fn file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Some(open(&dir, EPOCH));
        let epoch = EPOCH;
        Self::File { dir, log, epoch }
    }

    fn writer(&mut self) -> &mut dyn Log {
        match self {
            Self::Memory(log) => log,
            Self::File { log, .. } => &mut **log.as_mut().unwrap(),
        }
    }

    fn reader(&mut self) -> Arc<dyn LogReader> {
        self.writer().reader()
    }

    fn reopen(&mut self) {
        match self {
            Self::Memory(log) => *log = log.reopen(),
            Self::File { dir, log, epoch } => {
                *log = None;
                epoch.0 += 1;
                *log = Some(open(dir, *epoch));
            }
        }
    }

    fn append(&mut self, batch: Vec<Submission>) -> Vec<Outcome> {
        self.writer().append(batch, 1_000).unwrap()
    }

    fn last_sequence(&mut self, producer: &str) -> u64 {
        self.reader().producer(producer).unwrap().last_sequence
    }

    fn read_all(&mut self) -> Vec<Arc<Event>> {
        let reader = self.reader();
        let first = reader.bounds().first;
        reader.read(first, usize::MAX, usize::MAX).unwrap()
    }

    /// Maintains the log while time passes.
    fn pass(&mut self, from_ms: i64, to_ms: i64) {
        let mut now_ms = from_ms;
        while now_ms < to_ms {
            now_ms = to_ms.min(now_ms + AgeClock::STEP_MS);
            self.maintain(now_ms);
        }
    }

    /// Maintains the log until no work is due.
    fn maintain(&mut self, now_ms: i64) {
        while self.writer().maintain(now_ms).unwrap() {}
    }
}

fn open(dir: &TempDir, epoch: Epoch) -> Box<SegmentLog> {
    let mut options = StoreOptions::new(epoch);
    options.limits = LIMITS;
    Box::new(SegmentLog::open(dir.path(), &options).unwrap())
}

fn entry(producer: &str, sequence: u64) -> Submission {
    entry_of(producer, sequence, &format!("d{sequence}"))
}

fn entry_of(producer: &str, sequence: u64, document: &str) -> Submission {
    let document = DocumentKey::new("default", "users", document);
    Submission::new(
        producer,
        sequence,
        document,
        format!("{{\"n\":{sequence}}}"),
    )
}

fn delete_of(producer: &str, sequence: u64, document: &str) -> Submission {
    Submission {
        operation: Some(Operation::Delete),
        data: Bytes::new(),
        ..entry_of(producer, sequence, document)
    }
}

fn appended(outcome: &Outcome) -> &Event {
    match outcome {
        Outcome::Appended(event) => event,
        other => panic!("not appended but {other:?}"),
    }
}

fn offsets(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|event| event.offset).collect()
}

fn text(event: &Event) -> &str {
    std::str::from_utf8(&event.data).unwrap()
}

fn offsets_are_consecutive(mut log: TestLog) {
    let mut outcomes = log.append(vec![entry("p", 1), entry("p", 2)]);
    outcomes.extend(log.append(vec![entry("q", 1)]));
    let returned: Vec<_> = outcomes.iter().map(appended).collect();

    let read = log.read_all();
    assert_eq!(offsets(&read), [1, 2, 3]);
    assert!(read.iter().map(|event| &**event).eq(returned), "{read:?}");
    assert_eq!(log.reader().bounds(), Bounds { first: 0, head: 3 });
    assert_eq!(log.last_sequence("p"), 2);
    assert_eq!(log.last_sequence("q"), 1);
}

fn committed_sequence_is_a_duplicate(mut log: TestLog) {
    log.append(vec![entry("p", 1), entry("p", 2)]);
    let outcomes = log.append(vec![entry("p", 1), entry("p", 2), entry("p", 3)]);
    assert_eq!(outcomes[..2], [Outcome::Duplicate, Outcome::Duplicate]);
    assert_eq!(appended(&outcomes[2]).offset, 3);
    assert_eq!(log.read_all().len(), 3);
}

fn jump_changes_nothing(mut log: TestLog) {
    for sequence in [2, 0] {
        assert_eq!(
            log.append(vec![entry("p", sequence)]),
            [Outcome::Jump { last: 0 }]
        );
    }
    log.append(vec![entry("p", 1)]);
    for sequence in [3, u64::MAX] {
        assert_eq!(
            log.append(vec![entry("p", sequence)]),
            [Outcome::Jump { last: 1 }]
        );
    }
    assert_eq!(log.last_sequence("p"), 1);
    appended(&log.append(vec![entry("p", 2)])[0]);
}

fn refused_entry_uses_up_its_sequence(mut log: TestLog) {
    let mut large = entry("p", 1);
    large.data = Bytes::from(vec![b' '; 2_000]);
    let refused = log.append(vec![large]);
    assert!(
        matches!(
            refused[..],
            [Outcome::Refused(RefusedEntry::TooLarge {
                limit: 1_000,
                ..
            })]
        ),
        "{refused:?}"
    );
    assert_eq!(log.last_sequence("p"), 1);
    log.reopen();
    assert_eq!(log.append(vec![entry("p", 1)]), [Outcome::Duplicate]);
    assert_eq!(appended(&log.append(vec![entry("p", 2)])[0]).offset, 1);
}

fn batch_with_every_kind_of_outcome(mut log: TestLog) {
    let broken = Submission {
        data: Bytes::from_static(b"[]"),
        ..entry("p", 3)
    };
    let outcomes = log.append(vec![
        entry_of("p", 1, "a"),
        entry_of("p", 1, "a"),
        entry_of("p", 5, "a"),
        delete_of("p", 2, "a"),
        broken,
        entry_of("q", 1, "a"),
    ]);
    assert_eq!(appended(&outcomes[0]).operation, Operation::Insert);
    assert_eq!(outcomes[1], Outcome::Duplicate);
    assert_eq!(outcomes[2], Outcome::Jump { last: 1 });
    assert_eq!(appended(&outcomes[3]).operation, Operation::Delete);
    assert!(matches!(
        outcomes[4],
        Outcome::Refused(RefusedEntry::NotAnObject(_))
    ));
    let back = appended(&outcomes[5]);
    assert_eq!((back.offset, back.operation), (3, Operation::Insert));
    assert!(text(back).contains(r#""version":3"#), "{}", text(back));
    assert_eq!(log.last_sequence("p"), 3);
}

fn invalid_producer_name_records_no_sequence(mut log: TestLog) {
    let refused = [Outcome::Refused(RefusedEntry::Empty("producer"))];
    assert_eq!(log.append(vec![entry("", 1)]), refused);
    assert_eq!(log.append(vec![entry("", 1)]), refused);

    let oversized = "p".repeat(LIMITS.name_bytes + 1);
    let outcomes = log.append(vec![entry(&oversized, 1)]);
    assert!(matches!(
        outcomes[..],
        [Outcome::Refused(RefusedEntry::NameTooLong { .. })]
    ));
    assert_eq!(log.last_sequence(&oversized), 0);
}

fn versions_continue_across_a_delete(mut log: TestLog) {
    let steps = [
        (entry_of("p", 1, "a"), Operation::Insert, 1_000, 1),
        (entry_of("p", 2, "a"), Operation::Update, 1_000, 2),
        (delete_of("p", 3, "a"), Operation::Delete, 1_000, 3),
        (delete_of("p", 4, "a"), Operation::Delete, 1_000, 4),
        (entry_of("p", 5, "a"), Operation::Insert, 5_000, 5),
        (entry_of("p", 6, "b"), Operation::Insert, 6_000, 1),
    ];
    for (submission, operation, created_at, version) in steps {
        let now_ms = i64::try_from(submission.sequence).unwrap() * 1_000;
        let outcomes = log.writer().append(vec![submission], now_ms).unwrap();
        let event = appended(&outcomes[0]);
        assert_eq!(event.operation, operation);
        assert_eq!(event.timestamp, now_ms);
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(data["version"], version, "{data}");
        assert_eq!(data["createdAt"], created_at, "{data}");
        assert_eq!(data["updatedAt"], now_ms, "{data}");
        log.reopen();
        log.maintain(now_ms);
    }
}

fn read_respects_its_limits(mut log: TestLog) {
    log.append((1..=10).map(|sequence| entry("p", sequence)).collect());
    let reader = log.reader();
    assert_eq!(offsets(&reader.read(0, 3, usize::MAX).unwrap()), [1, 2, 3]);
    assert_eq!(offsets(&reader.read(8, 3, usize::MAX).unwrap()), [9, 10]);
    assert_eq!(reader.read(0, 0, usize::MAX).unwrap(), []);

    let weight = reader.read(0, 1, 1).unwrap()[0].weight();
    assert_eq!(offsets(&reader.read(0, 10, weight).unwrap()), [1]);
    assert_eq!(offsets(&reader.read(0, 10, weight + 1).unwrap()), [1, 2]);
    // One event of any weight.
    assert_eq!(offsets(&reader.read(1, 10, 0).unwrap()), [2]);
}

fn read_at_or_beyond_the_head_returns_nothing(mut log: TestLog) {
    log.append(vec![entry("p", 1)]);
    let reader = log.reader();
    assert_eq!(reader.epoch(), EPOCH);
    for after in [1, 2, u64::MAX] {
        assert_eq!(reader.read(after, 10, 1_000).unwrap(), []);
    }
}

fn read_of_a_trimmed_offset_fails(mut log: TestLog) {
    log.append((1..=10).map(|sequence| entry("p", sequence)).collect());
    log.writer().trim(4).unwrap();
    log.writer().trim(2).unwrap();
    for reopened in [false, true] {
        if reopened {
            log.reopen();
        }
        let reader = log.reader();
        assert_eq!(reader.bounds(), Bounds { first: 4, head: 10 });
        for after in [0, 3] {
            assert!(matches!(
                reader.read(after, 10, 1_000),
                Err(LogError::Trimmed { after: trimmed, first: 4 }) if trimmed == after
            ));
        }
        assert_eq!(offsets(&reader.read(4, 2, 1_000).unwrap()), [5, 6]);
    }
}

fn offsets_continue_after_trimming_everything(mut log: TestLog) {
    log.append(vec![entry("p", 1), entry("p", 2)]);
    log.writer().trim(u64::MAX).unwrap();
    assert_eq!(log.reader().bounds(), Bounds { first: 2, head: 2 });
    assert_eq!(log.reader().read(2, 10, 1_000).unwrap(), []);
    log.reopen();
    let outcomes = log.append(vec![entry("p", 3), entry_of("q", 1, "d1")]);
    assert_eq!(appended(&outcomes[0]).offset, 3);
    assert_eq!(appended(&outcomes[1]).operation, Operation::Update);
    assert_eq!(offsets(&log.read_all()), [3, 4]);
}

fn reopened_log_has_every_commit(mut log: TestLog) {
    log.append((1..=100).map(|sequence| entry("p", sequence)).collect());
    log.append(vec![entry_of("q", 1, "d7")]);
    let before = log.read_all();
    log.reopen();
    assert_eq!(log.read_all(), before);
    assert_eq!(log.last_sequence("p"), 100);
    let outcomes = log.append(vec![entry_of("q", 2, "d7")]);
    let event = appended(&outcomes[0]);
    assert_eq!(event.offset, 102);
    assert!(text(event).contains(r#""version":3"#), "{}", text(event));
}

fn opening_begins_a_term_at_the_head(mut log: TestLog) {
    log.append(vec![entry("p", 1), entry("p", 2)]);
    log.reopen();
    log.append(vec![entry("p", 3)]);
    log.reopen();
    let terms = log.reader().terms();
    let [(first, 0), (second, 2), (third, 3)] = terms.as_parts()[..] else {
        panic!("{terms:?}");
    };
    assert_eq!(first, EPOCH);
    assert!(first != second && second != third && first != third);
    assert_eq!(log.reader().epoch(), third);
    for (epoch, offset, expected) in [(first, 2, true), (first, 3, false), (second, 3, true)] {
        let position = Position::new(epoch, offset);
        assert_eq!(terms.contain(position), expected, "{position}");
    }
}

fn documents_are_paged_in_key_order(mut log: TestLog) {
    let other_document = |sequence, database, collection| Submission {
        document: DocumentKey::new(database, collection, "x"),
        ..entry_of("q", sequence, "x")
    };
    log.append((1..=5).map(|sequence| entry("p", sequence)).collect());
    log.append(vec![
        other_document(1, "default", "usersX"),
        other_document(2, "other", "users"),
        delete_of("p", 6, "d2"),
        entry_of("p", 7, "d4"),
    ]);
    log.maintain(100_000);
    let reader = log.reader();

    let mut ids = Vec::new();
    let mut after: Option<DocumentKey> = None;
    loop {
        let query = DocumentQuery {
            collection: Some("users"),
            after: after.as_ref(),
            max_documents: 2,
            ..DocumentQuery::all("default")
        };
        let page = reader.documents(query).unwrap();
        assert_eq!(page.as_of, 9);
        assert!(page.documents.len() <= 2);
        for event in &page.documents {
            ids.push((event.document_id.to_string(), event.offset));
        }
        match page.next {
            Some(key) => after = Some(key),
            None => break,
        }
    }
    let expected = [("d1", 1), ("d3", 3), ("d4", 9), ("d5", 5)];
    assert_eq!(ids, expected.map(|(id, offset)| (id.to_owned(), offset)));

    let whole = reader.documents(DocumentQuery::all("default")).unwrap();
    assert_eq!(whole.documents.len(), 5);
    assert_eq!(whole.next, None);
    let nowhere = DocumentQuery {
        max_documents: 0,
        max_bytes: 0,
        ..DocumentQuery::all("nowhere")
    };
    let none = reader.documents(nowhere).unwrap();
    assert_eq!((none.documents, none.next), (Vec::new(), None));
}

fn documents_outlive_trimmed_events(mut log: TestLog) {
    log.append(vec![
        entry_of("p", 1, "a"),
        entry_of("p", 2, "b"),
        delete_of("p", 3, "b"),
        entry_of("p", 4, "c"),
        entry_of("p", 5, "c"),
    ]);
    log.maintain(100_000);
    let documents = |log: &mut TestLog| {
        let page = log.reader().documents(DocumentQuery::all("default"));
        let documents = page.unwrap().documents.into_iter();
        // The state before an event is not kept once the event is trimmed.
        let alone = |event: Arc<Event>| Event {
            previous: Previous::Unknown,
            ..Event::clone(&event)
        };
        documents.map(alone).map(Arc::new).collect::<Vec<_>>()
    };
    let before = documents(&mut log);
    assert_eq!(offsets(&before), [1, 5]);
    for upto in 1..=5 {
        log.writer().trim(upto).unwrap();
        assert_eq!(documents(&mut log), before, "trimmed up to {upto}");
    }
    log.reopen();
    assert_eq!(documents(&mut log), before);
}

fn batch_without_changes_keeps_the_head(mut log: TestLog) {
    log.append(vec![entry("p", 1)]);
    assert_eq!(log.append(Vec::new()), []);
    assert_eq!(
        log.append(vec![entry("p", 1), entry("p", 9)]),
        [Outcome::Duplicate, Outcome::Jump { last: 1 }]
    );
    assert_eq!(log.reader().bounds(), Bounds { first: 0, head: 1 });
}

fn idle_producer_is_forgotten_after_its_lifetime(mut log: TestLog) {
    log.append(vec![entry("old", 1)]);
    let later = 1_000 + PRODUCER_LIFETIME_MS;
    log.pass(1_000, later);
    log.writer().append(vec![entry("new", 1)], later).unwrap();
    log.maintain(later);
    assert_eq!(log.last_sequence("old"), 1, "at the end of its lifetime");
    log.pass(later, later + 2 * 60 * 60 * 1_000);
    assert_eq!(log.last_sequence("old"), 0);
    assert_eq!(log.last_sequence("new"), 1);
    assert_eq!(
        log.append(vec![entry("old", 2)]),
        [Outcome::Jump { last: 0 }]
    );
}

fn connected_producer_is_never_forgotten(mut log: TestLog) {
    log.append(vec![entry("p", 1)]);
    let mut now_ms = 1_000;
    for _ in 0..4 {
        log.pass(now_ms, now_ms + PRODUCER_LIFETIME_MS / 2);
        now_ms += PRODUCER_LIFETIME_MS / 2;
        log.writer().touch("p", now_ms).unwrap();
        log.writer().touch("unknown", now_ms).unwrap();
    }
    assert_eq!(log.last_sequence("p"), 1);
    assert_eq!(log.last_sequence("unknown"), 0);
}

fn clock_that_jumps_forgets_no_producer(mut log: TestLog) {
    log.append(vec![entry("p", 1)]);
    for jump in [30, -30, 365, 0, -365] {
        let now_ms = jump * 24 * 60 * 60 * 1_000;
        log.maintain(now_ms);
        assert_eq!(log.last_sequence("p"), 1, "{jump} days");
        log.writer()
            .append(vec![entry(&format!("at {jump}"), 1)], now_ms)
            .unwrap();
        log.maintain(now_ms + 2 * 60 * 60 * 1_000);
        assert_eq!(log.last_sequence(&format!("at {jump}")), 1, "{jump} days");
    }
}

fn marker_is_committed_with_its_entry_and_never_forgotten(mut log: TestLog) {
    let with_origin = |sequence, marker: &'static str| Submission {
        origin: Some(Origin {
            marker: Bytes::from_static(marker.as_bytes()),
            version: 40 + sequence,
            created_at: -5,
            updated_at: 6,
            timestamp: 7,
        }),
        ..entry_of("source", sequence, "d")
    };
    let broken = Submission {
        data: Bytes::from_static(b"{"),
        ..with_origin(2, "b")
    };
    let outcomes = log.append(vec![
        with_origin(1, "a"),
        broken,
        with_origin(9, "never"),
        with_origin(1, "never"),
    ]);
    assert_eq!(
        text(appended(&outcomes[0])),
        r#"{"createdAt":-5,"n":1,"updatedAt":6,"version":41}"#
    );
    assert_eq!(appended(&outcomes[0]).timestamp, 7);
    let expected = ProducerState {
        last_sequence: 2,
        marker: Some(Bytes::from_static(b"b")),
    };
    assert_eq!(log.reader().producer("source").unwrap(), expected);
    log.maintain(1_000 + 2 * PRODUCER_LIFETIME_MS);
    log.reopen();
    assert_eq!(log.reader().producer("source").unwrap(), expected);

    // A local change continues that version.
    let outcomes = log.append(vec![entry_of("p", 1, "d")]);
    assert_eq!(
        text(appended(&outcomes[0])),
        r#"{"createdAt":-5,"n":1,"updatedAt":1000,"version":42}"#
    );
}

fn events_tell_the_previous_one_of_their_document(mut log: TestLog) {
    let previous_of = |outcome: &Outcome| appended(outcome).previous.clone();
    // Also within a commit.
    let outcomes = log.append(vec![
        entry_of("p", 1, "a"),
        entry_of("p", 2, "b"),
        entry_of("p", 3, "a"),
    ]);
    let previous: Vec<_> = outcomes.iter().map(previous_of).collect();
    assert_eq!(
        previous,
        [Previous::Nothing, Previous::Nothing, Previous::At(1)]
    );
    log.reopen();
    let outcomes = log.append(vec![
        entry_of("p", 4, "b"),
        delete_of("p", 5, "a"),
        entry_of("p", 6, "a"),
    ]);
    let previous: Vec<_> = outcomes.iter().map(previous_of).collect();
    assert_eq!(
        previous,
        [Previous::At(2), Previous::At(3), Previous::Nothing]
    );
    let read = log.read_all();
    assert_eq!(read[4].previous, Previous::At(3));
    let completed = with_previous(&*log.reader(), &read[4]);
    assert_eq!(completed.previous, Previous::Read(Arc::clone(&read[2])));
    // What was trimmed cannot be read, and stays as it is.
    log.writer().trim(3).unwrap();
    let kept = with_previous(&*log.reader(), &read[4]);
    assert_eq!(kept.previous, Previous::At(3));
}

fn concurrent_reader_sees_whole_commits(mut log: TestLog) {
    const COMMITS: u64 = 50;
    const PER_COMMIT: u64 = 4;
    let reader = log.reader();
    let reading = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < COMMITS * PER_COMMIT {
            let head = reader.bounds().head;
            assert_eq!(
                head % PER_COMMIT,
                0,
                "a commit is visible entirely or not at all"
            );
            let events = reader.read(seen, 7, usize::MAX).unwrap();
            for event in events {
                seen += 1;
                assert_eq!(event.offset, seen);
            }
        }
    });
    let mut sequences = 1..;
    for _ in 0..COMMITS {
        let batch = sequences
            .by_ref()
            .take(4)
            .map(|it| entry("p", it))
            .collect();
        log.append(batch);
    }
    reading.join().unwrap();
}
