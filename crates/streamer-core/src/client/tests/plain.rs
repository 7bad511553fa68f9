mod ends;

use gateway_message::Payload as Sent;

use super::*;
use crate::client::queue::Queue;
use crate::filter::{Condition, FieldPath, Op, Value};

const TAKEN: &str = "subscription ID already exists";
const OPERATOR: &str = "failed to compile filters: unsupported operator: ==";

/// A rig with subscriptions 1 to `count` active on a plain peer, and everything before forgotten.
fn active(count: u64) -> Rig {
    let mut rig = Rig::with(|config| config.activity_timeout = None);
    rig.greet_plain();
    for id in 1..=count {
        rig.subscribe(id);
        rig.accept_one_plain();
    }
    rig.events.clear();
    rig.signals.clear();
    rig
}

/// Cuts the stream, opens another, and returns the subscribe requests.
fn reopen(rig: &mut Rig) -> Vec<SubscribeRequest> {
    rig.resume_plain();
    rig.signals.clear();
    rig.take_requests()
}

fn filtered(rig: &mut Rig, id: u64, op: Op) {
    on_condition(rig, id, Condition::new("age", op, vec![30]));
}

fn on_condition(rig: &mut Rig, id: u64, condition: Condition) {
    rig.command(Command::Subscribe {
        options: SubscribeOptions::default(),
        id: SubscriptionId(id),
        database: "default".to_owned(),
        collection: "users".to_owned(),
        filter: Filter::new([condition]).expect("a filter"),
        start: Start::Now,
    });
}

#[test]
fn servers_that_do_not_know_null_or_dotted_keys_are_refused() {
    let greet_older = |rig: &mut Rig| {
        rig.greet_profile(20);
        rig.accept_one(at(20));
    };
    for greet in [&greet_older as &dyn Fn(&mut Rig), &Rig::greet_plain] {
        for condition in [
            Condition::new("owner", Op::Ne, Value::Null),
            Condition::new("owner", Op::In, vec![Value::from(1), Value::Null]),
            Condition::new(FieldPath::from_keys(["a.b"]), Op::Eq, 1),
        ] {
            let mut rig = Rig::new();
            on_condition(&mut rig, 1, condition);
            greet(&mut rig);
            let refused = |event: &Event| {
                matches!(event, Event::Refused { refusal, .. }
                    if refusal.permanent && refusal.message.contains("keys with dots"))
            };
            assert!(rig.events.iter().any(refused), "{:?}", rig.events);
        }
    }
}

#[test]
fn servers_that_confirm_null_and_dotted_keys_are_used() {
    let mut rig = Rig::new();
    let path = FieldPath::from_keys(["a.b"]);
    on_condition(&mut rig, 1, Condition::new(path, Op::Ne, Value::Null));
    rig.greet_profile(20);
    let request = rig.one_request();
    let [filter] = &request.filters[..] else {
        panic!("one filter: {request:?}");
    };
    assert_eq!(
        (&*filter.field, &filter.path[..]),
        ("", &["a.b".to_owned()][..])
    );
    let response = SubscribeResponse {
        success: true,
        position: Some(on_wire(at(20))),
        filters: true,
        ..SubscribeResponse::default()
    };
    rig.respond(&request, request.request, response);
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    assert!(!rig.events.iter().any(refused), "{:?}", rig.events);
}

#[test]
fn nothing_of_the_profile_is_sent_to_a_plain_peer() {
    let mut rig = Rig::new();
    rig.subscribe_from(1, Start::After(at(5)));
    rig.greet_plain();
    let request = rig.one_request();
    let plain = SubscribeRequest {
        subscription_id: "s-1".to_owned(),
        collection: "users".to_owned(),
        database: "default".to_owned(),
        ..SubscribeRequest::default()
    };
    assert_eq!(request, plain);
    rig.accept_plain(&request);
    rig.take_sent();
    rig.take(1, 0);
    rig.unsubscribe(1);
    let sent = rig.take_sent();
    assert!(
        matches!(&sent[..], [Sent::Unsubscribe(request)] if request.request == 0),
        "{sent:?}"
    );
}

#[test]
fn id_held_by_a_dead_stream_is_reclaimed() {
    let mut rig = active(1);
    let request = reopen(&mut rig).remove(0);
    rig.refuse_plain(&request, TAKEN);
    let sent = rig.take_sent();
    let [Sent::Unsubscribe(gone), Sent::Subscribe(again)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(gone.subscription_id, request.subscription_id);
    assert_eq!(again, &request);
    assert_eq!(rig.take_signals(), [], "connected only once it is answered");
    rig.accept_plain(again);
    assert_eq!(rig.take_signals(), RESTORED);
    rig.deliver_plain(&["s-1"], 1);
    assert_eq!(names(&rig.take_items(1)), ["Disconnected", "1"]);
}

#[test]
fn unreclaimable_id_is_replaced_transparently() {
    let mut rig = active(1);
    let request = reopen(&mut rig).remove(0);
    rig.refuse_plain(&request, TAKEN);
    rig.take_sent();
    rig.refuse_plain(&request, TAKEN);
    let renamed = rig.one_request();
    assert_ne!(renamed.subscription_id, request.subscription_id);
    assert!(renamed.subscription_id.starts_with("s-1."));
    rig.accept_plain(&renamed);
    assert_eq!(rig.take_signals(), RESTORED);
    rig.deliver_plain(&[&renamed.subscription_id], 1);
    rig.deliver_plain(&["s-1"], 2);
    assert_eq!(names(&rig.take_items(1)), ["Disconnected", "1"]);
    assert_eq!(rig.core.counters().unknown_ids, 1);
    let after = reopen(&mut rig).remove(0);
    assert_eq!(after.subscription_id, renamed.subscription_id);
}

#[test]
fn id_taken_under_its_new_name_fails_the_restore() {
    let mut rig = active(1);
    let request = reopen(&mut rig).remove(0);
    rig.refuse_plain(&request, TAKEN);
    rig.refuse_plain(&request, TAKEN);
    let renamed = rig.take_requests().pop().expect("a second request");
    rig.refuse_plain(&renamed, TAKEN);
    assert!(matches!(rig.failure().reason, Reason::RestoreRefused(_)));
    assert_eq!(rig.core.subscriptions(), 1, "still wanted");
}

#[test]
fn too_large_event_of_a_plain_peer_costs_one_gap() {
    let mut rig = active(2);
    rig.cut_by(Reason::MessageTooLarge("5 MiB".into()));
    rig.greet_plain();
    rig.accept_all_plain();
    rig.deliver_plain(&["s-1"], 1);
    assert_eq!(names(&rig.take_items(1)), ["TooLarge", "1"]);
    assert_eq!(names(&rig.take_items(2)), ["TooLarge"]);
    assert_eq!(rig.core.counters().gaps_too_large, 2);
}

#[test]
fn each_plain_outage_is_one_gap() {
    let mut rig = active(2);
    for _ in 0..3 {
        let requests = reopen(&mut rig);
        for request in &requests {
            rig.accept_plain(request);
        }
    }
    assert_eq!(names(&rig.take_items(1)), ["Disconnected"; 3]);
    assert_eq!(names(&rig.take_items(2)), ["Disconnected"; 3]);
}

#[test]
fn gap_precedes_a_delivery_before_the_acknowledgement() {
    let mut rig = active(1);
    let request = reopen(&mut rig).remove(0);
    rig.deliver_plain(&["s-1"], 1);
    rig.accept_plain(&request);
    rig.deliver_plain(&["s-1"], 2);
    assert_eq!(names(&rig.take_items(1)), ["Disconnected", "1", "2"]);
}

#[test]
fn unacknowledged_delivery_is_enough_for_a_later_gap() {
    let mut rig = Rig::with(|config| config.activity_timeout = None);
    rig.greet_plain();
    rig.subscribe(1);
    rig.deliver_plain(&["s-1"], 1);
    let request = reopen(&mut rig).remove(0);
    rig.accept_plain(&request);
    assert_eq!(names(&rig.take_items(1)), ["1", "Disconnected"]);
}

#[test]
fn failed_attempts_of_one_outage_make_one_gap() {
    let mut rig = active(1);
    for _ in 0..5 {
        rig.cut();
        rig.open();
    }
    rig.cut();
    let request = reopen(&mut rig).remove(0);
    rig.accept_plain(&request);
    assert_eq!(names(&rig.take_items(1)), ["Disconnected"]);
}

#[test]
fn a_subscription_never_acknowledged_has_no_gap() {
    let mut rig = Rig::new();
    rig.subscribe(1);
    rig.greet_plain();
    let request = reopen(&mut rig).remove(0);
    rig.accept_plain(&request);
    assert_eq!(rig.take_items(1), []);
}

#[test]
fn id_repeated_in_a_delivery_gets_the_change_once() {
    let mut rig = active(2);
    rig.deliver_plain(&["s-1", "s-2", "s-1", "other"], 1);
    rig.deliver_plain(&["s-1"], 2);
    assert_eq!(names(&rig.take_items(1)), ["1", "2"]);
    let counters = rig.core.counters();
    assert_eq!((counters.repeated_ids, counters.unknown_ids), (1, 1));
    assert_eq!(counters.delivered, 3);
}

#[test]
fn refused_operator_is_respelled_and_spelling_kept() {
    let mut rig = Rig::with(|config| config.activity_timeout = None);
    rig.greet_plain();
    filtered(&mut rig, 1, Op::Eq);
    let request = rig.one_request();
    assert_eq!(request.filters[0].op, "==");
    rig.refuse_plain(&request, OPERATOR);
    let request = rig.one_request();
    assert_eq!(request.filters[0].op, "eq");
    rig.accept_plain(&request);
    filtered(&mut rig, 2, Op::Ne);
    let request = rig.one_request();
    assert_eq!(request.filters[0].op, "ne", "kept for the peer");
    rig.accept_plain(&request);
    let ops: Vec<_> = reopen(&mut rig)
        .iter()
        .map(|request| request.filters[0].op.clone())
        .collect();
    assert_eq!(ops, ["eq", "ne"]);
    rig.resume_plain();
    let request = rig.take_requests().remove(0);
    rig.refuse_plain(
        &request,
        "failed to compile filters: unsupported operator: eq",
    );
    assert_eq!(
        rig.one_request().filters[0].op,
        "==",
        "and given up for another"
    );
}

#[test]
fn operator_refused_in_both_spellings_is_permanent() {
    let mut rig = Rig::new();
    rig.greet_plain();
    filtered(&mut rig, 1, Op::Eq);
    for _ in 0..2 {
        let request = rig.one_request();
        rig.refuse_plain(&request, OPERATOR);
    }
    assert_eq!(rig.take_requests(), []);
    assert_eq!(rig.core.subscriptions(), 0);
    filtered(&mut rig, 2, Op::In);
    let request = rig.one_request();
    rig.refuse_plain(&request, "unsupported operator: in");
    assert_eq!(rig.take_requests(), [], "it has one spelling only");
    assert_eq!(rig.core.counters().refused, 2);
}

#[test]
fn permanent_refusal_ends_only_that_subscription() {
    let mut rig = active(2);
    let requests = reopen(&mut rig);
    rig.events.clear();
    rig.refuse_plain(&requests[0], "failed to compile filters: value is nil");
    rig.accept_plain(&requests[1]);
    let expected = [
        Signal::RestoreProgress,
        Signal::RestoreProgress,
        Signal::Restored,
    ];
    assert_eq!(rig.take_signals(), expected);
    assert!(matches!(
        &rig.events[0],
        Event::Refused { id: SubscriptionId(1), refusal } if refusal.permanent
    ));
    assert_eq!(reopen(&mut rig).len(), 1);
}

#[test]
fn full_plain_queue_drops_newest_and_reports_one_gap() {
    let mut rig = Rig::with(|config| {
        config.activity_timeout = None;
        config.limits.messages = 4;
    });
    rig.greet_plain();
    rig.subscribe(1);
    rig.accept_one_plain();
    rig.events.clear();
    for name in 1..=6 {
        rig.deliver_plain(&["s-1"], name);
    }
    assert_eq!(names(&rig.take_items(1)), ["1", "2", "3", "4"]);
    rig.take(1, 1);
    rig.deliver_plain(&["s-1"], 7);
    assert_eq!(rig.take_items(1), [], "one taken change ends no overflow");
    rig.take(1, 1);
    rig.deliver_plain(&["s-1"], 8);
    let expected = ["Overflow { dropped: 3 }", "8"];
    assert_eq!(names(&rig.take_items(1)), expected);
    assert_eq!(rig.core.counters().overflowed, 3);
}

#[test]
fn overflow_gap_precedes_the_gap_of_a_later_outage() {
    let mut rig = Rig::with(|config| {
        config.activity_timeout = None;
        config.limits.messages = 1;
    });
    rig.greet_plain();
    rig.subscribe(1);
    rig.accept_one_plain();
    rig.deliver_plain(&["s-1"], 1);
    rig.deliver_plain(&["s-1"], 2);
    let request = reopen(&mut rig).remove(0);
    rig.accept_plain(&request);
    let expected = ["1", "Overflow { dropped: 1 }", "Disconnected"];
    assert_eq!(names(&rig.take_items(1)), expected);
}

/// Subscriptions 1 to `count` on a plain peer with these limits, and a queue for each.
struct Applications {
    rig: Rig,
    queues: Vec<Queue>,
}

impl Applications {
    fn new(count: u64, messages: u64, bytes: u64) -> Self {
        let mut rig = active(0);
        rig.core = {
            let mut config = Config::new(SESSION, "gw", 0);
            config.activity_timeout = None;
            config.limits = Limits {
                messages,
                bytes,
                ..Limits::default()
            };
            Core::new(config)
        };
        for id in 1..=count {
            rig.subscribe(id);
        }
        rig.greet_plain();
        rig.accept_all_plain();
        rig.events.clear();
        let queues = (0..count).map(|_| Queue::default()).collect();
        Self { rig, queues }
    }

    fn deliver(&mut self, ids: &[u64], name: u64, bytes: usize) {
        let event = StreamerEvent {
            document_data: vec![b'x'; bytes].into(),
            ..event(name)
        };
        self.rig.receive(Payload::Delivery(EventDelivery {
            subscription_ids: ids.iter().map(|id| format!("s-{id}")).collect(),
            event: Some(event),
            ..EventDelivery::default()
        }));
        for event in std::mem::take(&mut self.rig.events) {
            match event {
                Event::Item { id, item } => self.queues[id.0 as usize - 1].push(item),
                Event::Discard { id, from } => self.queues[id.0 as usize - 1].discard(from),
                _ => {}
            }
        }
    }

    /// Takes up to `count` items of a subscription, as its handle does.
    fn read(&mut self, id: u64, count: usize) -> Vec<String> {
        let mut items = Vec::new();
        for _ in 0..count {
            let queue = &mut self.queues[id as usize - 1];
            let Some(item) = queue.pop() else {
                break;
            };
            items.push(item);
            if let Some(through) = queue.take_report() {
                let id = SubscriptionId(id);
                self.rig.command(Command::Taken { id, through });
            }
            for event in std::mem::take(&mut self.rig.events) {
                if let Event::Item { id, item } = event {
                    self.queues[id.0 as usize - 1].push(item);
                }
            }
        }
        names(&items)
    }
}

#[test]
fn one_of_1000_plain_subscriptions_may_use_the_whole_queue() {
    let limits = Limits::default();
    let mut apps = Applications::new(1_000, limits.messages, limits.bytes);
    apps.deliver(&[7], 1, 10_000);
    apps.deliver(&[7], 2, 10_000);
    assert_eq!(apps.read(7, 9), ["1", "2"]);
    let burst = limits.messages;
    (1..=burst).for_each(|name| apps.deliver(&[7], name, 1));
    assert_eq!(apps.rig.core.counters().overflowed, 0);
    assert_eq!(apps.queues[6].changes(), burst);
}

#[test]
fn burst_over_20000_plain_subscriptions_loses_nothing() {
    let limits = Limits::default();
    let mut apps = Applications::new(20_000, limits.messages, limits.bytes);
    for name in 1..=2_000 {
        // Ten subscriptions, some of them again and again, read a little later.
        let ids: Vec<_> = (0..10)
            .map(|k| 1 + (name / 50 + k * 1_999) % 20_000)
            .collect();
        apps.deliver(&ids, name, 200);
        if name % 100 == 0 {
            let taken: usize = (1..=20_000).map(|id| apps.read(id, 200).len()).sum();
            assert_eq!(taken, 1_000);
        }
    }
    assert_eq!(apps.rig.core.counters().overflowed, 0);
}

#[test]
fn largest_plain_queue_loses_when_the_total_is_short() {
    let mut apps = Applications::new(3, 10, 1 << 20);
    (1..=9).for_each(|name| apps.deliver(&[1], name, 1));
    (10..=13).for_each(|name| apps.deliver(&[2], name, 1));
    apps.deliver(&[3], 14, 1);
    assert_eq!(apps.queues.iter().map(Queue::changes).sum::<u64>(), 10);
    assert_eq!(apps.read(2, 9), ["10", "11", "12", "13"]);
    assert_eq!(apps.read(3, 9), ["14"]);
    apps.deliver(&[1], 15, 1);
    let read = apps.read(1, 9);
    assert_eq!(read, ["1", "2", "3", "4", "5", "Overflow { dropped: 5 }"]);
    apps.deliver(&[1], 16, 1);
    assert_eq!(apps.read(1, 9), ["16"]);
}

#[test]
fn overflow_for_another_subscription_ends_by_taking_half() {
    let mut apps = Applications::new(2, 4, 1 << 20);
    (1..=4).for_each(|name| apps.deliver(&[1], name, 1));
    apps.deliver(&[2], 5, 1);
    let rig = &mut apps.rig;
    rig.take(1, 1);
    rig.take(2, 1);
    rig.deliver_plain(&["s-1"], 6);
    assert_eq!(rig.take_items(1), [], "two of three are left");
    rig.take(1, 1);
    rig.deliver_plain(&["s-1"], 7);
    let expected = ["Overflow { dropped: 2 }", "7"];
    assert_eq!(names(&rig.take_items(1)), expected);
}

#[test]
fn plain_queues_are_bounded_by_total_bytes() {
    let mut apps = Applications::new(2, 1_000, 10_000);
    (1..=3).for_each(|name| apps.deliver(&[1], name, 4_000));
    (4..=20).for_each(|name| apps.deliver(&[2], name, 100));
    assert_eq!(apps.queues[1].changes(), 17, "the small one loses nothing");
    assert_eq!(apps.read(1, 2), ["1", "2"]);
    assert_eq!(apps.read(1, 2), ["Overflow { dropped: 1 }"]);
}

#[test]
fn emptied_plain_queue_reports_its_gap_at_once() {
    let mut apps = Applications::new(2, 10, 100);
    apps.deliver(&[1], 1, 1_000);
    apps.deliver(&[2], 2, 10);
    assert_eq!(apps.read(1, 2), ["Overflow { dropped: 1 }"]);
    assert_eq!(apps.read(2, 2), ["2"]);
}

#[test]
fn plain_peer_discards_positions_with_one_gap() {
    let mut rig = Rig::with(|config| config.activity_timeout = None);
    rig.greet_profile(5);
    rig.subscribe(1);
    rig.accept_one(at(5));
    rig.deliver("s-1", 5, 6);
    rig.resume_plain();
    rig.accept_one_plain();
    rig.deliver_plain(&["s-1"], 8);
    rig.resume_profile(20);
    let request = rig.one_request();
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(20));
    rig.deliver("s-1", 20, 21);
    let expected = ["6", "LeftProfile", "8", "Disconnected", "21"];
    assert_eq!(names(&rig.take_items(1)), expected);
    rig.resume_profile(30);
    assert_eq!(rig.one_request().resume, Some(on_wire(at(21))));
}

#[test]
fn position_lost_to_a_silent_plain_peer_is_reported_later() {
    let mut rig = Rig::new();
    rig.subscribe_from(1, Start::After(at(5)));
    rig.greet_plain();
    rig.resume_profile(20);
    let request = rig.take_requests().pop().expect("request");
    assert_eq!(request.resume, None);
    rig.accept_at(&request, at(20));
    assert_eq!(names(&rig.take_items(1)), ["LeftProfile"]);
}

#[test]
fn given_up_position_is_one_gap_on_a_plain_peer() {
    let mut rig = Rig::with(|config| {
        config.activity_timeout = None;
        config.max_rejections = 1;
    });
    rig.greet_profile(5);
    rig.subscribe(1);
    rig.accept_one(at(5));
    rig.deliver("s-1", 7, 8);
    assert_eq!(rig.one_request().resume, None, "given up");
    rig.resume_plain();
    let request = rig.take_requests().pop().expect("a request");
    rig.accept_plain(&request);
    assert_eq!(names(&rig.take_items(1)), ["LeftProfile"]);
    rig.resume_profile(20);
    let request = rig.take_requests().pop().expect("a request");
    rig.accept_at(&request, at(20));
    assert_eq!(names(&rig.take_items(1)), ["Disconnected"], "and no resync");
}

#[test]
fn position_requested_of_a_plain_peer_is_a_gap() {
    let mut rig = active(0);
    rig.subscribe_from(1, Start::After(at(5)));
    rig.accept_one_plain();
    assert_eq!(names(&rig.take_items(1)), ["LeftProfile"]);
    assert!(rig.events.is_empty());
}

/// A rig whose plain peer is request each 90 s, with subscriptions 1 and 2 active.
fn probed(first_answer: Option<&str>) -> Rig {
    let mut rig = Rig::new();
    rig.greet_plain();
    rig.subscribe(1);
    let request = rig.accept_one_plain();
    let probe = rig.one_request();
    assert_eq!(probe, request);
    match first_answer {
        Some(error) => rig.refuse_plain(&probe, error),
        None => rig.accept_plain(&probe),
    }
    rig.subscribe(2);
    rig.accept_one_plain();
    rig.events.clear();
    rig.signals.clear();
    rig
}

#[test]
fn probes_find_a_silent_eviction() {
    let mut rig = probed(Some(TAKEN));
    for id in ["s-2", "s-1", "s-2"] {
        rig.wait(Duration::from_secs(89));
        assert_eq!(rig.take_requests(), []);
        rig.wait(Duration::from_secs(1));
        let probe = rig.one_request();
        assert_eq!(probe.subscription_id, id);
        rig.refuse_plain(&probe, TAKEN);
    }
    rig.wait(Duration::from_secs(90));
    let probe = rig.one_request();
    rig.accept_plain(&probe);
    assert!(matches!(rig.failure().reason, Reason::Protocol(_)));
    let requests = reopen(&mut rig);
    for request in &requests {
        rig.accept_plain(request);
    }
    assert_eq!(names(&rig.take_items(1)), ["Evicted"]);
    assert_eq!(names(&rig.take_items(2)), ["Evicted"]);
    assert_eq!(rig.core.counters().evictions, 1);
}

#[test]
fn peer_that_accepts_known_ids_is_not_suspected() {
    let mut rig = probed(None);
    rig.wait(Duration::from_secs(900));
    assert_eq!(rig.take_requests(), []);
    assert_eq!(rig.take_signals(), []);
    assert_eq!(rig.core.deadline(), None);
}

#[test]
fn unanswered_probe_is_not_repeated() {
    let mut rig = probed(Some(TAKEN));
    for expected in [1, 1, 0, 0] {
        rig.wait(Duration::from_secs(90));
        assert_eq!(rig.take_requests().len(), expected);
    }
}
