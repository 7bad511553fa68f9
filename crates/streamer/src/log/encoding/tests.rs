use std::fmt::Debug;

use super::*;
use crate::{
    Operation, Previous,
    log::{
        KnownNames, Limits, Origin, Submission,
        ingest::{DocumentEvent, ingest},
    },
};

const NOW: i64 = 1_700_000_000_000;

fn key() -> DocumentKey {
    DocumentKey::new("default", "users", "u1")
}

/// Returns the event of a submission with this content.
fn event(change: impl FnOnce(&mut Submission)) -> DocumentEvent {
    let mut submission = Submission::new("p", 1, key(), r#"{"name":"Ada","a":1,"z":[]}"#);
    change(&mut submission);
    let before = DocumentState {
        version: 6,
        created_at: 1_600_000_000_000,
        deleted: false,
        offset: 9,
    };
    ingest(&submission, Some(&before), 42, NOW, &Limits::default()).unwrap()
}

/// Encodes and decodes an event, and returns the encoded length as well.
fn restored(event: &DocumentEvent, logged_ms: i64) -> (StoredEvent, usize) {
    let mut encoded = Vec::new();
    StoredEvent::encode(event, logged_ms, &mut encoded);
    assert!(encoded.len() <= StoredEvent::bound(&event.event));
    let stored = StoredEvent::decode(42, &encoded, &mut KnownNames::default()).unwrap();
    let state = StoredEvent::decode_state(42, &encoded, &mut KnownNames::default());
    assert_eq!(state, Ok((key(), stored.state)));
    (stored, encoded.len())
}

/// Returns the event as a log of format 1 stored it.
fn in_format_1() -> Vec<u8> {
    restored(&event(|_| ()), NOW).0.encode_format_1()
}

fn document(with_event: bool) -> StoredDocument {
    let DocumentEvent { event, state, .. } = event(|_| ());
    // Times before 1970 are allowed.
    let timestamp = -1;
    let event = with_event.then(|| {
        Arc::new(Event {
            timestamp,
            // Not kept: nobody asks for it once the event is trimmed.
            previous: Previous::Unknown,
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
    let origin = |version, created_at, updated_at| Origin {
        marker: Bytes::new(),
        version,
        created_at,
        updated_at,
        timestamp: NOW,
    };
    let events = [
        event(|_| ()),
        event(|it| it.data = Bytes::from_static(b"{}")),
        event(|it| it.operation = Some(Operation::Delete)),
        event(|it| it.operation = Some(Operation::Insert)),
        // An empty name, and names before, between and after those of the metadata.
        event(|it| {
            it.data = Bytes::from_static(br#"{"":1,"v":{},"d":2,"x":"\u00e9","deleted":0}"#);
        }),
        event(|it| it.origin = Some(origin(1, 5, 6))),
        // A wrong clock must not overflow.
        event(|it| it.origin = Some(origin(u64::MAX, i64::MAX, i64::MIN))),
        event(|it| it.origin = Some(origin(0, i64::MIN, i64::MAX))),
    ];
    for event in events {
        for (logged_ms, expected) in [
            (NOW, NOW),
            (NOW + 5, NOW),
            (7_000, 7_000),
            (i64::MIN, i64::MIN),
        ] {
            let (stored, _) = restored(&event, logged_ms);
            assert_eq!(stored.event, event.event);
            assert_eq!(stored.state, event.state);
            assert_eq!(stored.logged_ms, expected);
        }
        let stored = restored(&event, NOW).0;
        let mut whole = Vec::new();
        stored.encode_whole(&mut whole);
        assert_eq!(
            StoredEvent::decode(42, &whole, &mut KnownNames::default()),
            Ok(stored.clone())
        );
        let in_format_1 = stored.encode_format_1();
        // Format 1 does not say what was before.
        let event = Event {
            previous: Previous::Unknown,
            ..Event::clone(&stored.event)
        };
        let expected = StoredEvent {
            event: Arc::new(event),
            ..stored
        };
        assert_eq!(StoredEvent::decode_format_1(42, &in_format_1), Ok(expected));
    }
}

#[test]
fn previous_event_is_stored_as_a_distance() {
    for previous in [
        Previous::Unknown,
        Previous::Nothing,
        Previous::At(41),
        Previous::At(1),
    ] {
        let mut event = event(|_| ());
        let with_previous = Event {
            previous: previous.clone(),
            ..Event::clone(&event.event)
        };
        event.event = Arc::new(with_previous);
        assert_eq!(restored(&event, NOW).0.event.previous, previous);
        // Read back, it is stored by its offset.
        let read = Event {
            offset: 41,
            previous: Previous::Unknown,
            ..Event::clone(&event.event)
        };
        let with_read = Event {
            previous: Previous::Read(Arc::new(read)),
            ..Event::clone(&event.event)
        };
        event.event = Arc::new(with_read);
        assert_eq!(restored(&event, NOW).0.event.previous, Previous::At(41));
    }
}

#[test]
fn previous_event_before_the_log_is_invalid() {
    let mut encoded = Vec::new();
    StoredEvent::encode(&event(|_| ()), NOW, &mut encoded);
    for offset in [1, 32, 33] {
        // The distance is 33.
        let decoded = StoredEvent::decode(offset, &encoded, &mut KnownNames::default());
        assert_eq!(decoded, Err(DecodeError::Invalid), "{offset}");
    }
}

#[test]
fn stored_event_is_smaller_than_what_is_delivered() {
    let event = event(|_| ());
    let (stored, bytes) = restored(&event, NOW);
    // Names and data without the metadata, and a few numbers.
    let published = key().bytes() + r#"{"name":"Ada","a":1,"z":[]}"#.len();
    assert!(bytes <= published + 24, "{bytes} for {published}");
    assert!(stored.event.weight() > bytes);
}

#[test]
fn cut_event_is_an_error() {
    let mut encoded = Vec::new();
    StoredEvent::encode(&event(|_| ()), 7, &mut encoded);
    let data = br#"{"a":1,"name":"Ada","z":[]}"#.len();
    // The end of the data has no length: the record around it has it.
    for length in 0..encoded.len() - data {
        let cut = StoredEvent::decode(42, &encoded[..length], &mut KnownNames::default());
        assert_eq!(cut, Err(DecodeError::Invalid), "{length}");
    }
}

#[test]
fn producer_roundtrip_in_a_record() {
    for marker in [None, Some(Bytes::new()), Some(Bytes::from_static(b"here"))] {
        let state = ProducerState {
            last_sequence: 300,
            marker,
        };
        let producer = StoredProducer { state, used_ms: -1 };
        let mut encoded = Vec::new();
        producer.encode_named("p", &mut encoded);
        assert!(encoded.len() <= producer.bound("p"));
        let restored = StoredProducer::decode_named(&encoded).unwrap();
        assert_eq!(restored, ("p".into(), producer));
    }
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
        StoredEvent::decode_format_1(42, encoded)
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
        StoredEvent::decode_format_1(43, &in_format_1()),
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
        StoredEvent::decode_format_1(42, &encoded),
        Err(DecodeError::UnknownFormat(9))
    );
}
