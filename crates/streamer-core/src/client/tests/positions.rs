use wire::ResyncReason as Why;

use steadfast_wire::streamer::subscribe_request::Start as WireStart;

use super::{profile::active_at, *};

#[test]
fn acknowledgement_fixes_the_start_from_now() {
    let mut rig = Rig::new();
    rig.greet_profile(41);
    rig.subscribe(1);
    let request = rig.one_request();
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(42));
    rig.resume_profile(50);
    assert_eq!(rig.one_request().resume, Some(on_wire(at(42))));
}

#[test]
fn start_is_sent_until_a_server_began_there() {
    for (start, on_wire_start) in [
        (Start::Oldest, WireStart::StartOffset(0)),
        (
            Start::AtTime(1_700_000_000_000),
            WireStart::StartTimeMs(1_700_000_000_000),
        ),
    ] {
        let mut rig = Rig::new();
        rig.greet_profile(41);
        rig.subscribe_from(1, start);
        let request = rig.one_request();
        assert_eq!((request.resume, request.start), (None, Some(on_wire_start)));
        rig.resume_profile(50);
        let request = rig.one_request();
        assert_eq!(request.start, Some(on_wire_start), "nobody answered");
        rig.begin_at(&request, at(30));
        for _ in 0..2 {
            rig.resume_profile(60);
            let request = rig.one_request();
            assert_eq!(
                (request.resume, request.start),
                (Some(on_wire(at(30))), None)
            );
        }
    }
}

#[test]
fn start_is_not_repeated_when_its_position_is_given_up() {
    let mut rig = Rig::new();
    rig.greet_profile(41);
    rig.subscribe_from(1, Start::Oldest);
    let request = rig.one_request();
    rig.begin_at(&request, at(5));
    rig.resume_profile(60);
    for _ in 0..3 {
        // Accepting it would skip what lies between.
        rig.accept_one(at(60));
    }
    let request = rig.one_request();
    assert_eq!((request.resume, request.start), (None, None));
    rig.accept_at(&request, at(60));
    assert_eq!(names(&rig.take_items(1)), ["Refused 5..60"]);
}

#[test]
fn servers_that_do_not_know_starts_are_refused() {
    let greet_older = |rig: &mut Rig| {
        rig.greet_profile(20);
        rig.accept_one(at(20));
    };
    for greet in [&greet_older as &dyn Fn(&mut Rig), &Rig::greet_plain] {
        for start in [Start::Oldest, Start::AtTime(5)] {
            let mut rig = Rig::new();
            rig.subscribe_from(1, start);
            greet(&mut rig);
            let refused = |event: &Event| {
                matches!(event, Event::Refused { refusal, .. }
                    if refusal.permanent && refusal.message.contains("starts"))
            };
            assert!(rig.events.iter().any(refused), "{:?}", rig.events);
        }
    }
}

#[test]
fn started_subscription_is_not_refused_by_a_plain_server() {
    let mut rig = Rig::new();
    rig.greet_profile(20);
    rig.subscribe_from(1, Start::Oldest);
    let request = rig.one_request();
    rig.begin_at(&request, at(5));
    rig.resume_plain();
    assert_eq!(rig.accept_one_plain().start, None);
    assert_eq!(names(&rig.take_items(1)), ["LeftProfile"]);
}

#[test]
fn subscription_resumes_after_its_last_queued_item() {
    let mut rig = active_at(5);
    rig.deliver("s-1", 5, 6);
    rig.deliver("s-1", 6, 9);
    rig.resume_profile(20);
    let request = rig.one_request();
    assert_eq!(request.resume, Some(on_wire(at(9))));
    rig.accept_at(&request, at(9));
    rig.deliver("s-1", 9, 12);
    assert_eq!(names(&rig.take_items(1)), ["6", "9", "12"], "and no gap");
}

#[test]
fn a_position_of_an_earlier_process_is_offered() {
    let mut rig = Rig::new();
    rig.subscribe_from(1, Start::After(Position::new(Epoch(99), 3)));
    rig.greet_profile(20);
    let elsewhere = Position::new(Epoch(99), 3);
    assert_eq!(
        rig.one_request().resume,
        Some(on_wire(elsewhere)),
        "only the server judges epochs"
    );
}

#[test]
fn resumed_subscription_continues_in_the_term_of_the_server() {
    let mut rig = active_at(5);
    rig.cut();
    rig.greet_in(EPOCH + 1, 20);
    let request = rig.one_request();
    assert_eq!(request.resume, Some(on_wire(at(5))));
    let later = |offset| Position::new(Epoch(EPOCH + 1), offset);
    rig.accept_at(&request, later(5));
    rig.deliver_at(&["s-1"], &[5], later(7));
    assert_eq!(names(&rig.take_items(1)), ["7"], "and no resync");
    rig.cut();
    rig.greet_in(EPOCH + 2, 20);
    assert_eq!(rig.one_request().resume, Some(on_wire(later(7))));
}

#[test]
fn a_repeated_delivery_is_dropped_and_counted() {
    let mut rig = active_at(5);
    rig.deliver("s-1", 5, 6);
    rig.deliver("s-1", 5, 6);
    rig.deliver("s-1", 3, 4);
    rig.deliver_at(&["s-1", "s-1"], &[6, 6], at(7));
    assert_eq!(names(&rig.take_items(1)), ["6", "7"]);
    assert_eq!(rig.core.counters().duplicates, 2);
    assert_eq!(rig.core.counters().repeated_ids, 1);
}

#[test]
fn hole_is_requested_again_and_blocks_later_deliveries() {
    let mut rig = active_at(5);
    rig.deliver("s-1", 7, 8);
    let request = rig.one_request();
    assert_eq!(request.resume, Some(on_wire(at(5))));
    rig.deliver("s-1", 8, 9);
    rig.accept_at(&request, at(5));
    rig.deliver("s-1", 5, 7);
    rig.deliver("s-1", 7, 8);
    rig.deliver("s-1", 8, 9);
    assert_eq!(names(&rig.take_items(1)), ["7", "8", "9"]);
    let counters = rig.core.counters();
    assert_eq!((counters.holes, counters.premature), (1, 1));
    assert_eq!(rig.take_signals(), []);
}

#[test]
fn event_in_two_deliveries_reaches_each_subscription_once() {
    let mut rig = active_at(5);
    rig.subscribe(2);
    rig.accept_one(at(5));
    rig.events.clear();
    // A server that restores subscriptions may send one event again, to the other ids.
    rig.deliver("s-1", 5, 6);
    rig.deliver("s-2", 5, 6);
    rig.deliver_at(&["s-1", "s-2"], &[5, 5], at(6));
    assert_eq!(names(&rig.take_items(1)), ["6"]);
    assert_eq!(names(&rig.take_items(2)), ["6"]);
    assert_eq!(rig.core.counters().duplicates, 2);
}

#[test]
fn response_to_an_older_request_is_ignored() {
    let mut rig = active_at(5);
    rig.deliver("s-1", 7, 8);
    let request = rig.one_request();
    let older = SubscribeRequest {
        request: request.request - 1,
        ..request.clone()
    };
    rig.accept_at(&older, at(8));
    rig.deliver("s-1", 8, 9);
    rig.accept_at(&request, at(5));
    rig.deliver("s-1", 5, 7);
    assert_eq!(names(&rig.take_items(1)), ["7"]);
    assert_eq!(rig.core.counters().stray_responses, 1);
}

#[test]
fn third_hole_at_a_position_gives_it_up_with_one_resync() {
    let mut rig = active_at(5);
    for _ in 0..2 {
        rig.deliver("s-1", 7, 8);
        let request = rig.one_request();
        assert_eq!(request.resume, Some(on_wire(at(5))));
        rig.accept_at(&request, at(5));
    }
    rig.deliver("s-1", 7, 8);
    let request = rig.one_request();
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(10));
    rig.deliver("s-1", 10, 11);
    assert_eq!(names(&rig.take_items(1)), ["Refused 5..10", "11"]);
}

#[test]
fn pending_resync_survives_a_lost_stream() {
    let mut rig = active_at(5);
    for _ in 0..3 {
        rig.deliver("s-1", 7, 8);
        let request = rig.one_request();
        if request.resume.is_some() {
            rig.accept_at(&request, at(5));
        }
    }
    rig.resume_profile(30);
    let request = rig.one_request();
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(30));
    assert_eq!(names(&rig.take_items(1)), ["Refused 5..30"]);
}

#[test]
fn position_refused_three_times_is_given_up() {
    let mut rig = active_at(5);
    for _ in 0..5 {
        rig.resume_profile(20);
        rig.take_signals();
        let request = rig.one_request();
        rig.refuse(&request, RefusalCode::Limit, "full");
        assert!(matches!(rig.failure().reason, Reason::RestoreRefused(_)));
    }
    for round in 1..=3 {
        rig.resume_profile(20);
        rig.take_signals();
        let request = rig.one_request();
        assert_eq!(request.resume, Some(on_wire(at(5))));
        rig.refuse(&request, RefusalCode::Unavailable, "disk");
        if round < 3 {
            assert!(matches!(rig.failure().reason, Reason::RestoreRefused(_)));
        }
    }
    assert_eq!(rig.take_signals(), [], "it is not restored yet, nor failed");
    let request = rig.one_request();
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(20));
    assert_eq!(names(&rig.take_items(1)), ["Refused 5..20"]);
    assert_eq!(rig.take_signals(), RESTORED);
}

#[test]
fn resync_is_one_item_before_every_later_one() {
    for (reason, name) in [
        (Why::Epoch, "Epoch"),
        (Why::Trimmed, "Trimmed"),
        (Why::Future, "Future"),
        (Why::Damaged, "Damaged"),
        (Why::Unspecified, "Unstated"),
    ] {
        let mut rig = active_at(5);
        rig.resume_profile(20);
        let request = rig.one_request();
        rig.resync(&request, reason, at(15));
        rig.deliver("s-1", 15, 16);
        let items = rig.take_items(1);
        assert_eq!(names(&items), [format!("{name} 5..15"), "16".to_owned()]);
        assert_eq!(items[0].position(), Some(at(15)));
        assert_eq!(items[1].position(), Some(at(16)));
    }
}

#[test]
fn loss_on_a_living_stream_is_a_resync() {
    let mut rig = Rig::new();
    rig.greet_profile(20);
    rig.subscribe_from(1, Start::After(at(5)));
    let request = rig.accept_one(at(5));
    rig.deliver("s-1", 5, 6);
    let older = SubscribeRequest {
        request: request.request + 1,
        ..request.clone()
    };
    rig.resync(&older, Why::Damaged, at(9));
    rig.accept_at(&request, at(5));
    rig.resync(&request, Why::Damaged, at(9));
    rig.progress(12, &[]);
    rig.deliver("s-1", 9, 14);
    assert_eq!(names(&rig.take_items(1)), ["6", "Damaged 6..9", "14"]);
    assert_eq!(rig.take_sent(), []);
    assert_eq!(rig.core.counters().stray_responses, 2);
    rig.take_signals();
    rig.resync(&request, Why::Damaged, at(3));
    assert!(rig.fault().starts_with("a resync from"));
}

#[test]
fn acceptance_that_would_skip_changes_is_rejected() {
    let mut rig = active_at(5);
    rig.resume_profile(20);
    for _ in 0..2 {
        rig.accept_one(at(20));
        rig.deliver("s-1", 20, 21);
    }
    let request = rig.one_request();
    assert_eq!(request.resume, Some(on_wire(at(5))));
    rig.accept_at(&request, Position::new(Epoch(8), 5));
    let request = rig.one_request();
    assert_eq!(request.resume, None, "the third time it is given up");
    rig.accept_at(&request, at(21));
    assert_eq!(names(&rig.take_items(1)), ["Refused 5..21"]);
}

#[test]
fn acceptance_from_further_back_only_repeats() {
    let mut rig = active_at(5);
    rig.resume_profile(20);
    rig.accept_one(at(3));
    rig.deliver("s-1", 3, 4);
    rig.deliver("s-1", 4, 6);
    assert_eq!(names(&rig.take_items(1)), ["6"]);
}
