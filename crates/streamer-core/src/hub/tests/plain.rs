//! Plain peers: one namespace, no profile messages, and the original server's defects.

use std::time::Duration;

use steadfast_wire::streamer::{
    GatewayMessage, HeartbeatAck, SubscribeResponse, streamer_message::Payload,
    subscribe_request::Start, value::Kind,
};

use super::{server::*, slices::burst};
use crate::hub::*;

fn accepted(id: &str) -> SubscribeResponse {
    SubscribeResponse {
        subscription_id: id.to_owned(),
        success: true,
        ..SubscribeResponse::default()
    }
}

#[test]
fn plain_peer_gets_no_profile_message() {
    let mut server = Server::with_log(rooms(2), Limits::default());
    let stream = server.open();
    let wanted = want("a", "rooms").start(Start::StartTimeMs(0));
    assert_eq!(server.subscribe(stream, wanted), accepted("a"));
    let wanted = want("a", "rooms").after(1).credit(1, 1);
    assert_eq!(server.subscribe(stream, wanted), accepted("a"));
    for _ in 0..3 {
        server.commit("rooms", "r1", 1);
    }
    for delivery in server.deliveries(stream) {
        assert_eq!((delivery.position, delivery.previous), (None, vec![]));
    }
    let ack = HeartbeatAck {
        timestamp: 42,
        progress: None,
    };
    assert_eq!(server.heartbeat(stream, 42), ack);
    server.commit("users", "u1", 1);
    server.pass(seconds(60));
    server.unsubscribe(stream, "a", 9);
    assert_eq!(
        server.take(stream),
        [],
        "no progress, no ack of an unsubscribe"
    );
}

#[test]
fn empty_message_from_plain_peer_is_ignored() {
    let mut server = Server::new();
    let stream = server.open();
    let message = GatewayMessage { payload: None };
    server.step(Input::Message { stream, message });
    assert_eq!((server.take(stream), server.code(stream)), (vec![], None));
}

#[test]
fn both_operator_spellings_work_and_refusals_keep_their_text() {
    let mut server = Server::new();
    let stream = server.open();
    for op in ["==", "eq"] {
        let wanted = want(op, "rooms").filter("n", op, Kind::IntValue(5));
        assert!(server.subscribe(stream, wanted).success);
    }
    let wanted = want("bad", "rooms").filter("n", "~", Kind::IntValue(5));
    let refused = SubscribeResponse {
        subscription_id: "bad".to_owned(),
        error: "failed to compile filters: unsupported operator: ~".to_owned(),
        ..SubscribeResponse::default()
    };
    assert_eq!(server.subscribe(stream, wanted), refused);
    server.commit("rooms", "r1", 5);
    let both = vec!["==".to_owned(), "eq".to_owned()];
    assert_eq!(server.delivered(stream), [(1, both)]);
}

#[test]
fn event_is_delivered_once_in_one_message_per_stream() {
    let mut server = Server::new();
    let (stream, other) = (server.open(), server.open());
    server.subscribe(
        stream,
        want("filtered", "rooms").filter("n", ">", Kind::IntValue(0)),
    );
    server.subscribe(stream, want("all", "rooms"));
    server.subscribe(stream, want("document", "rooms").document("r1"));
    server.subscribe(stream, want("elsewhere", "users"));
    server.subscribe(other, want("other", "rooms"));
    server.subscribe(stream, want("all too", "rooms"));
    server.commit("rooms", "r1", 1);
    let ids = ["document", "all", "all too", "filtered"].map(str::to_owned);
    assert_eq!(server.delivered(stream), [(1, ids.to_vec())]);
    assert_eq!(server.delivered(other), [(1, vec!["other".to_owned()])]);
    server.commit("rooms", "", -1);
    let ids = ["all", "all too"].map(str::to_owned);
    assert_eq!(server.delivered(stream), [(2, ids.to_vec())]);
}

#[test]
fn unsubscribe_ignores_ids_of_other_streams() {
    let mut server = Server::new();
    let (owner, stranger) = (server.open(), server.open());
    server.subscribe(owner, want("a", "rooms"));
    server.unsubscribe(stranger, "a", 0);
    assert_eq!(server.take(stranger), []);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.offsets(owner), [1]);
}

#[test]
fn ended_stream_frees_its_ids_despite_late_subscribe() {
    let mut server = Server::new();
    for _ in 0..100 {
        let stream = server.open();
        server.subscribe(stream, want("a", "rooms"));
        server.end(stream);
        server.send_subscribe(stream, want("late", "rooms"));
        assert_eq!(server.code(stream), Some(EndCode::Ok));
        assert_eq!(server.take(stream), [], "nothing is sent after the end");
        assert_eq!(server.hub.stats().gauges, Gauges::default());
    }
    server.assert_frees_everything();
}

#[test]
fn resubscribe_of_known_id_replaces_definition() {
    let mut server = Server::new();
    let stream = server.open();
    for _ in 0..2 {
        assert_eq!(server.subscribe(stream, want("a", "rooms")), accepted("a"));
    }
    server.commit("rooms", "r1", 1);
    assert_eq!(server.delivered(stream), [(1, vec!["a".to_owned()])]);
    assert_eq!(server.subscribe(stream, want("a", "users")), accepted("a"));
    server.commit("rooms", "r1", 2);
    server.commit("users", "u1", 3);
    assert_eq!(server.offsets(stream), [3]);
}

#[test]
fn repeated_plain_subscribe_misses_no_unmatched_event() {
    let limits = Limits {
        slice: 1,
        ..Limits::default()
    };
    // Whether the hub heard of the events, or must read them from the log.
    for heard in [true, false] {
        let mut server = Server::with_log(rooms(2), limits.clone());
        let stream = server.open();
        server.subscribe(stream, want("a", "rooms"));
        if heard {
            burst(&mut server, "rooms", 1, 5);
            assert!(server.hub.matching.events() > 1);
        } else {
            server.log = rooms(6);
            server.commit("rooms", "r1", 1);
            assert_eq!(server.hub.stats().gauges.behind, 1);
        }
        for _ in 0..4 {
            server.send_subscribe(stream, want("a", "rooms"));
            server.step(Input::Tick);
        }
        server.run_until_idle();
        let sent = server.take(stream).into_iter();
        let event = |payload| match payload {
            Payload::Delivery(delivery) => Some(offset_of(&delivery.event.unwrap().event_id)),
            _ => None,
        };
        let offsets: Vec<_> = sent.filter_map(event).collect();
        assert_eq!(offsets, [3, 4, 5, 6, 7], "heard: {heard}");
    }
}

#[test]
fn delayed_subscribe_on_older_stream_does_not_take_id_back() {
    let mut server = Server::new();
    let (older, newer) = (server.open(), server.open());
    assert!(server.subscribe(newer, want("a", "rooms")).success);
    let late = server.subscribe(older, want("a", "rooms"));
    assert_eq!(
        (late.success, &*late.error),
        (false, "subscription ID already exists")
    );
    server.end(older);
    server.commit("rooms", "r1", 1);
    assert_eq!(server.deliveries(newer).len(), 1);
}

#[test]
fn subscribe_on_newer_stream_moves_only_that_id() {
    let mut server = Server::new();
    let (older, newer) = (server.open(), server.open());
    server.subscribe(older, want("a", "rooms"));
    server.subscribe(older, want("b", "rooms"));
    assert_eq!(server.subscribe(newer, want("a", "rooms")), accepted("a"));
    server.commit("rooms", "r1", 1);
    assert_eq!(server.delivered(older), [(1, vec!["b".to_owned()])]);
    assert_eq!(server.delivered(newer), [(1, vec!["a".to_owned()])]);
    server.end(older);
    server.commit("rooms", "r1", 2);
    assert_eq!(
        server.offsets(newer),
        [2],
        "the older stream owned only b when it ended"
    );
    server.assert_frees_everything();
}

#[test]
fn taking_an_id_over_needs_no_room_on_the_server() {
    let mut server = Server::with(Limits {
        subscriptions: 1,
        ..Limits::default()
    });
    let (older, newer) = (server.open(), server.open());
    assert!(server.subscribe(older, want("a", "rooms")).success);
    assert!(!server.subscribe(newer, want("b", "rooms")).success);
    assert!(server.subscribe(newer, want("a", "rooms")).success);
    server.commit("rooms", "r1", 1);
    assert_eq!(
        (server.offsets(older), server.offsets(newer)),
        (vec![], vec![1])
    );
}

#[test]
fn silent_plain_peer_is_ended_and_frees_its_ids() {
    let mut server = Server::new();
    let stream = server.open();
    server.subscribe(stream, want("a", "rooms"));
    server.take(stream);
    server.transport_takes_all(stream);
    server.pass(seconds(3_600));
    assert_eq!(server.code(stream), None, "it has sent no heartbeat");
    server.heartbeat(stream, 1);
    server.pass(seconds(30));
    server.heartbeat(stream, 2);
    server.pass(Duration::from_micros(89_999_999));
    assert_eq!(server.code(stream), None);
    server.pass(Duration::from_micros(1));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
    assert_eq!(
        server.ended[&stream].final_code, None,
        "a plain peer does not understand a final message"
    );
    assert_eq!(server.hub.stats().gauges, Gauges::default());
}

#[test]
fn any_message_keeps_plain_peer_alive() {
    let mut server = Server::new();
    let stream = server.open();
    server.heartbeat(stream, 1);
    for _ in 0..10 {
        server.pass(seconds(60));
        server.unsubscribe(stream, "nothing", 0);
    }
    assert_eq!(server.code(stream), None);
}

#[test]
fn plain_peer_is_allowed_three_of_its_own_intervals() {
    let mut server = Server::new();
    let stream = server.open();
    server.heartbeat(stream, 1);
    for beat in 2..10 {
        server.pass(seconds(80));
        server.heartbeat(stream, beat);
    }
    server.transport_takes_all(stream);
    server.pass(seconds(239));
    assert_eq!(server.code(stream), None);
    server.pass(seconds(1));
    assert_eq!(server.code(stream), Some(EndCode::Unavailable));
}
