use std::fmt::Debug;

use super::*;

const KEY: [&str; 3] = ["default", "users", "u1"];

fn entry() -> Entry {
    Entry {
        event: Arc::new(Event {
            offset: 42,
            database: KEY[0].into(),
            collection: KEY[1].into(),
            document_id: KEY[2].into(),
            operation: Operation::Update,
            data: Bytes::from_static(br#"{"name":"Ada","version":7}"#),
            timestamp: 1_700_000_000_000,
        }),
        state: DocumentState {
            version: 7,
            created_at: 1_600_000_000_000,
            deleted: false,
            offset: 42,
        },
    }
}

fn document(content: Option<Content>) -> StoredDocument {
    StoredDocument {
        state: entry().state,
        content,
    }
}

fn content() -> Content {
    Content {
        operation: Operation::Insert,
        data: Bytes::from_static(b"{}"),
        timestamp: -1,
    }
}

/// Every flip of one bit and every cut must be noticed.
fn notices_all_damage<T: Debug>(record: &[u8], decode: impl Fn(&[u8]) -> Result<T, Damage>) {
    decode(record).unwrap();
    for length in 0..record.len() {
        decode(&record[..length]).expect_err("a cut record");
    }
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut damaged = record.to_vec();
            damaged[at] ^= 1 << bit;
            decode(&damaged).expect_err("a flipped bit");
        }
        let mut missing = record.to_vec();
        missing.remove(at);
        // Taking one of two equal neighbours away is found by the length of what is left.
        decode(&missing).expect_err("a missing byte");
    }
    let longer = [record, &[0]].concat();
    decode(&longer).expect_err("a byte too much");
}

#[test]
fn an_event_reads_back_as_written() {
    let mut entry = entry();
    let record = StoredEvent::encode(&entry, 1_000);
    let stored = StoredEvent::decode(42, &record).unwrap();
    assert_eq!(stored.event, entry.event);
    assert_eq!(stored.state, entry.state);
    assert_eq!(stored.bytes_before, 1_000);

    // A clock that was wrong must not break the arithmetic.
    entry.state.created_at = i64::MAX;
    let record = StoredEvent::encode(&entry, u64::MAX);
    let stored = StoredEvent::decode(42, &record).unwrap();
    assert_eq!(stored.state, entry.state);
}

#[test]
fn a_document_reads_back_with_and_without_its_content() {
    for content in [None, Some(content())] {
        let document = document(content);
        let record = document.encode(&KEY);
        assert_eq!(StoredDocument::decode(&KEY, &record).unwrap(), document);
    }
}

#[test]
fn any_damage_to_a_record_is_noticed() {
    let event = StoredEvent::encode(&entry(), 9);
    notices_all_damage(&event, |record| StoredEvent::decode(42, record));

    let record = document(Some(content())).encode(&KEY);
    notices_all_damage(&record, |record| StoredDocument::decode(&KEY, record));

    let producer = StoredProducer {
        state: ProducerState {
            last_sequence: 300,
            marker: Some(Bytes::from_static(b"here")),
        },
        used_ms: 1_700_000_000_000,
    };
    notices_all_damage(&producer.encode("p"), |record| {
        StoredProducer::decode("p", record)
    });

    let number = encode_number("epoch", u64::MAX);
    notices_all_damage(&number, |record| decode_number("epoch", record));
}

#[test]
fn a_record_under_another_key_is_noticed() {
    let event = StoredEvent::encode(&entry(), 0);
    assert_eq!(StoredEvent::decode(43, &event), Err(Damage::Checksum));

    let record = document(None).encode(&["a", "bc", "d"]);
    let moved = StoredDocument::decode(&["ab", "c", "d"], &record);
    assert_eq!(moved, Err(Damage::Checksum));
    assert_eq!(
        decode_number("b", &encode_number("a", 1)),
        Err(Damage::Checksum)
    );
}

#[test]
fn a_record_of_another_format_says_so() {
    let mut record = StoredEvent::encode(&entry(), 0);
    record[0] = 9;
    assert_eq!(
        StoredEvent::decode(42, &record),
        Err(Damage::UnknownFormat(9))
    );
}
