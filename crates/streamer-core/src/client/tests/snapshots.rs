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
    assert!(!rig.core.caught_up(), "20 was the head of the greeting");
}

#[test]
fn snapshot_ends_with_the_change_that_makes_it_whole() {
    let mut rig = accepted_rig(Start::Now);
    rig.documents(true, &[3], b"a", 14);
    rig.deliver("s-1", 10, 14);
    assert_eq!(
        names(&rig.take_items(1)),
        ["begin 10", "doc 3", "14", "end 14"]
    );
}

#[test]
fn documents_of_an_older_request_are_ignored() {
    let mut rig = accepted_rig(Start::Now);
    rig.resume_profile(20);
    let begin = |request| wire::Snapshot {
        subscription_id: "s-1".to_owned(),
        request,
        begins: true,
        follows: Some(on_wire(at(10))),
        ..wire::Snapshot::default()
    };
    rig.receive(Payload::Snapshot(begin(2)));
    assert_eq!(rig.core.counters().premature, 1, "not accepted yet");
    rig.accept_snapshot(None);
    rig.receive(Payload::Snapshot(begin(1)));
    assert_eq!(rig.core.counters().premature, 2);
    assert_eq!(names(&rig.take_items(1)), [""; 0]);
    rig.receive(Payload::Snapshot(begin(2)));
    assert_eq!(names(&rig.take_items(1)), ["begin 10"]);
}

#[test]
fn documents_use_credit() {
    let mut rig = Rig::with(|config| config.limits.messages_per_subscription = 2);
    rig.greet_profile(20);
    let options = SubscribeOptions {
        snapshot: true,
        left: true,
        ..SubscribeOptions::default()
    };
    rig.subscribe_with(1, Start::Now, options);
    rig.accept_snapshot(None);
    rig.documents(true, &[1, 2], b"a", 0);
    rig.documents(false, &[3], b"b", 0);
    assert!(rig.fault().contains("credit"));
}

#[test]
fn documents_from_other_rights_are_not_continued() {
    let accept = |rig: &mut Rig, request: &SubscribeRequest, rights| {
        let response = SubscribeResponse {
            position: Some(on_wire(at(20))),
            snapshot: true,
            left: true,
            rights,
            ..accepted()
        };
        rig.respond(request, request.request, response);
    };
    let mut rig = accepted_rig(Start::Now);
    for (rights, continued) in [(0, &b"a"[..]), (8, b""), (8, b"a")] {
        rig.documents(true, &[3], b"a", 0);
        rig.resume_profile(20);
        let request = rig.one_request();
        accept(&mut rig, &request, rights);
        rig.resume_profile(20);
        let request = rig.one_request();
        assert_eq!(request.rights, Some(rights));
        let snapshot = request.snapshot.as_ref().expect("a snapshot is wanted");
        assert_eq!(&*snapshot.cursor, continued, "{rights}");
        accept(&mut rig, &request, rights);
    }
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
fn progress_moves_nothing_while_documents_are_missing() {
    // Progress holds for changes, of which none was sent before the documents.
    let mut rig = accepted_rig(Start::Now);
    rig.documents(true, &[3], b"a", 0);
    rig.progress(20, &[]);
    rig.documents(false, &[8], b"b", 14);
    rig.deliver("s-1", 10, 12);
    let expected = ["begin 10", "doc 3", "doc 8", "12"];
    assert_eq!(names(&rig.take_items(1)), expected);
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
    // The position is lost although no document of the next snapshot has come.
    rig.resume_profile(20);
    assert_eq!(rig.accept_snapshot(None).resume, None);
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
fn a_loss_after_the_answer_is_told_with_the_next_snapshot() {
    let loss = |reason: Why, to| SubscribeResponse {
        resync: Some(wire::Resync {
            reason: reason.into(),
            resumes_at: Some(on_wire(to)),
        }),
        ..accepted()
    };
    let later = Position::new(Epoch(EPOCH + 1), 2);
    for (to, told) in [
        (at(25), "Damaged 5..25"),
        (at(5), "Damaged 5..5"),
        (later, "Damaged 5..2"),
    ] {
        let mut rig = accepted_rig(Start::After(at(5)));
        let request = SubscribeRequest {
            subscription_id: "s-1".to_owned(),
            ..SubscribeRequest::default()
        };
        rig.respond(&request, 1, loss(Why::Damaged, to));
        assert_eq!(names(&rig.take_items(1)), [told]);
        rig.documents(true, &[8], b"a", 10);
        assert_eq!(names(&rig.take_items(1)), ["begin 10", "doc 8", "end 10"]);
    }
}

#[test]
fn a_loss_before_the_first_documents_changes_nothing() {
    let mut rig = accepted_rig(Start::Now);
    rig.take_signals();
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
    assert_eq!(rig.take_signals(), []);
    rig.documents(true, &[8], b"a", 10);
    assert_eq!(names(&rig.take_items(1)), ["begin 10", "doc 8", "end 10"]);
}

#[test]
fn documents_that_nobody_asked_for_end_the_stream() {
    let mut rig = accepted_rig(Start::After(at(5)));
    rig.documents(false, &[3], b"a", 0);
    assert_eq!(rig.fault(), "documents for s-1, which awaits none");
    let mut rig = Rig::new();
    rig.greet_profile(20);
    rig.subscribe(1);
    rig.accept_one(at(20));
    rig.take_signals();
    rig.documents(true, &[3], b"a", 0);
    assert_eq!(rig.fault(), "documents for s-1, which awaits none");
}

/// A client whose subscription 1 has a window of one document that its server has accepted, and the place in it of a
/// document without the field.
fn rig_with_window() -> (Rig, impl Fn(&str) -> Place) {
    let window = crate::Window::new("rank", crate::Direction::Ascending, 1);
    let places = window.clone();
    let place = move |id: &str| {
        places.place_of_wire(&wire::WindowBound {
            document_id: id.to_owned(),
            value: None,
        })
    };
    let mut rig = Rig::new();
    rig.greet_profile(20);
    let options = SubscribeOptions {
        snapshot: true,
        left: true,
        window: Some(window),
    };
    rig.subscribe_with(1, Start::Now, options);
    rig.accept_window();
    (rig, place)
}

impl Rig {
    /// Begins snapshot `number` of the window's documents up to a bound.
    fn begin_window(&mut self, request: u64, number: u32, bound: &Place) {
        self.receive(Payload::Snapshot(wire::Snapshot {
            subscription_id: "s-1".to_owned(),
            request,
            number,
            begins: true,
            follows: Some(on_wire(at(10))),
            whole_at: Some(on_wire(at(10))),
            bound: Some(Box::new(bound.to_wire())),
            ..wire::Snapshot::default()
        }));
    }

    fn accept_window(&mut self) -> SubscribeRequest {
        let request = self.one_request();
        let response = SubscribeResponse {
            position: request.resume.or(Some(on_wire(at(20)))),
            snapshot: true,
            left: true,
            window: true,
            ..accepted()
        };
        self.respond(&request, request.request, response);
        request
    }

    /// The bounds sent since the last look, each with the number of its snapshot.
    fn take_bounds(&mut self) -> Vec<(String, u32)> {
        let bound = |payload| match payload {
            gateway_message::Payload::Credit(credit) => {
                Some((credit.bound?.document_id, credit.snapshot))
            }
            _ => None,
        };
        self.take_sent().into_iter().filter_map(bound).collect()
    }
}

#[test]
fn window_is_narrowed_for_its_newest_snapshot_only() {
    let (mut rig, place) = rig_with_window();
    rig.begin_window(1, 3, &place("m"));
    let items = names(&rig.take_items(1));
    assert_eq!(items, ["begin 10", "bound 1 true", "end 10"]);
    let narrow = |snapshot, id: &str| Command::Narrow {
        id: SubscriptionId(1),
        snapshot,
        bound: place(id),
    };
    for (snapshot, id, sent) in [
        (0, "a", vec![]),
        (1, "n", vec![]),
        (1, "m", vec![]),
        (1, "k", vec![("k".to_owned(), 3)]),
        (1, "l", vec![]),
    ] {
        rig.command(narrow(snapshot, id));
        assert_eq!(rig.take_bounds(), sent, "{snapshot} {id}");
    }
    // Between two streams, the next request tells it. No snapshot of that request has a number yet.
    rig.cut();
    rig.command(narrow(1, "j"));
    assert_eq!(rig.take_bounds(), []);
    rig.greet_profile(20);
    let request = rig.accept_window();
    let bound = request.window.expect("a window").bound.expect("a bound");
    assert_eq!(bound.document_id, "j");
    rig.command(narrow(1, "i"));
    assert_eq!(rig.take_bounds(), [("i".to_owned(), 0)]);
}

#[test]
fn short_window_is_refilled_once_and_not_while_it_begins() {
    let (mut rig, place) = rig_with_window();
    let refill = |snapshot| Command::Refill {
        id: SubscriptionId(1),
        snapshot,
    };
    rig.command(refill(0));
    assert_eq!(rig.take_requests(), [], "one is on its way");
    rig.begin_window(1, 1, &place("m"));
    rig.command(refill(0));
    assert_eq!(rig.take_requests(), [], "of an older snapshot");
    rig.command(refill(1));
    assert_eq!(rig.accept_window().resume, None);
    rig.command(refill(1));
    assert_eq!(rig.take_requests(), [], "asked for already");
    rig.begin_window(2, 2, &place("m"));
    // Between two streams, the next request asks for it.
    rig.cut();
    rig.command(refill(2));
    assert_eq!(rig.take_sent(), []);
    rig.greet_profile(20);
    assert_eq!(rig.one_request().resume, None);
}
