use proptest::prelude::*;

use super::*;
use crate::puller::{SourceId, transform};

fn event(offset: u64, id: &str, operation: Operation) -> Arc<Event> {
    let data = match operation {
        Operation::Delete => r#"{"createdAt":10,"deleted":true,"updatedAt":20,"version":3}"#,
        Operation::Insert | Operation::Update => {
            r#"{"big":9007199254740993,"createdAt":10,"updatedAt":20,"version":3}"#
        }
    };
    Arc::new(Event {
        previous: crate::Previous::Unknown,
        offset,
        database: "default".into(),
        collection: "users".into(),
        document_id: id.into(),
        operation,
        data: data.into(),
        timestamp: 30,
    })
}

fn terms() -> Terms {
    let mut terms = Terms::new(Epoch(7));
    terms.begin(Epoch(9), 0, 10);
    terms
}

#[test]
fn message_has_the_documented_form() {
    let page = vec![event(12, "u1", Operation::Update)];
    let message = message(&unmerged(page)[0], &terms());
    let progress: Progress = message.progress.parse().unwrap();
    assert_eq!(progress.backends["steadfast"], "0-12-0000000000000009");
    let change = message.change_event.unwrap();
    assert_eq!(change.event_id, "0-12-0000000000000009");
    assert_eq!(
        change.mgo_doc_id,
        "default:9cc4cb561874032b533e18fc761aeed4"
    );
    assert_eq!(change.op_type, "update");
    let document = std::str::from_utf8(&change.full_doc).unwrap();
    let expected = concat!(
        r#"{"id":"default:9cc4cb561874032b533e18fc761aeed4","database":"default","#,
        r#""collection":"users","collectionHash":"17a7a8b05a979c62406ea768c93739c5","#,
        r#""updatedAt":20,"createdAt":10,"version":3,"#,
        r#""data":{"big":9007199254740993,"id":"u1"}}"#
    );
    assert_eq!(document, expected);
}

#[test]
fn own_intake_reads_back_what_is_served() {
    for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
        let page = vec![event(12, "u1", operation)];
        let message = message(&unmerged(page)[0], &terms());
        let change = transform(&message.change_event.unwrap()).unwrap();
        assert_eq!(change.operation, operation);
        assert_eq!(change.id, SourceId::Named("u1".to_owned()));
        let times = (change.created_at, change.updated_at, change.timestamp);
        assert_eq!((times, change.version), ((10, 20, 30), 3));
    }
}

#[test]
fn start_follows_the_marker_or_refuses_it() {
    let bounds = Bounds { first: 5, head: 20 };
    let marker = |backend: &str, id: &str| {
        let backends = BTreeMap::from([(backend.to_owned(), id.to_owned())]);
        start(&Progress { backends }.to_string(), &terms(), bounds)
    };
    let at = |epoch, offset| Position::new(Epoch(epoch), offset);
    let own = |id| marker("steadfast", id);
    assert_eq!(start("", &terms(), bounds), Ok(Start::Now));
    assert_eq!(own("0-0-0000000000000000"), Ok(Start::Oldest));
    assert_eq!(own("0-5-0000000000000007"), Ok(Start::After(5)));
    assert_eq!(own("0-20-0000000000000009"), Ok(Start::After(20)));
    let unknown = |epoch, offset| Err(RefusedMarker::Unknown(at(epoch, offset)));
    assert_eq!(own("0-11-0000000000000007"), unknown(7, 11));
    assert_eq!(own("0-11-0000000000000008"), unknown(8, 11));
    assert_eq!(own("0-21-0000000000000009"), unknown(9, 21));
    let trimmed = Err(RefusedMarker::Trimmed { after: 4, first: 5 });
    assert_eq!(own("0-4-0000000000000007"), trimmed);
    assert_eq!(marker("b1", "12-1-aa"), Err(RefusedMarker::Foreign));
    assert!(matches!(own("12"), Err(RefusedMarker::Invalid(_))));
    assert!(matches!(own("0-7-xyz"), Err(RefusedMarker::Invalid(_))));
    assert!(matches!(
        start("==", &terms(), bounds),
        Err(RefusedMarker::Invalid(_))
    ));
}

#[test]
fn heartbeat_has_a_marker_before_the_first_change() {
    let progress = heartbeat(0, &terms()).progress;
    let bounds = Bounds { first: 0, head: 0 };
    assert_eq!(start(&progress, &terms(), bounds), Ok(Start::Oldest));
    let progress = heartbeat(20, &terms()).progress;
    let bounds = Bounds { first: 5, head: 20 };
    assert_eq!(start(&progress, &terms(), bounds), Ok(Start::After(20)));
}

#[test]
fn merged_changes_keep_their_kind() {
    use Operation::{Delete, Insert, Update};
    for (operations, expected) in [
        (vec![Insert, Update, Update], Insert),
        (vec![Update, Update], Update),
        (vec![Insert, Delete], Delete),
        (vec![Update, Delete], Delete),
        (vec![Delete, Insert], Insert),
        (vec![Update, Delete, Insert, Update], Insert),
        (vec![Delete, Update], Update),
    ] {
        let page = operations
            .iter()
            .zip(1..)
            .map(|(operation, offset)| event(offset, "u1", *operation));
        let merged = coalesce(page.collect());
        let [change] = &merged[..] else {
            panic!("{merged:?}")
        };
        let newest = operations.len() as u64;
        assert_eq!((change.operation, change.event.offset), (expected, newest));
        assert_eq!(change.resume, newest);
    }
}

proptest! {
    /// A consumer is cut after each prefix of a merged page and resumes there.
    #[test]
    fn consumer_of_merged_changes_misses_nothing_after_a_cut(
        history in proptest::collection::vec((0_u8..4, 0_u8..3), 1..30),
        received in 0_usize..30,
    ) {
        let operations = [Operation::Insert, Operation::Update, Operation::Delete];
        let page: Vec<_> = history.iter().zip(1..).map(|((document, kind), offset)| {
            event(offset, &format!("u{document}"), operations[usize::from(*kind)])
        }).collect();
        // The newest change of each document, and the kind of all of them together.
        let state = |changes: &[Merged]| -> BTreeMap<String, (u64, Operation)> {
            let mut state = BTreeMap::new();
            for change in changes {
                let (offset, operation) = (change.event.offset, change.operation);
                state
                    .entry(change.event.document_id.to_string())
                    .and_modify(|(newest, kind)| {
                        *newest = offset;
                        *kind = followed(*kind, operation);
                    })
                    .or_insert((offset, operation));
            }
            state
        };
        let merged = coalesce(page.clone());
        prop_assert!(merged.is_sorted_by_key(|change| change.event.offset));
        prop_assert!(merged.is_sorted_by_key(|change| change.resume));
        prop_assert_eq!(merged.last().unwrap().resume, page.len() as u64);
        let before = &merged[..received.min(merged.len())];
        let resume = before.last().map_or(0, |change| change.resume);
        let mut received = before.to_vec();
        received.extend(coalesce(page[resume as usize..].to_vec()));
        prop_assert_eq!(state(&received), state(&unmerged(page)));
    }
}
