use gateway_message::Payload as Sent;

use super::*;

/// Totals granted since the last look.
fn grants(rig: &mut Rig) -> Vec<(u64, u64)> {
    let credit = |payload| match payload {
        Sent::Credit(credit) => Some((credit.messages, credit.bytes)),
        _ => None,
    };
    rig.take_sent().into_iter().filter_map(credit).collect()
}

/// A rig with a share of four changes and 1,000 bytes, and subscription 1 active at 0.
fn four() -> Rig {
    let mut rig = Rig::with(|config| {
        config.limits.messages = 4;
        config.limits.bytes = 1_000;
    });
    rig.greet_profile(0);
    rig.subscribe(1);
    let request = rig.one_request();
    assert_eq!((request.credit_messages, request.credit_bytes), (4, 1_000));
    rig.accept_at(&request, at(0));
    rig
}

#[test]
fn credit_comes_back_in_batches_as_the_application_takes() {
    let mut rig = four();
    for offset in 1..=4 {
        rig.deliver("s-1", offset - 1, offset);
    }
    assert_eq!(grants(&mut rig), [], "nothing was taken");
    rig.take(1, 1);
    assert_eq!(grants(&mut rig), []);
    rig.take(1, 1);
    assert_eq!(grants(&mut rig), [(6, 1_058)]);
    rig.take(1, 2);
    assert_eq!(grants(&mut rig), [(8, 1_116)]);
    assert_eq!(names(&rig.take_items(1)).len(), 4);
}

#[test]
fn a_delivery_beyond_its_credit_ends_the_stream() {
    let mut rig = four();
    rig.take_signals();
    for offset in 1..=5 {
        rig.deliver("s-1", offset - 1, offset);
    }
    assert!(rig.fault().contains("exceeds its credit"));
    assert_eq!(rig.take_items(1).len(), 4);
}

#[test]
fn duplicates_use_credit_and_it_is_given_back() {
    let mut rig = four();
    rig.deliver("s-1", 0, 1);
    for _ in 0..3 {
        rig.deliver("s-1", 0, 1);
    }
    assert_eq!(grants(&mut rig), [(6, 1_058)]);
    rig.take(1, 1);
    assert_eq!(grants(&mut rig), [(8, 1_116)]);
}

#[test]
fn peer_that_resumes_far_back_never_runs_out_of_credit() {
    let mut rig = four();
    rig.deliver("s-1", 0, 1);
    rig.take(1, 1);
    for _ in 0..100 {
        rig.deliver("s-1", 0, 1);
    }
    rig.deliver("s-1", 1, 2);
    assert_eq!(names(&rig.take_items(1)), ["1", "2"]);
    let granted = grants(&mut rig).last().map(|(messages, _)| *messages);
    assert!(granted > Some(102), "{granted:?}");
}

#[test]
fn after_a_cut_credit_is_capacity_less_what_is_still_queued() {
    let mut rig = four();
    for offset in 1..=3 {
        rig.deliver("s-1", offset - 1, offset);
    }
    rig.resume_profile(9);
    let request = rig.one_request();
    assert_eq!(
        (request.credit_messages, request.credit_bytes),
        (1, 1_000 - 87)
    );
    rig.accept_at(&request, at(3));
    rig.deliver("s-1", 3, 4);
    rig.resume_profile(9);
    let request = rig.one_request();
    assert_eq!(request.credit_messages, 0, "a full queue gets nothing");
    rig.take(1, 4);
    assert_eq!(
        grants(&mut rig),
        [(4, 1_000)],
        "totals count from the request"
    );
}

#[test]
fn taking_while_there_is_no_stream_makes_room_on_the_next() {
    let mut rig = four();
    for offset in 1..=4 {
        rig.deliver("s-1", offset - 1, offset);
    }
    rig.cut();
    rig.take(1, 3);
    rig.open();
    rig.take(1, 1);
    assert_eq!(grants(&mut rig), []);
    rig.receive(welcome(9));
    assert_eq!(rig.one_request().credit_messages, 4);
}

#[test]
fn stalled_subscription_uses_only_its_own_credit() {
    let mut rig = Rig::with(|config| config.limits.messages = 8);
    rig.subscribe(1);
    rig.subscribe(2);
    rig.greet_profile(0);
    let requests = rig.take_requests();
    assert!(requests.iter().all(|request| request.credit_messages == 4));
    for request in &requests {
        rig.accept_at(request, at(0));
    }
    for offset in 1..=100 {
        if offset <= 4 {
            rig.deliver("s-1", offset - 1, offset);
        }
        rig.deliver("s-2", offset - 1, offset);
        rig.take(2, 1);
    }
    assert_eq!(rig.take_items(2).len(), 100);
    assert_eq!(rig.take_items(1).len(), 4);
    assert!(
        !rig.take_signals()
            .iter()
            .any(|s| matches!(s, Signal::Fail(_)))
    );
}

#[test]
fn a_new_request_counts_credit_anew() {
    let mut rig = four();
    rig.deliver("s-1", 0, 1);
    rig.deliver("s-1", 2, 3);
    let request = rig.one_request();
    assert_eq!(request.credit_messages, 3, "one is queued");
    rig.deliver("s-1", 3, 4);
    rig.accept_at(&request, at(1));
    for offset in 2..=4 {
        rig.deliver("s-1", offset - 1, offset);
    }
    assert_eq!(names(&rig.take_items(1)), ["1", "2", "3", "4"]);
    assert!(
        !rig.take_signals()
            .iter()
            .any(|s| matches!(s, Signal::Fail(_)))
    );
}
