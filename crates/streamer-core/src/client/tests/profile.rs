use gateway_message::Payload as Sent;

use super::*;

/// A rig with subscription 1 active at `offset`, and everything before it forgotten.
pub(super) fn active_at(offset: u64) -> Rig {
    let mut rig = Rig::new();
    rig.greet_profile(offset);
    rig.subscribe(1);
    rig.accept_one(at(offset));
    rig.events.clear();
    rig.signals.clear();
    rig
}

#[test]
fn progress_moves_quiet_subscriptions_only() {
    let mut rig = active_at(5);
    rig.subscribe(2);
    rig.accept_one(at(5));
    rig.events.clear();
    rig.progress(30, &["s-2", "somebody"]);
    let moved = Event::Marker {
        id: SubscriptionId(1),
        position: at(30),
    };
    assert_eq!(rig.events, [moved]);
    rig.progress(30, &[]);
    rig.progress(20, &[]);
    rig.resume_profile(40);
    let resumes: Vec<_> = rig
        .take_requests()
        .iter()
        .map(|request| request.resume)
        .collect();
    assert_eq!(resumes, [Some(on_wire(at(30))), Some(on_wire(at(30)))]);
}

#[test]
fn progress_in_a_heartbeat_ack_precedes_a_delivery() {
    let mut rig = active_at(5);
    rig.call(Protocol::on_heartbeat);
    let timestamp = rig.heartbeat();
    rig.ack(timestamp, Some(progress(8, &[])));
    rig.deliver("s-1", 5, 9);
    assert_eq!(names(&rig.take_items(1)), ["9"]);
    assert_eq!(rig.core.counters().holes, 0);
}

#[test]
fn progress_ignores_a_pending_subscription() {
    let mut rig = active_at(5);
    rig.resume_profile(20);
    rig.events.clear();
    rig.progress(20, &[]);
    assert_eq!(rig.events, []);
}

#[test]
fn restored_is_signalled_after_the_last_response() {
    let mut rig = Rig::new();
    for id in 1..=3 {
        rig.subscribe(id);
    }
    rig.greet_profile(0);
    let requests = rig.take_requests();
    assert_eq!(requests.len(), 3, "all at once");
    rig.take_signals();
    rig.accept_at(&requests[0], at(0));
    rig.subscribe(4);
    rig.refuse(&requests[1], RefusalCode::Invalid, "bad filter");
    assert_eq!(
        rig.take_signals(),
        [Signal::RestoreProgress, Signal::RestoreProgress]
    );
    let late = rig.one_request();
    rig.accept_at(&late, at(0));
    assert_eq!(
        rig.take_signals(),
        [],
        "a subscription made meanwhile does not gate"
    );
    rig.accept_at(&requests[2], at(0));
    assert_eq!(rig.take_signals(), RESTORED);
}

#[test]
fn ten_thousand_are_requested_in_one_round_trip() {
    for greet in [Rig::greet_plain, |rig: &mut Rig| rig.greet_profile(0)] {
        let mut rig = Rig::new();
        for id in 1..=10_000 {
            rig.subscribe(id);
        }
        greet(&mut rig);
        let ids: BTreeSet<_> = rig
            .take_requests()
            .into_iter()
            .map(|request| request.subscription_id)
            .collect();
        assert_eq!(
            ids.len(),
            10_000,
            "with the greeting, and before any answer"
        );
    }
}

#[test]
fn unsubscribing_the_last_pending_one_restores() {
    let mut rig = Rig::new();
    rig.subscribe(1);
    rig.greet_profile(0);
    rig.take_signals();
    rig.unsubscribe(1);
    assert_eq!(rig.take_signals(), RESTORED);
}

#[test]
fn unsubscribing_offline_holds_at_once() {
    let mut rig = active_at(5);
    rig.cut();
    rig.unsubscribe(1);
    assert_eq!(rig.core.subscriptions(), 0);
    rig.greet_profile(20);
    assert_eq!(rig.take_requests(), []);
    assert!(rig.take_signals().contains(&Signal::Restored));
    rig.deliver("s-1", 5, 6);
    assert_eq!(rig.events.iter().filter(|n| is_item(n)).count(), 0);
    assert_eq!(rig.core.counters().unknown_ids, 1);
}

#[test]
fn ids_that_resemble_a_known_one_are_unknown() {
    let mut rig = active_at(5);
    let ids = [
        "s-01", "s-+1", "s-1.", "s-1.2", "s-2", "s-", "s1", "t-1", "",
    ];
    for id in ids {
        rig.deliver(id, 5, 6);
    }
    assert_eq!(rig.core.counters().unknown_ids, ids.len() as u64);
    assert_eq!(rig.events.iter().filter(|n| is_item(n)).count(), 0);
    rig.deliver("s-1", 5, 6);
    assert_eq!(rig.events.iter().filter(|n| is_item(n)).count(), 1);
}

#[test]
fn unsubscribing_during_restore_reaches_the_server() {
    let mut rig = active_at(5);
    rig.resume_profile(20);
    let request = rig.one_request();
    rig.unsubscribe(1);
    let sent = rig.take_sent();
    assert!(
        matches!(&sent[..], [Sent::Unsubscribe(last)]
            if last.subscription_id == "s-1" && last.request > request.request),
        "{sent:?}"
    );
    rig.events.clear();
    rig.accept_at(&request, at(5));
    assert_eq!(rig.events, []);
}

#[test]
fn subscribe_in_flight_at_a_loss_is_requested_again() {
    let mut rig = Rig::new();
    rig.greet_profile(0);
    rig.subscribe(1);
    let lost = rig.one_request();
    rig.resume_profile(3);
    let request = rig.one_request();
    assert_eq!(request.subscription_id, lost.subscription_id);
    assert!(request.request > lost.request);
    rig.accept_at(&request, at(3));
    let answered = Event::Subscribed {
        id: SubscriptionId(1),
        position: Some(at(3)),
        taken_over: false,
    };
    assert!(rig.events.contains(&answered));
}

#[test]
fn temporary_refusal_of_a_new_subscription_ends_it_alone() {
    let mut rig = active_at(5);
    rig.subscribe(2);
    let request = rig.one_request();
    rig.refuse(&request, RefusalCode::Limit, "full");
    let refused = Event::Refused {
        id: SubscriptionId(2),
        refusal: Refusal {
            permanent: false,
            message: "full".to_owned(),
        },
    };
    assert_eq!(rig.events, [refused]);
    assert_eq!(rig.take_signals(), []);
    assert_eq!(rig.core.subscriptions(), 1);
}

#[test]
fn permanently_refused_id_leaves_the_wanted_set() {
    let mut rig = active_at(5);
    rig.resume_profile(20);
    let request = rig.one_request();
    rig.refuse(&request, RefusalCode::Invalid, "no such collection");
    rig.resume_profile(20);
    assert_eq!(rig.take_requests(), []);
}

#[test]
fn malformed_messages_end_the_stream_with_the_reason() {
    let delivery = |change: fn(&mut EventDelivery)| {
        let mut delivery = EventDelivery {
            left: false,
            subscription_ids: vec!["s-1".to_owned()],
            event: Some(event(6)),
            position: Some(on_wire(at(6))),
            previous: vec![5],
        };
        change(&mut delivery);
        Payload::Delivery(delivery)
    };
    let response = |change: fn(&mut SubscribeResponse)| {
        let mut response = SubscribeResponse {
            subscription_id: "s-2".to_owned(),
            success: true,
            request: 2,
            ..SubscribeResponse::default()
        };
        change(&mut response);
        Payload::SubscribeResponse(response)
    };
    let progress_elsewhere = |offset| {
        Payload::Progress(Progress {
            position: Some(on_wire(Position::new(Epoch(1), offset))),
            behind: Vec::new(),
        })
    };
    let cases = [
        (delivery(|d| d.position = None), "has no position"),
        (delivery(|d| d.event = None), "has no event"),
        (
            delivery(|d| d.previous.clear()),
            "1 subscriptions and 0 previous",
        ),
        (delivery(|d| d.previous[0] = 6), "6 was sent before it"),
        (
            delivery(|d| d.event.as_mut().expect("event").operation = 3),
            "unknown operation 3",
        ),
        (
            delivery(|d| d.position.as_mut().expect("position").epoch = 1),
            "follows another log",
        ),
        (
            Payload::Progress(Progress::default()),
            "progress has no position",
        ),
        (progress_elsewhere(9), "progress to"),
        // Also if its offset would not move anything.
        (progress_elsewhere(3), "progress to"),
        (response(|_| {}), "an accepted subscription has no position"),
        (
            response(|r| r.resync = Some(wire::Resync::default())),
            "no position was requested",
        ),
        (
            response(|r| {
                r.success = false;
                r.code = 77;
            }),
            "unknown code 77",
        ),
    ];
    for (payload, fault) in cases {
        let mut rig = active_at(5);
        rig.subscribe(2);
        assert_eq!(rig.one_request().request, 2);
        rig.receive(payload.clone());
        let text = rig.fault();
        assert!(text.contains(fault), "{text:?} for {payload:?}");
        assert_eq!(names(&rig.take_items(1)), [""; 0]);
    }
}

#[test]
fn malformed_resyncs_end_the_stream_with_the_reason() {
    let resync = |reason: i32, resumes_at| wire::Resync { reason, resumes_at };
    for (resync, position, fault) in [
        (resync(1, None), None, "no position to resume at"),
        (resync(9, Some(on_wire(at(8)))), None, "unknown reason 9"),
        (
            resync(1, Some(on_wire(at(8)))),
            Some(on_wire(at(9))),
            "different positions",
        ),
    ] {
        let mut rig = active_at(5);
        rig.resume_profile(20);
        rig.take_signals();
        let request = rig.one_request();
        rig.receive(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id,
            success: true,
            position,
            resync: Some(resync),
            request: request.request,
            ..SubscribeResponse::default()
        }));
        let text = rig.fault();
        assert!(text.contains(fault), "{text:?}");
    }
}

#[test]
fn a_stopped_session_wants_nothing_any_more() {
    let mut rig = active_at(5);
    rig.subscribe(2);
    rig.cut();
    rig.events.clear();
    let end = End::stop(Initiator::Local, Reason::Left);
    for _ in 0..2 {
        let end = end.clone();
        rig.call(|core, now, cx| core.on_stop(now, &end, cx));
    }
    assert_eq!(
        rig.events,
        [Event::Stopped(end.clone()), Event::Stopped(end)]
    );
    assert_eq!(rig.core.subscriptions(), 0);
}

#[test]
fn caught_up_when_all_reach_the_greeting_head() {
    let mut rig = active_at(5);
    rig.subscribe(2);
    rig.accept_one(at(5));
    rig.resume_profile(8);
    assert!(!rig.core.caught_up(), "not restored");
    for request in rig.take_requests() {
        rig.accept_at(&request, at(5));
    }
    assert!(!rig.core.caught_up());
    rig.deliver("s-1", 5, 8);
    assert!(
        !rig.core.caught_up(),
        "the other one may still have to come"
    );
    rig.progress(8, &["s-1"]);
    assert!(rig.core.caught_up());
    rig.deliver("s-1", 8, 9);
    assert!(rig.core.caught_up(), "later changes were not missed");
    // Nobody waits any more for one that is behind when it is given up.
    rig.resume_profile(20);
    for request in rig.take_requests() {
        rig.accept_at(&request, request.resume.unwrap().into());
    }
    rig.progress(20, &["s-1"]);
    assert!(!rig.core.caught_up());
    rig.unsubscribe(1);
    assert!(rig.core.caught_up());
}

#[test]
fn too_large_event_that_is_resent_stops_the_client() {
    let too_large = || Reason::MessageTooLarge("5 MiB".into());
    let mut rig = active_at(5);
    for offset in 6..12 {
        // Each stream delivers something before it fails, so that the next one is further on.
        rig.deliver("s-1", offset - 1, offset);
        rig.cut_by(too_large());
        rig.greet_profile(20);
        rig.accept_one(at(offset));
    }
    rig.cut_by(too_large());
    rig.greet_profile(20);
    rig.accept_one(at(11));
    let signals = rig.take_signals();
    assert!(!signals.iter().any(|it| matches!(it, Signal::Fail(_))));
    rig.cut_by(too_large());
    rig.open();
    assert_eq!(rig.failure(), End::stop(Initiator::Network, too_large()));
    assert_eq!(rig.take_sent(), [], "no hello");
    rig.call(|core, now, cx| core.on_stop(now, &End::stop(Initiator::Local, Reason::Left), cx));
    rig.greet_profile(20);
    assert!(
        rig.take_signals().contains(&Signal::Restored),
        "after a start"
    );
    rig.cut_by(too_large());
    rig.open();
    assert_eq!(rig.take_signals(), [], "the first of its kind again");
}

#[test]
fn progress_is_requested_until_quiet_subscriptions_caught_up() {
    let mut rig = active_at(5);
    rig.resume_profile(8);
    rig.accept_one(at(5));
    assert_eq!(rig.take_sent(), [], "nothing before the stream is live");
    rig.call(Protocol::on_live);
    for (wait, expected) in [
        (0, 1),
        (49, 0),
        (1, 1),
        (100, 1),
        (200, 1),
        (399, 0),
        (1, 1),
    ] {
        rig.wait(Duration::from_millis(wait));
        let sent = rig.sent.len();
        assert_eq!(sent, expected, "after {wait} ms");
        if sent > 0 {
            let timestamp = rig.heartbeat();
            rig.take_sent();
            rig.ack(timestamp, None);
        }
    }
    for _ in 0..3 {
        rig.wait(Duration::from_secs(1));
    }
    rig.take_sent();
    for _ in 0..600 {
        rig.wait(Duration::from_secs(1));
        assert_eq!(rig.take_sent().len(), 1, "one a second");
    }
    rig.progress(8, &[]);
    assert!(rig.core.caught_up());
    assert_eq!(rig.core.deadline(), None);
    rig.subscribe(2);
    rig.take_sent();
    rig.call(Protocol::on_live);
    assert_eq!(rig.take_sent(), [], "there is nothing to wait for");
}

#[test]
fn report_returns_the_counters() {
    let mut rig = active_at(5);
    rig.deliver("s-1", 5, 6);
    rig.events.clear();
    rig.command(Command::Report);
    let counters = Box::new(*rig.core.counters());
    assert_eq!(counters.delivered, 1);
    assert_eq!(rig.events, [Event::Counters(counters)]);
}

#[test]
fn leaving_session_receives_but_sends_nothing() {
    let mut rig = active_at(5);
    rig.open = false;
    rig.deliver("s-1", 5, 6);
    rig.deliver("s-1", 7, 8);
    rig.subscribe(2);
    rig.unsubscribe(1);
    assert_eq!(rig.take_sent(), []);
    assert_eq!(names(&rig.take_items(1)), ["6"]);
}

fn is_item(event: &Event) -> bool {
    matches!(event, Event::Item { .. })
}
