//! The ends of subscriptions on a plain peer.

use super::*;

#[test]
fn temporary_refusal_of_a_new_subscription_ends_it() {
    let mut rig = active(1);
    rig.subscribe(2);
    let request = rig.one_request();
    rig.events.clear();
    rig.refuse_plain(&request, "try later");
    let refused = matches!(
        &rig.events[..],
        [Event::Refused { id: SubscriptionId(2), refusal }] if !refusal.permanent
    );
    assert!(refused, "{:?}", rig.events);
    assert_eq!(rig.core.subscriptions(), 1);
}

#[test]
fn subscription_that_ends_while_awaited_completes_the_restore() {
    let mut rig = active(2);
    let requests = reopen(&mut rig);
    assert!(!rig.core.caught_up());
    rig.accept_plain(&requests[0]);
    assert_eq!(rig.take_signals(), [Signal::RestoreProgress]);
    rig.unsubscribe(2);
    assert!(rig.take_signals().contains(&Signal::Restored));
    assert!(rig.core.caught_up());
}

#[test]
fn queue_of_a_subscription_that_ends_counts_no_more() {
    let unsubscribe: fn(&mut Rig) = |rig| rig.unsubscribe(1);
    let refuse: fn(&mut Rig) = |rig| {
        let request = reopen(rig).remove(0);
        rig.refuse_plain(&request, "failed to compile filters");
    };
    for end in [unsubscribe, refuse] {
        let mut rig = Rig::with(|config| {
            config.activity_timeout = None;
            config.limits.messages = 2;
        });
        rig.greet_plain();
        for id in [1, 2] {
            rig.subscribe(id);
            rig.accept_one_plain();
        }
        for name in [1, 2] {
            rig.deliver_plain(&["s-1"], name);
        }
        end(&mut rig);
        rig.take_items(2);
        for name in [3, 4] {
            rig.deliver_plain(&["s-2"], name);
        }
        let delivered = names(&rig.take_items(2));
        assert_eq!(delivered[delivered.len() - 2..], ["3", "4"]);
        assert_eq!(rig.core.counters().overflowed, 0);
    }
}

#[test]
fn temporary_refusal_of_a_live_subscription_fails_restore() {
    let mut rig = active(1);
    let request = reopen(&mut rig).remove(0);
    rig.refuse_plain(&request, "try later");
    let end = rig.failure();
    let text = "subscription s-1: try later".to_owned();
    assert_eq!(
        end,
        End::retry(Initiator::Peer, Reason::RestoreRefused(text))
    );
    assert_eq!(reopen(&mut rig).len(), 1, "still wanted");
}
