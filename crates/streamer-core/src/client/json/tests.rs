use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::{
    Direction, Epoch, Operation, Window,
    client::{self, WindowDocuments, item},
};

/// The examples of the description of the format.
const PAGE: &str = include_str!("../../../../../docs/subscribe-json.md");

fn at(epoch: u64, offset: u64) -> Position {
    Position::new(Epoch(epoch), offset)
}

fn change(position: Option<Position>, data: &'static str) -> Change {
    Change {
        position,
        event_id: "e1".into(),
        database: "db".into(),
        collection: "rooms".into(),
        document_id: "r1".into(),
        operation: Operation::Update,
        data: Bytes::from_static(data.as_bytes()),
        timestamp: 5,
    }
}

fn line(item: &Item) -> String {
    let mut line = String::new();
    JsonLines::default().write(item, &mut line);
    line
}

fn document(data: &'static str) -> String {
    let mut line = String::new();
    JsonLines::default().write_document(&change(None, data), &mut line);
    line
}

fn gap(reason: GapReason) -> Item {
    Item::Gap(client::Gap { reason })
}

fn resync(reason: ResyncReason, snapshot_follows: bool) -> Item {
    Item::Resync(item::Resync {
        reason,
        lost_from: at(3, 9),
        resumes_at: at(7, 1),
        snapshot_follows,
    })
}

#[test]
fn lines_are_those_of_the_page_in_its_order() {
    let here = Some(at(7, 1));
    let data = "{\"n\":1.10}";
    let items = [
        Item::Change(change(here, data)),
        Item::Left(change(here, data)),
        Item::Snapshot(Snapshot::Document(change(None, data))),
        Item::Snapshot(Snapshot::Begin { follows: at(7, 1) }),
        Item::Snapshot(Snapshot::End(at(7, 1))),
        gap(GapReason::Disconnected),
        gap(GapReason::Overflow { dropped: 43_476 }),
        gap(GapReason::Evicted),
        gap(GapReason::LeftProfile),
        gap(GapReason::TooLarge),
        resync(ResyncReason::Epoch, false),
        resync(ResyncReason::Trimmed, true),
    ];
    let examples: Vec<_> = PAGE.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(items.each_ref().map(line), examples[..]);
    for reason in [
        ResyncReason::Unstated,
        ResyncReason::Epoch,
        ResyncReason::Trimmed,
        ResyncReason::Future,
        ResyncReason::Damaged,
        ResyncReason::Refused,
        ResyncReason::Rights,
    ] {
        let line: Value = serde_json::from_str(&line(&resync(reason, true))).unwrap();
        let reason = line["resync"]["reason"].as_str().unwrap();
        assert!(PAGE.contains(&format!("`{reason}`")), "{reason}");
    }
}

#[test]
fn data_keeps_its_text_and_never_breaks_the_line() {
    for (data, expected) in [
        ("{\"n\":1.10,\"m\":1e400}", "{\"n\":1.10,\"m\":1e400}"),
        (
            "{\n \"a\":\r\n[-0, 18446744073709551616]}",
            "{  \"a\":  [-0, 18446744073709551616]}",
        ),
        ("not \"JSON\"\n", "\"not \\\"JSON\\\"\\n\""),
        ("", "\"\""),
        ("7", "7"),
    ] {
        let line = line(&Item::Change(change(None, data)));
        let end = format!(",\"data\":{expected}}}");
        assert!(line.ends_with(&end), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn subscription_and_fields_belong_to_the_writer() {
    let fields = Projection::new(["n".into()]);
    let lines = JsonLines {
        subscription: Some("a\"b"),
        fields: Some(&fields),
    };
    let mut out = String::new();
    lines.write(&Item::Change(change(None, r#"{"m":2,"n":1.10}"#)), &mut out);
    let end = r#""sub":"a\"b","timestamp":5,"type":"change","data":{"n":1.10}}"#;
    assert!(out.ends_with(end), "{out}");
    out.clear();
    lines.write_document(&change(None, r#"{"m":2,"n":1.10}"#), &mut out);
    assert_eq!(out, r#"{"id":"r1","n":1.10}"#);
}

#[test]
fn document_is_its_data_with_its_id() {
    for (data, expected) in [
        (r#"{"n":1.10}"#, r#"{"id":"r1","n":1.10}"#),
        ("{}", r#"{"id":"r1"}"#),
        ("{ }", r#"{"id":"r1" }"#),
        ("{\n\"n\":1}", r#"{"id":"r1", "n":1}"#),
        ("[1]", r#"{"id":"r1","data":[1]}"#),
        ("{", r#"{"id":"r1","data":"{"}"#),
    ] {
        let line = document(data);
        assert_eq!(line, expected);
        serde_json::from_str::<Value>(&line).unwrap();
    }
}

#[test]
fn updates_of_a_window_have_the_documents_shown() {
    let mut documents = WindowDocuments::new(Window::new("n", Direction::Ascending, 2));
    let mut lines = Vec::new();
    let named = |id: &str, data| Change {
        document_id: Arc::from(id),
        ..change(None, data)
    };
    for item in [
        Item::Snapshot(Snapshot::Begin { follows: at(1, 1) }),
        Item::Snapshot(Snapshot::Bound {
            number: 1,
            bound: None,
        }),
        Item::Snapshot(Snapshot::Document(named("a", r#"{"n":1.0}"#))),
        Item::Snapshot(Snapshot::Document(named("b", r#"{"n":2.0}"#))),
        Item::Snapshot(Snapshot::End(at(1, 2))),
        Item::Change(named("a", r#"{"n":3.0}"#)),
        Item::Left(named("b", "")),
    ] {
        for update in documents.apply(item) {
            let mut line = String::new();
            let position = Some(at(1, 2));
            let document = documents.document(&update);
            JsonLines::default().write_update(&update, document, position, &mut line);
            lines.push(line);
        }
    }
    assert_eq!(
        lines,
        [
            r#"{"id":"a","index":0,"type":"entered","data":{"n":1.0}}"#,
            r#"{"id":"b","index":1,"type":"entered","data":{"n":2.0}}"#,
            r#"{"position":"0000000000000001-2","type":"whole"}"#,
            r#"{"from":0,"id":"a","index":1,"type":"moved","data":{"n":3.0}}"#,
            r#"{"id":"b","index":0,"type":"left"}"#,
        ]
    );
}
