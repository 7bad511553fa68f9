use std::fmt::Debug;

use super::*;

fn key() -> DocumentKey {
    DocumentKey::new("default", "users", "u1")
}

fn event() -> DocumentEvent {
    DocumentEvent {
        event: Arc::new(Event {
            offset: 42,
            database: key().database,
            collection: key().collection,
            document_id: key().document_id,
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

/// Returns the event as a log of format 1 stored it.
fn in_format_1() -> Vec<u8> {
    let encoded = StoredEvent::encode(&event(), 9, 0);
    StoredEvent::decode(42, &encoded).unwrap().encode_format_1()
}

fn document(with_event: bool) -> StoredDocument {
    let DocumentEvent { event, state } = event();
    // Times before 1970 are allowed.
    let timestamp = -1;
    let event = with_event.then(|| {
        Arc::new(Event {
            timestamp,
            ..(*event).clone()
        })
    });
    StoredDocument { state, event }
}

/// Checks that every flipped bit, missing byte and truncation is detected.
fn detects_all_damage<T: Debug>(encoded: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    decode(encoded).unwrap();
    for length in 0..encoded.len() {
        decode(&encoded[..length]).expect_err("truncated");
    }
    for at in 0..encoded.len() {
        for bit in 0..8 {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= 1 << bit;
            decode(&damaged).expect_err("a flipped bit");
        }
        let mut missing = encoded.to_vec();
        missing.remove(at);
        decode(&missing).expect_err("a missing byte");
    }
    let longer = [encoded, &[0]].concat();
    decode(&longer).expect_err("an additional byte");
}

#[test]
fn event_roundtrip() {
    let mut event = event();
    let encoded = StoredEvent::encode(&event, 1_000, event.event.timestamp + 5);
    let stored = StoredEvent::decode(42, &encoded).unwrap();
    assert_eq!(stored.event, event.event);
    assert_eq!(stored.state, event.state);
    assert_eq!(stored.bytes_before, 1_000);
    assert_eq!(stored.logged_ms, event.event.timestamp);
    let encoded = StoredEvent::encode(&event, 0, 7_000);
    assert_eq!(StoredEvent::decode(42, &encoded).unwrap().logged_ms, 7_000);

    // A wrong clock must not overflow.
    event.state.created_at = i64::MAX;
    let encoded = StoredEvent::encode(&event, u64::MAX, i64::MIN);
    let stored = StoredEvent::decode(42, &encoded).unwrap();
    assert_eq!(stored.state, event.state);
}

#[test]
fn document_roundtrip_with_and_without_event() {
    for document in [document(false), document(true)] {
        let encoded = document.encode(&key());
        assert_eq!(StoredDocument::decode(&key(), &encoded).unwrap(), document);
    }
}

#[test]
fn any_damage_is_detected() {
    let encoded = in_format_1();
    detects_all_damage(&encoded, |encoded| {
        StoredEvent::unseal(42, encoded).map(<[u8]>::to_vec)
    });

    let encoded = document(true).encode(&key());
    detects_all_damage(&encoded, |encoded| StoredDocument::decode(&key(), encoded));

    let producer = StoredProducer {
        state: ProducerState {
            last_sequence: 300,
            marker: Some(Bytes::from_static(b"here")),
        },
        used_ms: 1_700_000_000_000,
    };
    detects_all_damage(&producer.encode("p"), |encoded| {
        StoredProducer::decode("p", encoded)
    });

    let encoded = encode_number("epoch", u64::MAX);
    detects_all_damage(&encoded, |encoded| decode_number("epoch", encoded));
}

#[test]
fn a_value_under_another_key_is_detected() {
    assert_eq!(
        StoredEvent::unseal(43, &in_format_1()),
        Err(DecodeError::Checksum)
    );

    let encoded = document(false).encode(&DocumentKey::new("a", "bc", "d"));
    let moved = StoredDocument::decode(&DocumentKey::new("ab", "c", "d"), &encoded);
    assert_eq!(moved, Err(DecodeError::Checksum));
    assert_eq!(
        decode_number("b", &encode_number("a", 1)),
        Err(DecodeError::Checksum)
    );
}

#[test]
fn another_format_is_named() {
    let mut encoded = in_format_1();
    encoded[0] = 9;
    assert_eq!(
        StoredEvent::unseal(42, &encoded),
        Err(DecodeError::UnknownFormat(9))
    );
}
