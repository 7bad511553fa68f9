//! Snapshots: their items, their cursors, and the positions that are not told meanwhile.

use bytes::Bytes;
use wire::ResyncReason as Why;

use super::*;

/// Opens a stream and has a subscription with a snapshot accepted.
fn accepted_rig(start: Start) -> Rig {
    let mut rig = Rig::new();
    rig.greet_profile(20);
    let options = SubscribeOptions {
        snapshot: true,
        left: true,
        ..SubscribeOptions::default()
    };
    rig.subscribe_with(1, start, options);
    rig.accept_snapshot(None);
    rig
}

impl Rig {
    /// Accepts the only request, as a server that knows snapshots.
    fn accept_snapshot(&mut self, resync: Option<wire::Resync>) -> SubscribeRequest {
        let request = self.one_request();
        assert!(request.left, "a set must know what leaves it");
        let position = resync.as_ref().and_then(|resync| resync.resumes_at);
        let response = SubscribeResponse {
            position: position.or(request.resume).or(Some(on_wire(at(20)))),
            resync,
            snapshot: true,
            left: true,
            ..accepted()
        };
        self.respond(&request, request.request, response);
        request
    }

    fn documents(&mut self, begins: bool, names: &[u64], cursor: &'static [u8], whole_at: u64) {
        self.receive(Payload::Snapshot(wire::Snapshot {
            subscription_id: "s-1".to_owned(),
            request: self.newest_request(),
            begins,
            follows: Some(on_wire(at(10))),
            documents: names.iter().map(|name| event(*name)).collect(),
            cursor: Bytes::from_static(cursor),
            whole_at: (whole_at > 0).then(|| on_wire(at(whole_at))),
            ..wire::Snapshot::default()
        }));
    }

    /// The number of the newest request, of which there is one per stream here.
    fn newest_request(&self) -> u64 {
        self.generation
    }

    /// The positions that the application was told since the last look, with those of markers.
    fn take_positions(&mut self) -> Vec<u64> {
        let events = std::mem::take(&mut self.events).into_iter();
        let positions = events.filter_map(|event| match event {
            Event::Item { item, .. } => item.position(),
            Event::Marker { position, .. } => Some(position),
            Event::Subscribed { position, .. } => position,
            _ => None,
        });
        positions.map(|position| position.offset).collect()
    }
}

#[test]
fn documents_then_changes_then_the_end() {
    let mut rig = accepted_rig(Start::Now);
    rig.documents(true, &[3, 5], b"a", 0);
    rig.documents(false, &[8], b"b", 14);
    rig.deliver("s-1", 10, 12);
    // The next change is beyond the snapshot, which ends before it.
    rig.deliver("s-1", 12, 17);
    let expected = ["begin 10", "doc 3", "doc 5", "doc 8", "12", "end 14", "17"];
    assert_eq!(names(&rig.take_items(1)), expected);
}

#[test]
fn no_position_is_told_before_a_snapshot_is_whole() {
    let mut rig = accepted_rig(Start::Now);
    rig.documents(true, &[3], b"a", 0);
    rig.progress(19, &["s-1"]);
    rig.documents(false, &[8], b"b", 14);
    rig.deliver("s-1", 10, 12);
    rig.progress(13, &[]);
    assert_eq!(rig.take_positions(), [] as [u64; 0]);
    rig.progress(16, &[]);
    assert_eq!(rig.take_positions()[0], 16, "the end");
    rig.deliver("s-1", 16, 18);
    assert_eq!(rig.take_positions(), [18]);
}

#[test]
fn a_cut_continues_by_cursor_and_then_by_position() {
    let mut rig = accepted_rig(Start::Now);
    let cursor = |request: &SubscribeRequest| {
        let snapshot = request.snapshot.as_ref().expect("a snapshot is wanted");
        snapshot.cursor.clone()
    };
    rig.documents(true, &[3], b"a", 0);
    rig.resume_profile(20);
    let request = rig.accept_snapshot(None);
    assert_eq!((request.resume, &*cursor(&request)), (None, &b"a"[..]));
    rig.documents(false, &[8], b"b", 14);
    rig.deliver("s-1", 10, 12);
    // All documents are there: what is missing are changes, less those that the documents contain.
    rig.resume_profile(20);
    let request = rig.accept_snapshot(None);
    assert_eq!(request.resume, Some(on_wire(at(12))));
    assert_eq!(&*cursor(&request), b"b");
    rig.progress(15, &[]);
    rig.resume_profile(20);
    let request = rig.accept_snapshot(None);
    assert_eq!(
        (request.resume, cursor(&request).len()),
        (Some(on_wire(at(15))), 0)
    );
    let expected = ["begin 10", "doc 3", "doc 8", "12", "end 15"];
    assert_eq!(names(&rig.take_items(1)), expected);
}

#[test]
fn a_lost_position_is_told_and_followed_by_documents() {
    let mut rig = accepted_rig(Start::After(at(5)));
    rig.deliver("s-1", 5, 6);
    rig.resume_profile(20);
    rig.accept_snapshot(Some(wire::Resync {
        reason: Why::Trimmed.into(),
        resumes_at: Some(on_wire(at(20))),
    }));
    rig.documents(true, &[8], b"a", 10);
    let items = rig.take_items(1);
    assert_eq!(
        names(&items),
        ["6", "Trimmed 6..20", "begin 10", "doc 8", "end 10"]
    );
    assert_eq!(
        items[1].position(),
        None,
        "the application's state is not whole there"
    );
    // Nothing of the snapshot was received before this cut.
    rig.resume_profile(20);
    assert_eq!(rig.one_request().resume, Some(on_wire(at(10))));
}

#[test]
fn a_document_that_left_is_an_item_of_its_own() {
    let mut rig = accepted_rig(Start::After(at(5)));
    rig.receive(Payload::Delivery(EventDelivery {
        subscription_ids: vec!["s-1".to_owned()],
        event: Some(event(6)),
        position: Some(on_wire(at(6))),
        previous: vec![5],
        left: true,
    }));
    assert_eq!(names(&rig.take_items(1)), ["left 6"]);
}

#[test]
fn a_server_that_ignores_a_part_of_the_request_is_refused() {
    let mut rig = Rig::new();
    rig.greet_profile(20);
    let options = SubscribeOptions {
        snapshot: false,
        left: true,
        ..SubscribeOptions::default()
    };
    rig.subscribe_with(1, Start::Now, options);
    rig.accept_one(at(20));
    let refused =
        |event: &Event| matches!(event, Event::Refused { refusal, .. } if refusal.permanent);
    assert!(rig.events.iter().any(refused));
    let unsubscribed = |payload: &gateway_message::Payload| {
        matches!(payload, gateway_message::Payload::Unsubscribe(_))
    };
    assert!(
        rig.take_sent().iter().any(unsubscribed),
        "the server still has it"
    );
}

#[test]
fn a_loss_before_the_first_documents_changes_nothing() {
    let mut rig = accepted_rig(Start::Now);
    let request = SubscribeRequest {
        subscription_id: "s-1".to_owned(),
        ..SubscribeRequest::default()
    };
    rig.respond(
        &request,
        1,
        SubscribeResponse {
            resync: Some(wire::Resync {
                reason: Why::Damaged.into(),
                resumes_at: Some(on_wire(at(25))),
            }),
            ..accepted()
        },
    );
    rig.documents(true, &[8], b"a", 10);
    assert_eq!(names(&rig.take_items(1)), ["begin 10", "doc 8", "end 10"]);
}

#[test]
fn documents_that_nobody_asked_for_end_the_stream() {
    let mut rig = accepted_rig(Start::After(at(5)));
    rig.documents(false, &[3], b"a", 0);
    assert_eq!(rig.fault(), "documents for s-1, which awaits none");
}
