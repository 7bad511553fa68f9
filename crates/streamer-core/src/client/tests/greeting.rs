use gateway_message::Payload as Sent;
use steadfast_session::Advice;

use super::*;

#[test]
fn hello_and_a_heartbeat_open_every_stream() {
    let mut rig = Rig::new();
    rig.subscribe(1);
    rig.open();
    let sent = rig.take_sent();
    let [Sent::Hello(hello), Sent::Heartbeat(heartbeat)] = sent.as_slice() else {
        panic!("{sent:?}");
    };
    assert_eq!((hello.version, hello.attempt), (1, 1));
    assert_eq!((&*hello.session_id, &*hello.client_id), (SESSION, "gw"));
    assert_eq!(hello.heartbeat_interval_ms, 30_000);
    assert_eq!(heartbeat.timestamp, 1_700_000_000_000);
    rig.cut();
    rig.open();
    let Sent::Hello(hello) = &rig.take_sent()[0] else {
        panic!("no hello");
    };
    assert_eq!(hello.attempt, 2, "the attempt is the fence");
}

#[test]
fn heartbeats_carry_gateway_and_time_and_measure_rtt() {
    let mut rig = Rig::new();
    rig.greet_plain();
    rig.events.clear();
    rig.wait(Duration::from_secs(30));
    rig.call(Protocol::on_heartbeat);
    let sent = rig.take_sent();
    let Some(Sent::Heartbeat(heartbeat)) = sent.last() else {
        panic!("{sent:?}");
    };
    assert_eq!(heartbeat.gateway_id, "gw");
    assert_eq!(heartbeat.timestamp, 1_700_000_030_000);
    rig.wait(Duration::from_micros(250));
    rig.take_signals();
    rig.ack(heartbeat.timestamp, None);
    assert_eq!(rig.events, [Event::Rtt(Duration::from_micros(250))]);
    assert_eq!(rig.take_signals(), [Signal::HeartbeatAcked]);
}

#[test]
fn stray_ack_is_neither_life_nor_greeting() {
    let mut rig = Rig::new();
    rig.open();
    rig.ack(0, None);
    rig.ack(1_699_999_999_999, None);
    assert_eq!(rig.take_signals(), []);
    assert_eq!(rig.core.counters().stray_acks, 2);
}

#[test]
fn ack_of_an_older_stream_does_not_greet() {
    let mut rig = Rig::new();
    rig.open();
    let old = rig.heartbeat();
    rig.cut();
    rig.open();
    rig.ack(old, None);
    assert_eq!(rig.take_signals(), []);
}

#[test]
fn a_welcome_makes_a_profile_peer_whose_acks_are_expected() {
    let mut rig = Rig::new();
    rig.open();
    rig.receive(Payload::Welcome(Welcome {
        version: 1,
        server_id: "srv".to_owned(),
        head: Some(on_wire(at(9))),
        heartbeat_interval_ms: 5_000,
        expires_in_ms: 0,
    }));
    let signals = rig.take_signals();
    let expected = [
        Signal::Greeted,
        Signal::ExpectAcks,
        Signal::HeartbeatInterval(Duration::from_secs(5)),
        Signal::Restored,
    ];
    assert_eq!(signals, expected);
    let greeted = Event::Greeted {
        server_id: "srv".to_owned(),
        head: Some(at(9)),
    };
    assert_eq!(rig.events, [greeted]);
    // 0 is no interval, but a server without a wish.
    let mut rig = Rig::new();
    rig.greet_profile(9);
    let expected = [Signal::Greeted, Signal::ExpectAcks, Signal::Restored];
    assert_eq!(rig.take_signals(), expected);
}

#[test]
fn an_ack_without_a_welcome_makes_a_plain_peer() {
    let mut rig = Rig::new();
    rig.greet_plain();
    let greeted = Event::Greeted {
        server_id: String::new(),
        head: None,
    };
    assert!(rig.events.contains(&greeted));
    let expected = [Signal::Greeted, Signal::Restored, Signal::HeartbeatAcked];
    assert_eq!(rig.take_signals(), expected);
}

#[test]
fn without_an_offer_every_peer_is_plain() {
    let mut rig = Rig::with(|config| config.offer_profile = false);
    rig.open();
    assert!(matches!(rig.sent[..], [Sent::Heartbeat(_)]));
    rig.receive(welcome(0));
    assert_eq!(rig.fault(), "a welcome without a hello");
}

#[test]
fn a_malformed_greeting_ends_the_stream_with_the_reason() {
    let good = Welcome {
        version: 1,
        head: Some(on_wire(at(0))),
        ..Welcome::default()
    };
    for (welcome, fault) in [
        (
            Welcome {
                version: 2,
                ..good.clone()
            },
            "a welcome to version 2 of the resume profile; this client speaks 1",
        ),
        (
            Welcome {
                head: None,
                ..good.clone()
            },
            "a welcome has no head position",
        ),
    ] {
        let mut rig = Rig::new();
        rig.open();
        rig.receive(Payload::Welcome(welcome));
        assert_eq!(rig.fault(), fault);
    }
    let mut rig = Rig::new();
    rig.greet_profile(0);
    rig.take_signals();
    rig.receive(welcome(0));
    assert_eq!(rig.fault(), "a second welcome");
    let mut rig = Rig::new();
    rig.greet_plain();
    rig.take_signals();
    rig.receive(welcome(0));
    assert_eq!(
        rig.fault(),
        "a welcome after the first heartbeat's acknowledgement"
    );
}

#[test]
fn final_codes_map_to_reason_and_advice() {
    use wire::FinalCode;

    for (code, retry_after_ms, advice) in [
        (FinalCode::Fenced, 0, Advice::Stop),
        (FinalCode::Fenced, 500, Advice::Stop),
        (FinalCode::Limit, 0, Advice::Retry),
        (
            FinalCode::Limit,
            500,
            Advice::Wait(Some(Duration::from_millis(500))),
        ),
        (FinalCode::Evicted, 0, Advice::Retry),
        (
            FinalCode::Drained,
            1,
            Advice::Wait(Some(Duration::from_millis(1))),
        ),
        (FinalCode::Silent, 0, Advice::Retry),
        (FinalCode::Storage, 0, Advice::Retry),
        (FinalCode::Protocol, 0, Advice::Retry),
        (FinalCode::Unspecified, 0, Advice::Retry),
        (FinalCode::Unauthenticated, 0, Advice::Refresh),
        (FinalCode::Unauthenticated, 500, Advice::Refresh),
    ] {
        let mut rig = Rig::new();
        rig.open();
        rig.receive(last_words(code, retry_after_ms));
        let end = rig.failure();
        assert_eq!(
            (end.initiator, end.advice),
            (Initiator::Peer, advice),
            "{code:?}"
        );
        let fenced = code == FinalCode::Fenced;
        assert_eq!(end.reason == Reason::Fenced, fenced, "{code:?}");
        let drained = code == FinalCode::Drained;
        assert_eq!(
            matches!(end.reason, Reason::Drained(_)),
            drained,
            "{code:?}"
        );
    }
    let mut rig = Rig::new();
    rig.greet_profile(0);
    rig.take_signals();
    rig.receive(Payload::Final(Final {
        code: 99,
        ..Final::default()
    }));
    assert_eq!(rig.fault(), "a final message has the unknown code 99");
}

#[test]
fn an_announced_drain_is_passed_on() {
    let mut rig = Rig::new();
    rig.greet_profile(0);
    rig.take_signals();
    rig.receive(Payload::Drain(wire::Drain {
        deadline_ms: 1_000,
        reason: "update".to_owned(),
    }));
    assert_eq!(rig.take_signals(), [Signal::Drain("update".to_owned())]);
}

#[test]
fn unexpected_messages_are_counted_and_ignored() {
    let mut rig = Rig::new();
    rig.open();
    let empty = StreamerMessage { payload: None };
    rig.call(|core, now, cx| core.on_message(now, empty.into(), cx));
    rig.progress(5, &[]);
    rig.deliver_plain(&["x"], 1);
    rig.receive(Payload::SubscribeResponse(SubscribeResponse::default()));
    assert_eq!(rig.take_signals(), []);
    assert_eq!(rig.events, []);
    let counters = rig.core.counters();
    assert_eq!(counters.unknown_messages, 2);
    assert_eq!((counters.unknown_ids, counters.stray_responses), (1, 1));
}
