use proptest::prelude::*;

use super::*;
use crate::puller::document::{document_hash, physical_id};

/// A change of `users/u1` in the form of the original.
fn change(kind: &str, deleted: bool, data: &str) -> ChangeEvent {
    let physical = physical_id("default", "users", "u1");
    let mark = if deleted { r#","deleted":true"# } else { "" };
    let document = format!(
        r#"{{"id":"{physical}","database":"default","collection":"users","collectionHash":"17",
        "updatedAt":20,"createdAt":10,"version":3,"data":{data}{mark}}}"#
    );
    ChangeEvent {
        event_id: "12-1-aa".to_owned(),
        database: "default".to_owned(),
        mgo_coll: "documents".to_owned(),
        mgo_doc_id: physical,
        op_type: kind.to_owned(),
        full_doc: document.into(),
        timestamp: 30,
        ..ChangeEvent::default()
    }
}

#[test]
fn operations_follow_kind_and_deleted_mark() {
    use Operation::{Delete, Insert, Update};
    for (kind, deleted, expected) in [
        ("insert", false, Ok(Insert)),
        ("insert", true, Ok(Insert)),
        ("update", false, Ok(Update)),
        ("update", true, Ok(Delete)),
        ("replace", false, Ok(Insert)),
        ("replace", true, Ok(Delete)),
        ("delete", false, Err(Dropped::HardDelete)),
        ("delete", true, Err(Dropped::HardDelete)),
        ("drop", false, Err(Dropped::UnknownOperation)),
        ("Insert", false, Err(Dropped::UnknownOperation)),
        ("", false, Err(Dropped::UnknownOperation)),
    ] {
        let change = change(kind, deleted, r#"{"id":"u1"}"#);
        let operation = transform(&change).map(|change| change.operation);
        assert_eq!(operation, expected, "{kind} {deleted}");
    }
}

#[test]
fn document_fields_and_times_are_those_of_the_source() {
    let data = r#"{"id":"u1","big":9007199254740993,"whole":1.0,"deleted":"yes","_id":7}"#;
    let changed = transform(&change("update", false, data)).unwrap();
    let expected = SourceChange {
        database: "default".to_owned(),
        collection: "users".to_owned(),
        id: SourceId::Named("u1".to_owned()),
        operation: Operation::Update,
        data: Bytes::from_static(data.as_bytes()),
        version: 3,
        created_at: 10,
        updated_at: 20,
        timestamp: 30,
    };
    assert_eq!(changed, expected);
}

#[test]
fn id_is_named_by_a_text_or_else_hashed() {
    let hashed = SourceId::Hashed(document_hash("users", "u1"));
    for (data, expected) in [
        (r#"{"id":"a\"b"}"#, SourceId::Named("a\"b".to_owned())),
        (r#"{"id":""}"#, hashed.clone()),
        (r#"{"id":5}"#, hashed.clone()),
        (r#"{"id":null}"#, hashed.clone()),
        ("{}", hashed.clone()),
        ("null", hashed.clone()),
    ] {
        let changed = transform(&change("update", true, data));
        assert_eq!(changed.map(|it| it.id), Ok(expected), "{data}");
    }
}

#[test]
fn hash_comes_from_the_stored_id_if_the_physical_one_has_none() {
    let mut without = change("update", true, "{}");
    without.mgo_doc_id = "65f0c0ffee65f0c0ffee65f0".to_owned();
    let hashed = SourceId::Hashed(document_hash("users", "u1"));
    assert_eq!(transform(&without).map(|it| it.id), Ok(hashed));
    without.full_doc = Bytes::from_static(br#"{"collection":"users","data":{}}"#);
    assert_eq!(transform(&without), Err(Dropped::UnknownDocument));
}

#[test]
fn change_without_a_readable_document_is_dropped() {
    for (document, expected) in [
        ("", Dropped::NoDocument),
        ("{", Dropped::Malformed),
        ("[]", Dropped::Malformed),
        (r#"{"version":"x"}"#, Dropped::Malformed),
        (r#"{"data":[]}"#, Dropped::Malformed),
        (r#"{"data":5}"#, Dropped::Malformed),
    ] {
        let mut change = change("insert", false, "{}");
        change.full_doc = document.into();
        assert_eq!(transform(&change), Err(expected), "{document}");
    }
}

#[test]
fn inserted_document_that_is_deleted_says_so() {
    let changed = transform(&change("insert", true, r#"{"id":"u1","deleted":0}"#)).unwrap();
    assert_eq!(changed.data, r#"{"deleted":true,"id":"u1"}"#);
}

proptest! {
    #[test]
    fn any_bytes_give_a_change_or_a_reason(
        kind in "insert|update|replace|delete|[a-z]{0,3}",
        document in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let change = ChangeEvent {
            op_type: kind,
            full_doc: document.into(),
            ..ChangeEvent::default()
        };
        transform(&change).ok();
    }

    #[test]
    fn fields_keep_their_text(
        name in "[a-zA-Z_]{1,8}",
        number in any::<i64>(),
        text in ".{0,12}",
    ) {
        let text = serde_json::to_string(&text).unwrap();
        let data = format!(r#"{{"id":"u1","{name}":{number},"t":{text}}}"#);
        let changed = transform(&change("update", false, &data)).unwrap();
        prop_assert_eq!(changed.data, data);
    }
}
