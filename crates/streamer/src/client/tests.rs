//! The client on a link, with a scripted server and a paused clock.

mod peer;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt as _;
use steadfast::{
    LinkOptions, StateEvent,
    session::{End, Initiator, Reason, State},
    testing::{ScriptedConnection, ScriptedTransport},
};
use steadfast_wire::streamer::{
    FinalCode, RefusalCode, gateway_message::Payload as Request, value,
};

use self::peer::{EPOCH, Server, server};
use super::*;
use crate::{
    Epoch,
    filter::{Condition, Op},
};

fn client() -> (Client<ScriptedConnection>, Server) {
    client_with(|builder| builder)
}

fn client_with(change: impl FnOnce(Builder) -> Builder) -> (Client<ScriptedConnection>, Server) {
    let (transport, server) = server();
    (build(change, transport), server)
}

fn build(
    change: impl FnOnce(Builder) -> Builder,
    transport: ScriptedTransport,
) -> Client<ScriptedConnection> {
    change(Client::builder("unused").link(options()))
        .build_on(transport)
        .expect("good settings")
}

fn options() -> LinkOptions {
    LinkOptions::new().seed(1)
}

fn users(client: &Client<ScriptedConnection>) -> Subscribe<ScriptedConnection> {
    client.subscribe("default", "users", Filter::all())
}

/// A client and the server's end of a live stream, with one subscription at `at`.
async fn subscribed(
    at: u64,
) -> (
    Client<ScriptedConnection>,
    Server,
    peer::Peer,
    steadfast_wire::streamer::SubscribeRequest,
    Subscription,
) {
    let (client, mut server) = client();
    let mut peer = server.greet(at).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    let request = peer.subscribe().await;
    peer.accept(&request, at);
    let subscription = subscribing.await.expect("no panic").expect("accepted");
    (client, server, peer, request, subscription)
}

fn name(item: Option<Result<Item, Ended>>) -> String {
    match item.expect("an item").expect("no end") {
        Item::Change(change) => change.event_id.to_string(),
        item => format!("{item:?}"),
    }
}

fn at(offset: u64) -> Position {
    Position::new(Epoch(EPOCH), offset)
}

/// Waits for a future, and fails after an hour of virtual time.
async fn soon<F: Future>(what: F) -> F::Output {
    let hour = Duration::from_secs(3_600);
    tokio::time::timeout(hour, what).await.expect("it ends")
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn items_arrive_in_order_across_a_cut() {
    let (client, mut server, peer, request, mut users) = subscribed(5).await;
    peer.deliver(&request, 5, 6);
    assert_eq!(name(users.next().await), "6");
    peer.deliver(&request, 6, 7);
    settle().await;
    peer.cut();
    let mut peer = server.greet(9).await;
    let request = peer.subscribe().await;
    assert_eq!(
        request.resume,
        Some(peer::position(7)),
        "7 is queued, not lost"
    );
    assert_eq!(client.status().state, State::Reconnecting);
    peer.accept(&request, 7);
    peer.deliver(&request, 7, 9);
    assert_eq!(name(users.next().await), "7");
    assert_eq!(users.position(), Some(at(7)));
    assert_eq!(name(users.next().await), "9");
    assert_eq!(client.status().state, State::Connected);
    let counters = client.counters().await;
    assert_eq!((counters.delivered, counters.acknowledged), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn subscribe_in_flight_completes_on_the_next_stream() {
    let (client, mut server) = client();
    let mut peer = server.greet(1).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    peer.subscribe().await;
    peer.cut();
    let mut peer = server.greet(1).await;
    let request = peer.subscribe().await;
    peer.accept(&request, 1);
    assert!(subscribing.await.expect("no panic").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_may_call_while_streams_are_cut() {
    let (transport, mut server) = server();
    let client = build(
        |builder| {
            let backoff = Duration::from_millis(5);
            builder.link(LinkOptions::new().configure(|config| config.initial_backoff = backoff))
        },
        transport,
    );
    let held = Arc::new(Mutex::new(BTreeSet::new()));
    let theirs = Arc::clone(&held);
    let serving = tokio::spawn(async move {
        for round in 0_u32.. {
            let mut peer = server.greet(0).await;
            theirs.lock().unwrap().clear();
            let life = Duration::from_millis(if round < 20 { 15 } else { 60_000 });
            tokio::time::timeout(life, peer.serve(&theirs)).await.ok();
            peer.cut();
        }
    });
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for round in 0..40 {
                    let subscription = users(&client).await.expect("accepted");
                    if round % 4 == 0 {
                        kept.push(subscription);
                    }
                }
                kept
            })
        })
        .collect();
    let mut kept = Vec::new();
    for caller in callers {
        let limit = Duration::from_secs(60);
        let joined = tokio::time::timeout(limit, caller).await.expect("it ends");
        kept.extend(joined.expect("no panic"));
    }
    assert_eq!(kept.len(), 80);
    let mut tries = 0..3_000;
    while tries.next().is_some() && held.lock().unwrap().len() != 80 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        held.lock().unwrap().len(),
        80,
        "what is wanted and nothing else"
    );
    client.close().await;
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn long_outage_ends_within_one_backoff_delay() {
    let (client, mut server, peer, _, _users) = subscribed(0).await;
    server.go_down(true);
    peer.cut();
    tokio::time::sleep(Duration::from_secs(7_200)).await;
    server.go_down(false);
    let back = tokio::time::Instant::now();
    let mut peer = server.greet(0).await;
    let request = peer.subscribe().await;
    peer.accept(&request, 0);
    client.connect().await.expect("connected");
    assert!(
        back.elapsed() <= Duration::from_secs(30),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn close_during_backoff_ends_all_attempts() {
    let (client, mut server, peer, request, mut users) = subscribed(5).await;
    peer.deliver(&request, 5, 6);
    settle().await;
    server.go_down(true);
    peer.cut();
    settle().await;
    assert_eq!(client.status().state, State::Reconnecting);
    client.close().await;
    server.go_down(false);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(server.is_idle());
    assert_eq!(name(users.next().await), "6", "what is queued is not lost");
    assert!(soon(users.next()).await.is_none());
    assert_eq!(client.status().state, State::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn close_wakes_a_reader_of_a_dead_peer() {
    let (client, _server, peer, _, mut users) = subscribed(5).await;
    let reader = tokio::spawn(async move { users.next().await });
    settle().await;
    client.close().await;
    assert_eq!(soon(reader).await.expect("no panic"), None);
    peer.dropped().await;
}

#[tokio::test(start_paused = true)]
async fn slow_application_is_not_a_dead_peer() {
    let (client, _server, mut peer, request, mut users) = subscribed(0).await;
    for offset in 1..=1_024 {
        peer.deliver(&request, offset - 1, offset);
    }
    let hour = Duration::from_secs(3_600);
    tokio::time::timeout(hour, peer.attend()).await.ok();
    assert_eq!(client.status().streams_established, 1);
    assert_eq!(client.status().state, State::Connected);
    assert_eq!(name(users.next().await), "1");
}

#[tokio::test(start_paused = true)]
async fn full_queue_does_not_block_another_subscribe() {
    let (client, _server, mut peer, request, users) = subscribed(0).await;
    for offset in 1..=1_024 {
        peer.deliver(&request, offset - 1, offset);
    }
    settle().await;
    assert_eq!(users.queued(), 1_024);
    let another = client.subscribe("default", "rooms", Filter::all());
    let another = tokio::spawn(another.into_future());
    let request = peer.subscribe().await;
    assert_eq!(
        request.credit_messages, 1_024,
        "a stalled one takes nothing from others"
    );
    peer.accept(&request, 1_024);
    assert!(another.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn subscribe_and_unsubscribe_work_offline() {
    let (client, mut server, peer, request, users) = subscribed(5).await;
    server.go_down(true);
    peer.cut();
    settle().await;
    users.unsubscribe();
    let rooms = client.subscribe("default", "rooms", Filter::all());
    let rooms = tokio::spawn(rooms.into_future());
    settle().await;
    assert!(!rooms.is_finished());
    server.go_down(false);
    let mut peer = server.greet(5).await;
    let asked = peer.subscribe().await;
    assert_eq!(asked.collection, "rooms", "the other one is not restored");
    assert_ne!(asked.subscription_id, request.subscription_id);
    peer.accept(&asked, 5);
    assert!(rooms.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn state_callback_may_call_the_client() {
    let (transport, mut server) = server();
    let client = Arc::new(Mutex::new(None::<Client<ScriptedConnection>>));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (theirs, told) = (Arc::clone(&client), Arc::clone(&seen));
    let observer = move |notice| {
        let StateEvent::Changed(transition) = notice else {
            return;
        };
        let client = theirs.lock().unwrap();
        let client = client
            .as_ref()
            .expect("it was set before anything happened");
        client.start();
        drop(users(client).into_future().now_or_never());
        told.lock()
            .unwrap()
            .push((transition.to, client.status().state));
    };
    let built = build(
        |builder| builder.link(options().on_state_change(observer)),
        transport,
    );
    client.lock().unwrap().replace(built.clone());
    let peer = server.greet(0).await;
    settle().await;
    let states = || {
        seen.lock()
            .unwrap()
            .iter()
            .map(|(to, _)| *to)
            .collect::<Vec<_>>()
    };
    assert_eq!(states(), [State::Connecting, State::Connected]);
    client.lock().unwrap().take();
    built.close().await;
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn client_may_start_before_its_server() {
    let (transport, mut server) = server();
    server.go_down(true);
    let client = build(|builder| builder, transport);
    let subscribing = tokio::spawn(users(&client).into_future());
    assert!(matches!(
        client.connect().await,
        Err(ConnectError::Failed { attempts: 3, .. })
    ));
    tokio::time::sleep(Duration::from_secs(600)).await;
    server.go_down(false);
    let mut peer = server.greet(0).await;
    let request = peer.subscribe().await;
    peer.accept(&request, 0);
    assert!(subscribing.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn giving_up_yields_one_error_with_the_last_reason() {
    let (transport, mut server) = server();
    let link = options().configure(|config| config.max_retries = 3);
    let client = build(|builder| builder.link(link), transport);
    let mut peer = server.greet(0).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    let request = peer.subscribe().await;
    peer.accept(&request, 0);
    let mut subscription = subscribing.await.expect("no panic").expect("accepted");
    server.go_down(true);
    peer.cut();
    let Some(Err(Ended::Stopped(end))) = soon(subscription.next()).await else {
        panic!("no end");
    };
    assert_eq!(
        end.reason,
        Reason::Unreachable("refused by the script".into())
    );
    assert!(soon(subscription.next()).await.is_none());
    assert!(soon(subscription.next()).await.is_none());
    let refused = users(&client).await;
    assert_eq!(refused.err(), Some(SubscribeError::Stopped(end)));
    server.go_down(false);
    client.start();
    let subscribing = tokio::spawn(users(&client).into_future());
    let mut peer = server.greet(0).await;
    let request = peer.subscribe().await;
    peer.accept(&request, 0);
    assert!(subscribing.await.expect("no panic").is_ok());
}

/// A client and a plain server on a live stream, with one subscription.
async fn subscribed_plain(
    link: LinkOptions,
) -> (Client<ScriptedConnection>, Server, peer::Peer, Subscription) {
    let (client, mut server) = client_with(|builder| builder.link(link));
    let subscribing = tokio::spawn(users(&client).into_future());
    let mut peer = server.greet_plain().await;
    let request = peer.subscribe().await;
    peer.accept_plain(&request);
    let subscription = subscribing.await.expect("no panic").expect("accepted");
    (client, server, peer, subscription)
}

#[tokio::test(start_paused = true)]
async fn idle_plain_server_is_kept_without_heartbeats() {
    let link = options().configure(|config| config.heartbeat_interval = None);
    let (client, server, _peer, mut users) = subscribed_plain(link).await;
    // The peer never sends another byte. The connection answers probes.
    tokio::time::sleep(Duration::from_secs(7_200)).await;
    assert_eq!(client.status().streams_established, 1);
    assert!(users.next().now_or_never().is_none(), "no gap");
    // A connection that does not answer is dead.
    server.black_hole();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(client.status().state, State::Reconnecting);
}

fn too_large() -> End {
    let text = "message length too large: found 5, the limit is: 4; raise max_message_bytes";
    End::stop(Initiator::Local, Reason::MessageTooLarge(text.into()))
}

#[tokio::test(start_paused = true)]
async fn too_large_event_of_a_plain_server_is_a_gap() {
    let (_client, mut server, peer, mut users) = subscribed_plain(options()).await;
    peer.end(too_large());
    let mut peer = server.greet_plain().await;
    let request = peer.subscribe().await;
    peer.accept_plain(&request);
    assert!(name(users.next().await).contains("TooLarge"));
}

#[tokio::test(start_paused = true)]
async fn too_large_event_of_a_profile_server_stops_in_the_end() {
    let (client, mut server, peer, _, mut users) = subscribed(5).await;
    peer.end(too_large());
    for _ in 0..2 {
        let mut peer = server.greet(9).await;
        let request = peer.subscribe().await;
        peer.accept(&request, 5);
        settle().await;
        peer.end(too_large());
    }
    let ended = soon(users.next()).await;
    let Some(Err(Ended::Stopped(end))) = ended else {
        panic!("{ended:?}");
    };
    assert!(end.to_string().contains("raise max_message_bytes"), "{end}");
    assert_eq!(client.status().state, State::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn fenced_client_stops_with_the_reason() {
    let (client, mut server, peer, _, mut users) = subscribed(0).await;
    peer.finish_with(FinalCode::Fenced);
    let ended = soon(users.next()).await;
    assert!(
        matches!(&ended, Some(Err(Ended::Stopped(end))) if end.reason == Reason::Fenced),
        "{ended:?}"
    );
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(server.is_idle());
    assert_eq!(client.server(), None);
}

#[tokio::test]
async fn invalid_settings_are_errors() {
    let link =
        options().configure(|config| config.activity_timeout = Some(Duration::from_nanos(2)));
    let refused = Client::builder("127.0.0.1:9000").link(link).build();
    assert!(matches!(refused, Err(BuildError::Config(_))), "{refused:?}");
    let refused = Client::builder("nowhere").build();
    assert!(
        matches!(refused, Err(BuildError::Address(_))),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn filter_values_reach_the_wire_unchanged() {
    let (client, mut server) = client();
    let mut peer = server.greet(0).await;
    let tags = Condition::new("tag", Op::In, vec!["a".to_owned(), "b".to_owned()]);
    let small = Condition::new("age", Op::Lt, 30_u8);
    let filter = Filter::new([tags, small]).expect("a filter");
    let _subscribing = tokio::spawn(client.subscribe("d", "c", filter).into_future());
    let request = peer.subscribe().await;
    let kinds: Vec<_> = request
        .filters
        .into_iter()
        .filter_map(|filter| filter.value?.kind)
        .collect();
    assert!(
        matches!(&kinds[..], [value::Kind::ListValue(list), value::Kind::IntValue(30)] if list.values.len() == 2),
        "{kinds:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_cancels_the_subscription() {
    let (client, mut server) = client();
    let mut peer = server.greet(0).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    let request = peer.subscribe().await;
    subscribing.abort();
    let Request::Unsubscribe(gone) = peer.request().await else {
        panic!("not unsubscribed");
    };
    assert_eq!(gone.subscription_id, request.subscription_id);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_subscription_unsubscribes() {
    let (_client, _server, mut peer, request, users) = subscribed(0).await;
    peer.deliver(&request, 0, 1);
    settle().await;
    drop(users);
    let Request::Unsubscribe(gone) = peer.request().await else {
        panic!("not unsubscribed");
    };
    assert_eq!(gone.subscription_id, request.subscription_id);
    peer.deliver(&request, 1, 2);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_closes_the_client() {
    let (client, mut server, peer, request, mut users) = subscribed(0).await;
    drop(client);
    settle().await;
    peer.deliver(&request, 0, 1);
    assert_eq!(name(users.next().await), "1");
    drop(users);
    peer.dropped().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(server.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_of_the_call_and_the_client_goes_on() {
    let (client, mut server) = client();
    let mut peer = server.greet(0).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    let request = peer.subscribe().await;
    peer.refuse(&request, RefusalCode::Limit.into(), "10 subscriptions");
    let refused = subscribing.await.expect("no panic").expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "the server refused the subscription (try again later): 10 subscriptions"
    );
    assert_eq!(client.status().state, State::Connected);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_when_restored_ends_the_stream_of_items_once() {
    let (_client, mut server, peer, _, mut users) = subscribed(0).await;
    peer.cut();
    let mut peer = server.greet(0).await;
    let request = peer.subscribe().await;
    peer.refuse(&request, RefusalCode::Invalid.into(), "gone");
    let ended = soon(users.next()).await;
    assert!(matches!(ended, Some(Err(Ended::Refused(_)))), "{ended:?}");
    assert!(soon(users.next()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn connected_waits_for_wanted_subscriptions() {
    let (client, mut server) = client();
    let _subscribing = tokio::spawn(users(&client).into_future());
    settle().await;
    let mut peer = server.greet(0).await;
    let request = peer.subscribe().await;
    settle().await;
    assert_eq!(client.status().state, State::Connecting);
    peer.accept(&request, 0);
    client.connect().await.expect("connected");
    let server = client.server().expect("greeted");
    assert_eq!((&*server.id, server.head), ("srv", Some(at(0))));
    assert!(client.rtt().is_some());
}

#[tokio::test(start_paused = true)]
async fn taking_grants_credit_in_batches() {
    let (transport, mut server) = server();
    let mut limits = Limits::default();
    limits.messages = 4;
    let client = build(|builder| builder.limits(limits), transport);
    let mut peer = server.greet(0).await;
    let subscribing = tokio::spawn(users(&client).into_future());
    let request = peer.subscribe().await;
    peer.accept(&request, 0);
    let mut subscription = subscribing.await.expect("no panic").expect("accepted");
    for offset in 1..=4 {
        peer.deliver(&request, offset - 1, offset);
    }
    settle().await;
    for offset in 1..=4 {
        assert_eq!(name(subscription.next().await), offset.to_string());
    }
    assert_eq!(peer.credit().await.messages, 6);
    assert_eq!(peer.credit().await.messages, 8);
}

#[tokio::test(start_paused = true)]
async fn a_position_of_an_earlier_process_is_where_it_begins() {
    let (client, mut server) = client();
    let mut peer = server.greet(50).await;
    let _subscribing = tokio::spawn(users(&client).after(at(42)).into_future());
    assert_eq!(peer.subscribe().await.resume, Some(peer::position(42)));
}

#[tokio::test(start_paused = true)]
async fn client_can_start_again_after_leaving() {
    let (client, mut server, peer, _, mut users) = subscribed(0).await;
    let left = tokio::spawn({
        let client = client.clone();
        async move { client.leave().await }
    });
    assert!(soon(users.next()).await.is_none());
    left.await.expect("no panic");
    drop(peer);
    assert_eq!(
        self::users(&client).await.err(),
        Some(SubscribeError::Closed)
    );
    client.start();
    server.greet(0).await;
}
