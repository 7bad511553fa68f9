use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    Epoch,
    log::{DocumentKey, Log, MemoryLog, Outcome},
};

const NOW: i64 = 1_700_000_000_000;

fn submission(operation: Option<Operation>, data: impl Into<Bytes>) -> Submission {
    let document = DocumentKey::new("default", "users", "u1");
    Submission {
        operation,
        ..Submission::new("p", 1, document, data)
    }
}

fn alive() -> DocumentState {
    DocumentState {
        version: 4,
        created_at: 77,
        deleted: false,
        offset: 9,
    }
}

fn deleted() -> DocumentState {
    DocumentState {
        deleted: true,
        ..alive()
    }
}

fn take(
    operation: Option<Operation>,
    data: impl Into<Bytes>,
    document: Option<DocumentState>,
) -> Result<DocumentEvent, RefusedEntry> {
    let submission = submission(operation, data);
    ingest(&submission, document.as_ref(), 10, NOW, &Limits::default())
}

fn text(ingested: &DocumentEvent) -> &str {
    std::str::from_utf8(&ingested.event.data).unwrap()
}

fn refusal(data: impl Into<Bytes>) -> String {
    take(None, data, None).unwrap_err().to_string()
}

/// Returns version and creation time.
fn version(ingested: &DocumentEvent) -> (u64, i64) {
    (ingested.state.version, ingested.state.created_at)
}

#[test]
fn values_keep_their_exact_text() {
    let stored = take(
        None,
        r#"{"big":9007199254740993,"whole":1.0,"exp":1E2,"deep":{"b":[1.50, 9007199254740993],"a":-0.0},"text":"\u0041<&>"}"#,
        None,
    );
    assert_eq!(
        text(&stored.unwrap()),
        concat!(
            r#"{"big":9007199254740993,"createdAt":1700000000000,"#,
            r#""deep":{"b":[1.50, 9007199254740993],"a":-0.0},"exp":1E2,"text":"\u0041<&>","#,
            r#""updatedAt":1700000000000,"version":1,"whole":1.0}"#
        )
    );
}

#[test]
fn server_metadata_replaces_user_fields() {
    let data = r#"{"version":99,"createdAt":"x","updatedAt":null,"id":"no","collection":"no","_id":"yes","deleted":"mine"}"#;
    assert_eq!(
        text(&take(None, data, None).unwrap()),
        r#"{"_id":"yes","createdAt":1700000000000,"deleted":"mine","updatedAt":1700000000000,"version":1}"#
    );
}

#[test]
fn deleted_member_of_an_insert_is_data() {
    for operation in [None, Some(Operation::Insert), Some(Operation::Update)] {
        let ingested = take(operation, r#"{"deleted":true}"#, None).unwrap();
        assert!(text(&ingested).contains(r#""deleted":true"#));
        assert!(!ingested.state.deleted, "{operation:?}");
        assert_ne!(ingested.event.operation, Operation::Delete);
        let next = take(None, "{}", Some(ingested.state)).unwrap();
        assert_eq!(next.event.operation, Operation::Update);
    }
}

#[test]
fn delete_contains_only_server_metadata() {
    let stored = take(Some(Operation::Delete), r#"{"name":"gone"}"#, Some(alive())).unwrap();
    assert_eq!(
        text(&stored),
        r#"{"createdAt":77,"deleted":true,"updatedAt":1700000000000,"version":5}"#
    );
}

#[test]
fn last_duplicate_key_wins() {
    let stored = take(None, r#"{"a":1,"b":2,"a":3}"#, None).unwrap();
    let data: Value = serde_json::from_slice(&stored.event.data).unwrap();
    assert_eq!((&data["a"], &data["b"]), (&json!(3), &json!(2)));
}

#[test]
fn unnamed_operation_follows_the_document_state() {
    let operation = |document| take(None, "{}", document).unwrap().event.operation;
    assert_eq!(operation(None), Operation::Insert);
    assert_eq!(operation(Some(alive())), Operation::Update);
    assert_eq!(operation(Some(deleted())), Operation::Insert);
}

#[test]
fn named_operation_is_kept_and_so_is_the_creation_time() {
    let insert = take(Some(Operation::Insert), "{}", Some(alive())).unwrap();
    assert_eq!(insert.event.operation, Operation::Insert);
    assert_eq!(version(&insert), (5, 77));

    let update = take(Some(Operation::Update), "{}", None).unwrap();
    assert_eq!(update.event.operation, Operation::Update);
    assert_eq!(version(&update), (1, NOW));
}

#[test]
fn recreated_document_continues_its_version() {
    let back = take(None, "{}", Some(deleted())).unwrap();
    assert_eq!(version(&back), (5, NOW));
    let again = take(Some(Operation::Delete), "", Some(deleted())).unwrap();
    assert_eq!(version(&again), (5, 77));
}

#[test]
fn only_universally_readable_objects_are_accepted() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    for data in [
        "",
        "  ",
        "null",
        "[]",
        "\"text\"",
        "{",
        "{}{}",
        "{\"a\"}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":NaN}",
        "{\"a\":1,}",
        "{\"a\":1e999}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":[{\"b\":\"\\udc00x\"}]}",
        "{\"\\ud800\":1}",
        "{\"a\":\"tab\there\"}",
    ] {
        let refused = refusal(data);
        assert!(
            refused.starts_with("the document is not a JSON object"),
            "{data}: {refused}"
        );
    }
    refusal(&b"{\"a\":\"\xff\"}"[..]);
    refusal(nested(200));
    refusal(nested(1_000_000));
    assert!(take(None, nested(100), None).is_ok());
    assert!(take(None, " \n{ \"a\" : 1 }\t", None).is_ok());
}

#[test]
fn refusal_never_quotes_the_payload() {
    for data in [
        r#""hunter2""#,
        r#"{"a":"hunter2","b":}"#,
        r#"{"hunter2"}"#,
        r#"["hunter2"]"#,
        r#"{"a":hunter2}"#,
    ] {
        assert!(!refusal(data).contains("hunter2"), "{}", refusal(data));
    }
}

#[test]
fn empty_or_too_long_names_are_refused() {
    let limits = Limits {
        entry_bytes: 100,
        name_bytes: 8,
    };
    let with = |change: fn(&mut Submission)| {
        let mut submission = submission(None, "{}");
        change(&mut submission);
        ingest(&submission, None, 1, NOW, &limits).map(|_| ())
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(
        with(|it| it.document.document_id = "".into()),
        Err(RefusedEntry::Empty("document id"))
    );
    assert_eq!(
        with(|it| it.document.collection = "123456789".into()),
        Err(RefusedEntry::NameTooLong {
            name: "collection",
            bytes: 9,
            limit: 8
        })
    );
    assert_eq!(
        with(|it| it.data = Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(90)))),
        Err(RefusedEntry::TooLarge {
            bytes: 113,
            limit: 100
        })
    );
}

#[test]
fn sequence_is_next_committed_or_a_jump() {
    for (last, sequence, expected) in [
        (0, 1, Sequence::Next),
        (5, 6, Sequence::Next),
        (5, 5, Sequence::Committed),
        (5, 1, Sequence::Committed),
        (5, 7, Sequence::Jump),
        (0, 0, Sequence::Jump),
        (5, 0, Sequence::Jump),
        (u64::MAX, u64::MAX, Sequence::Committed),
        (u64::MAX - 1, u64::MAX, Sequence::Next),
    ] {
        assert_eq!(
            check_sequence(last, sequence),
            expected,
            "{sequence} after {last}"
        );
    }
}

/// A reference model of the log: a few maps, and parsed documents.
#[derive(Default)]
struct Model {
    last: BTreeMap<String, u64>,
    documents: BTreeMap<String, (u64, i64, bool)>,
    events: Vec<(String, Operation, Value)>,
}

#[derive(Clone, Debug)]
struct Step {
    producer: &'static str,
    /// Difference from the next sequence: negative for a duplicate, positive for a jump.
    slip: i64,
    document: &'static str,
    operation: Option<Operation>,
    body: Option<i64>,
}

impl Model {
    fn apply(&mut self, step: &Step, sequence: u64, now: i64) -> &'static str {
        let last = self.last.entry(step.producer.to_owned()).or_default();
        if sequence == 0 || sequence > *last + 1 {
            return "jump";
        }
        let deletes = step.operation == Some(Operation::Delete);
        let is_broken = step.body.is_none() && !deletes;
        if sequence <= *last {
            // A refused entry is refused again.
            return if is_broken { "refused" } else { "duplicate" };
        }
        *last = sequence;
        if is_broken {
            return "refused";
        }
        let known = self.documents.get(step.document).copied();
        let exists = known.is_some_and(|(_, _, deleted)| !deleted);
        let operation = step.operation.unwrap_or(if exists {
            Operation::Update
        } else {
            Operation::Insert
        });
        let version = known.map_or(1, |(version, _, _)| version + 1);
        let created = match known {
            Some((_, created, is_gone)) if !is_gone || deletes => created,
            Some(_) | None => now,
        };
        let mut document = json!({"createdAt": created, "updatedAt": now, "version": version});
        if deletes {
            document["deleted"] = json!(true);
        } else {
            document["body"] = json!(step.body);
        }
        self.documents
            .insert(step.document.to_owned(), (version, created, deletes));
        self.events
            .push((step.document.to_owned(), operation, document));
        "appended"
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let operation = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Operation::Insert)),
        1 => Just(Some(Operation::Update)),
        2 => Just(Some(Operation::Delete)),
    ];
    let step = (
        prop_oneof![Just("p"), Just("q")],
        prop_oneof![8 => Just(0_i64), 1 => -3_i64..0, 1 => 1_i64..3],
        prop_oneof![Just("a"), Just("b"), Just("c")],
        operation,
        prop::option::weighted(0.9, any::<i64>()),
    )
        .prop_map(|(producer, slip, document, operation, body)| Step {
            producer,
            slip,
            document,
            operation,
            body,
        });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn log_matches_a_reference_model(steps in steps(), batch_size in 1_usize..8) {
        let mut model = Model::default();
        let mut log = MemoryLog::with_epoch(Epoch(1));
        let mut now = NOW;
        for chunk in steps.chunks(batch_size) {
            now += 1;
            let mut batch = Vec::new();
            let mut expected = Vec::new();
            for step in chunk {
                let next = model.last.get(step.producer).copied().unwrap_or(0) + 1;
                let sequence = next.saturating_add_signed(step.slip);
                batch.push(Submission {
                    producer: step.producer.into(),
                    sequence,
                    document: DocumentKey::new("default", "users", step.document),
                    ..submission(
                        step.operation,
                        step.body.map_or_else(|| "{".to_owned(), |body| format!("{{\"body\":{body}}}")),
                    )
                });
                expected.push(model.apply(step, sequence, now));
            }
            let outcomes = log.append(batch, now).unwrap();
            let actual: Vec<_> = outcomes
                .iter()
                .map(|outcome| match outcome {
                    Outcome::Appended(_) => "appended",
                    Outcome::Duplicate => "duplicate",
                    Outcome::Refused(_) => "refused",
                    Outcome::Jump { .. } => "jump",
                })
                .collect();
            prop_assert_eq!(actual, expected);
        }
        let events = log.reader().read(0, usize::MAX, usize::MAX).unwrap();
        prop_assert_eq!(events.len(), model.events.len());
        for (at, (event, (document, operation, data))) in (1..).zip(events.iter().zip(&model.events)) {
            prop_assert_eq!(event.offset, at);
            prop_assert_eq!(&*event.document_id, document.as_str());
            prop_assert_eq!(event.operation, *operation);
            let stored: Value = serde_json::from_slice(&event.data).unwrap();
            prop_assert_eq!(&stored, data);
        }
    }
}
