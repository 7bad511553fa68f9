//! Sessions: hello, fencing, and the ownership of ids.

use steadfast_wire::streamer::{
    FinalCode, GatewayMessage, Hello, UnsubscribeAck, Welcome, gateway_message::Payload as Request,
    streamer_message::Payload, value::Kind,
};

use super::server::*;
use crate::hub::*;

fn ended_by_fence(server: &Server, stream: StreamId) -> bool {
    server.ended.get(&stream).is_some_and(|ended| {
        ended.status.code == EndCode::Aborted && ended.final_code == Some(FinalCode::Fenced)
    })
}

#[test]
fn welcome_precedes_ack_of_heartbeat_sent_after_hello() {
    let mut server = Server::with_log(rooms(3), Limits::default());
    let stream = server.hello("s", 1);
    server.send_heartbeat(stream, 77);
    let welcome = Welcome {
        version: 1,
        server_id: "test".to_owned(),
        head: Some(position(3)),
        heartbeat_interval_ms: 0,
        expires_in_ms: 0,
    };
    let messages = server.take(stream);
    assert_eq!(messages[0], Payload::Welcome(welcome));
    assert!(matches!(&messages[1], Payload::HeartbeatAck(ack) if ack.timestamp == 77));
}

#[test]
fn heartbeat_interval_is_clamped_to_limits() {
    for (requested, told) in [
        (0, 30_000),
        (1, 100),
        (100, 0),
        (60_000, 0),
        (60_001, 60_000),
    ] {
        let mut server = Server::new();
        let stream = server.open();
        let hello = Hello {
            heartbeat_interval_ms: requested,
            ..hello("s", 1)
        };
        server.send(stream, Request::Hello(hello));
        match server.next(stream) {
            Some(Payload::Welcome(welcome)) => assert_eq!(welcome.heartbeat_interval_ms, told),
            other => panic!("no welcome: {other:?}"),
        }
    }
}

#[test]
fn newer_attempt_ends_older_stream_and_its_subscriptions() {
    let mut server = Server::new();
    let older = server.welcomed("s");
    server.subscribe(older, want("a", "rooms"));
    let newer = server.hello("s", 2);
    assert!(ended_by_fence(&server, older));
    assert!(
        !server.ended[&older].flush,
        "the newer stream subscribes again"
    );
    assert_eq!(server.hub.stats().gauges.subscriptions, 0);
    server.take(newer);
    assert!(server.subscribe(newer, want("a", "rooms")).taken_over);
    assert!(!server.subscribe(newer, want("b", "rooms")).taken_over);
    assert!(
        !server.subscribe(newer, want("a", "rooms")).taken_over,
        "only once"
    );
}

#[test]
fn late_older_attempt_is_refused_and_changes_nothing() {
    let mut server = Server::new();
    let newer = server.hello("s", 8);
    server.take(newer);
    server.subscribe(newer, want("a", "rooms"));
    for late in [7, 8] {
        let stream = server.hello("s", late);
        assert!(ended_by_fence(&server, stream), "attempt {late}");
        assert_eq!(server.take(stream), [], "not even a welcome");
    }
    assert_eq!(server.code(newer), None);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(newer), [1]);
}

#[test]
fn end_of_fenced_stream_leaves_successor_alone() {
    let mut server = Server::new();
    let older = server.hello("s", 1);
    let newer = server.hello("s", 2);
    server.end(older);
    let late = server.hello("s", 1);
    assert!(ended_by_fence(&server, late));
    assert_eq!(server.code(newer), None);
}

#[test]
fn subscription_ids_are_scoped_by_session() {
    let mut server = Server::new();
    let (one, other, plain) = (
        server.welcomed("one"),
        server.welcomed("two"),
        server.open(),
    );
    for stream in [one, other, plain] {
        assert!(server.subscribe(stream, want("a", "rooms")).success);
    }
    server.unsubscribe(other, "a", 1);
    server.take(other);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(one), [1]);
    assert_eq!(server.offsets(other), [0; 0]);
    assert_eq!(server.offsets(plain), [1]);
}

#[test]
fn hello_must_be_first_message_and_complete() {
    let wrong = [
        Hello {
            version: 0,
            ..hello("s", 1)
        },
        hello("", 1),
        hello(&"s".repeat(257), 1),
        hello("s", 0),
    ];
    for hello in wrong {
        let mut server = Server::new();
        let stream = server.open();
        server.send(stream, Request::Hello(hello));
        assert_eq!(server.code(stream), Some(EndCode::InvalidArgument));
        assert_eq!(server.ended[&stream].final_code, Some(FinalCode::Protocol));
    }
    let mut server = Server::new();
    let twice = server.welcomed("s");
    server.send(twice, Request::Hello(hello("s", 2)));
    let behind_a_heartbeat = server.open();
    server.heartbeat(behind_a_heartbeat, 1);
    server.send(behind_a_heartbeat, Request::Hello(hello("t", 1)));
    let only_credit = server.open();
    server.credit(only_credit, "a", 1, 1);
    for stream in [twice, behind_a_heartbeat, only_credit] {
        assert_eq!(server.code(stream), Some(EndCode::InvalidArgument));
        assert_eq!(server.ended[&stream].final_code, Some(FinalCode::Protocol));
    }
    server.assert_frees_everything();
}

#[test]
fn empty_message_before_hello_is_ignored() {
    let mut server = Server::new();
    let stream = server.open();
    let message = GatewayMessage { payload: None };
    server.step(Input::Message { stream, message });
    server.send(stream, Request::Hello(hello("s", 1)));
    assert!(matches!(server.next(stream), Some(Payload::Welcome(_))));
}

#[test]
fn unsubscribe_is_acknowledged_for_known_and_unknown_ids() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms"));
    for request in [5, 6] {
        server.unsubscribe(stream, "a", request);
        let ack = UnsubscribeAck {
            subscription_id: "a".to_owned(),
            request,
        };
        assert_eq!(server.take(stream), [Payload::UnsubscribeAck(ack)]);
    }
    server.commit("rooms", "r1", 1);
    assert_eq!(server.take(stream), []);
    assert_eq!(server.hub.stats().gauges.subscriptions, 0);
    server.assert_frees_everything();
}

#[test]
fn dropped_subscription_to_one_leaves_that_to_true() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    let (yes, one) = (Kind::BoolValue(true), Kind::IntValue(1));
    server.subscribe(stream, want("yes", "rooms").filter("f", "==", yes));
    server.subscribe(stream, want("one", "rooms").filter("f", "==", one));
    let commit = |server: &mut Server, data: &'static str| {
        let mut event = event(server.log.len() as u64 + 1, "rooms", "r1", 0);
        Arc::make_mut(&mut event).data = data.into();
        server.log.push(Arc::clone(&event));
        server.step(Input::Committed {
            events: vec![event],
        });
        server.delivered(stream)
    };
    let ids = |id: &str| vec![id.to_owned()];
    assert_eq!(commit(&mut server, r#"{"f":true}"#), [(1, ids("yes"))]);
    assert_eq!(commit(&mut server, r#"{"f":1}"#), [(2, ids("one"))]);
    server.unsubscribe(stream, "one", 9);
    server.take(stream);
    assert_eq!(commit(&mut server, r#"{"f":1}"#), []);
    assert_eq!(commit(&mut server, r#"{"f":true}"#), [(4, ids("yes"))]);
}

#[test]
fn repeated_id_keeps_only_newest_definition() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").credit(1, 1_000));
    server.commit("rooms", "r1", 1);
    server.subscribe_again(stream);
    server.commit("rooms", "r1", 2);
    let offset = server.commit("users", "u1", 3);
    let delivery = &server.deliveries(stream)[0];
    assert_eq!(delivery.position, Some(position(offset)));
    assert_eq!(delivery.previous, [1], "the position of the new request");
    assert_eq!(server.hub.stats().gauges.subscriptions, 1);
}

impl Server {
    /// Subscribes `a` to another collection and drops the older definition's deliveries.
    fn subscribe_again(&mut self, stream: StreamId) {
        self.take(stream);
        let response = self.subscribe(stream, want("a", "users").credit(1, 1_000));
        assert!(response.success);
        assert_eq!(response.position, Some(position(1)));
    }
}

#[test]
fn assigned_ids_are_uuids_derived_from_the_seed() {
    let made = || {
        let mut server = Server::new();
        let stream = server.welcomed("s");
        let mut id = || server.subscribe(stream, want("", "rooms")).subscription_id;
        [id(), id()]
    };
    let [first, second] = made();
    assert_ne!(first, second);
    assert_eq!(uuid::Uuid::parse_str(&first).unwrap().get_version_num(), 4);
    assert_eq!(made(), [first, second]);
}
