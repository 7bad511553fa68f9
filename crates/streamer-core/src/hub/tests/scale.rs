//! Many subscriptions: shared work, counted and not timed.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use steadfast_wire::streamer::{StreamerMessage, streamer_message::Payload, value::Kind};

use super::server::*;
use crate::hub::*;

#[test]
fn restoring_20000_subscriptions_costs_about_one_pass() {
    let mut server = Server::with_log(rooms(5_000), Limits::default());
    server.audited = false;
    let stream = server.welcomed("s");
    for index in 0..20_000 {
        let wanted = want(&format!("sub-{index}"), "users").after(index % 50);
        server.send_subscribe(stream, wanted);
    }
    server.run_until_idle();
    server.hub.audit();
    let stats = server.hub.stats();
    assert_eq!(
        (stats.gauges.subscriptions, stats.gauges.behind),
        (20_000, 0)
    );
    let passes = stats.counters.page_events as f64 / 5_000.0;
    assert!(passes < 2.5, "{passes} passes");
}

/// Plays a client that grants credit for half of a share at a time, until nothing is behind. Returns
/// the number of ids delivered.
fn catch_up_on_credit(server: &mut Server, stream: StreamId, share: u64) -> u64 {
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let mut grants = BTreeSet::new();
        for (_, ids) in server.delivered(stream) {
            for id in ids {
                let count = taken.entry(id.clone()).or_default();
                *count += 1;
                if count.is_multiple_of(share / 2) {
                    grants.insert(id);
                }
            }
        }
        for id in grants {
            server.credit(stream, &id, taken[&id] + share, u64::MAX);
        }
        if !server.hub.matching.is_empty() {
            server.step(Input::Tick);
        } else if !server.reads.is_empty() {
            server.complete_read(0);
        } else if server.hub.stats().gauges.behind == 0 {
            return taken.into_values().sum();
        }
        server.transport_takes_all(stream);
    }
}

#[test]
fn small_credit_costs_neither_reads_nor_passes() {
    const EVENTS: usize = 10_000;
    let mut server = Server::with_log(rooms(EVENTS as u64), Limits::default());
    server.audited = false;
    let stream = server.welcomed("s");
    server.subscribe(stream, want("a", "rooms").after(0).credit(16, u64::MAX));
    assert_eq!(catch_up_on_credit(&mut server, stream, 16), EVENTS as u64);
    let counters = server.hub.stats().counters;
    assert_eq!(counters.pages, 10, "each page is read once");
    assert_eq!(
        counters.page_events, EVENTS as u64,
        "each event is looked at once"
    );
}

#[test]
fn hundred_filtered_subscriptions_cost_one_pass() {
    const EVENTS: u64 = 10_000;
    let log = (1..=EVENTS).map(|offset| event(offset, "rooms", "r", (offset % 100).cast_signed()));
    let mut server = Server::with_log(log.collect(), Limits::default());
    server.audited = false;
    let stream = server.welcomed("s");
    for part in 0..100 {
        let wanted = want(&format!("sub-{part}"), "rooms").filter("n", "==", Kind::IntValue(part));
        server.send_subscribe(stream, wanted.after(0).credit(160, u64::MAX));
    }
    server.take(stream);
    assert_eq!(catch_up_on_credit(&mut server, stream, 160), EVENTS);
    let counters = server.hub.stats().counters;
    assert_eq!(counters.pages, 10, "each page is read once");
    assert!(
        counters.page_events <= EVENTS * 11 / 10,
        "{}",
        counters.page_events
    );
}

#[test]
fn subscription_limit_holds_across_streams() {
    let limits = Limits {
        subscriptions: 100,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let streams = [server.welcomed("s"), server.open()];
    for index in 0..300 {
        server.send_subscribe(streams[index % 2], want(&format!("sub-{index}"), "rooms"));
    }
    let stats = server.hub.stats();
    assert_eq!(stats.gauges.subscriptions, 100);
    assert_eq!(stats.counters.refused_subscriptions, 200);
    server.assert_frees_everything();
}

#[test]
fn event_for_100000_subscriptions_fits_message_limit() {
    const SUBSCRIPTIONS: usize = 100_000;
    for profile in [false, true] {
        let mut server = Server::new();
        server.audited = false;
        let stream = if profile {
            server.welcomed("s")
        } else {
            server.open()
        };
        let mut wanted = BTreeSet::new();
        for index in 0..SUBSCRIPTIONS {
            let id = format!("{index:0>60}");
            server.send_subscribe(stream, want(&id, "rooms"));
            wanted.insert(id);
        }
        server.transport_takes_all(stream);
        server.take(stream);
        server.commit("rooms", "r1", 1);
        let queued: usize = server.unsent[&stream].iter().sum();
        assert!(queued < 6 << 20, "{queued} bytes are queued at once");
        server.run_until_idle();
        assert_eq!(server.code(stream), None);
        let deliveries = server.deliveries(stream);
        assert!(deliveries.len() > 1, "it does not fit into one");
        for delivery in deliveries {
            let previous = if profile {
                delivery.subscription_ids.len()
            } else {
                0
            };
            assert_eq!(delivery.previous.len(), previous);
            let message = StreamerMessage {
                payload: Some(Payload::Delivery(delivery)),
            };
            let bytes = message.encoded_len();
            assert!(bytes <= 4 << 20, "{bytes} bytes in one message");
            let Some(Payload::Delivery(delivery)) = message.payload else {
                unreachable!("the payload is a delivery");
            };
            for id in delivery.subscription_ids {
                assert!(wanted.remove(&id), "{id} twice");
            }
        }
        assert_eq!(wanted.len(), 0, "left out");
        assert_eq!(server.hub.stats().gauges.behind, 0);
    }
}
