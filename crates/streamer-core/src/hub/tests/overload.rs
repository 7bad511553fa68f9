//! A collection whose events arrive faster than they are matched.

use std::{collections::BTreeMap, time::Duration};

use steadfast_wire::streamer::{ResyncReason, streamer_message::Payload, value::Kind};

use super::{server::*, slices::burst};
use crate::hub::*;

const FILTERS: i64 = 150;

/// Limits with which a handful of events is an overload.
fn tight() -> Limits {
    Limits {
        slice: 256,
        unmatched_events: 32,
        page_events: 8,
        tail_events: 8,
        ..Limits::default()
    }
}

/// Subscribes a stream to the events of `heavy` with filters that no index can answer.
fn subscribe_heavily(server: &mut Server, stream: StreamId) {
    for i in 0..FILTERS {
        let wanted = want(&format!("{stream:?}-{i}"), "heavy");
        server.subscribe(stream, wanted.filter("n", "!=", Kind::IntValue(-1 - i)));
    }
}

/// Takes the deliveries of streams and adds their offsets to those of each id.
fn take_ids(
    server: &mut Server,
    streams: [StreamId; 2],
    received: &mut BTreeMap<String, Vec<u64>>,
) {
    for stream in streams {
        server.transport_takes_all(stream);
        for (offset, ids) in server.delivered(stream) {
            for id in ids {
                received.entry(id).or_default().push(offset);
            }
        }
    }
}

#[test]
fn overload_delays_only_its_own_collection() {
    let mut server = Server::with(tight());
    server.audited = false;
    let (heavy, plain, light) = (server.welcomed("h"), server.open(), server.welcomed("l"));
    subscribe_heavily(&mut server, heavy);
    subscribe_heavily(&mut server, plain);
    server.subscribe(light, want("light", "light"));
    let mut received: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut heavy_offsets = Vec::new();
    let mut peak = 0;
    for round in 0..400 {
        assert!(server.hub.accepts_commits(), "a publisher waits in {round}");
        let head = server.log.len() as u64;
        burst(&mut server, "heavy", round, 8);
        heavy_offsets.extend(head + 1..=head + 8);
        assert!(server.hub.accepts_commits(), "a publisher waits in {round}");
        let offset = server.commit("light", "d", 1);
        server.now = server.now + Duration::from_millis(1);
        server.step(Input::Tick);
        assert_eq!(server.offsets(light), [offset], "a light event waits");
        server.transport_takes_all(light);
        // A read takes three rounds.
        if round % 3 == 0 && !server.reads.is_empty() {
            server.complete_read(0);
        }
        take_ids(&mut server, [heavy, plain], &mut received);
        let gauges = server.hub.stats().gauges;
        peak = peak.max(gauges.unmatched);
        assert_eq!(gauges.behind, 0, "no subscription changes its state");
    }
    server.hub.audit();
    let stats = server.hub.stats();
    assert_eq!(stats.gauges.overloaded, 1, "it was one until the end");
    let matched = received.values().map(Vec::len).max().unwrap_or(0);
    assert!(
        matched < heavy_offsets.len() / 2,
        "{matched} are no overload"
    );
    assert!(peak <= 33, "{peak} events in memory");
    while server.hub.stats().gauges.overloaded > 0 || !server.hub.matching.is_empty() {
        if server.hub.matching.is_empty() {
            server.complete_read(0);
        } else {
            server.step(Input::Tick);
        }
        take_ids(&mut server, [heavy, plain], &mut received);
    }
    assert_eq!(received.len(), 2 * FILTERS as usize);
    for (id, offsets) in received {
        assert_eq!(offsets, heavy_offsets, "{id}");
    }
    server.take(light);
    server.assert_frees_everything();
}

#[test]
fn progress_never_goes_back_behind_what_was_delivered() {
    let mut server = Server::with(tight());
    let stream = server.welcomed("h");
    subscribe_heavily(&mut server, stream);
    server.subscribe(stream, want("light", "light"));
    server.transport_takes_all(stream);
    burst(&mut server, "heavy", 1, 20);
    let light = server.commit("light", "d", 1);
    assert!(server.offsets(stream).contains(&light));
    assert!(server.hub.stats().gauges.unmatched > 0);
    assert_eq!(server.heartbeat(stream, 1).progress, None);
    server.run_until_idle();
    server.take(stream);
    let progress = server.heartbeat(stream, 2).progress.expect("progress");
    assert_eq!(progress.position, Some(position(light)));
}

#[test]
fn progress_of_an_overloaded_collection_is_not_ahead_of_it() {
    let mut server = Server::with(tight());
    let stream = server.welcomed("h");
    subscribe_heavily(&mut server, stream);
    server.transport_takes_all(stream);
    burst(&mut server, "heavy", 1, 100);
    while server.hub.stats().gauges.unmatched > 0 {
        server.step(Input::Tick);
        server.transport_takes_all(stream);
    }
    assert_eq!(server.hub.stats().gauges.overloaded, 1);
    let delivered = server.offsets(stream).last().copied().unwrap_or(0);
    let progress = server.heartbeat(stream, 1).progress.expect("progress");
    let offset = progress.position.map_or(0, |position| position.offset);
    assert_eq!(offset, delivered, "the rest is in the log");
    let late = server.subscribe(stream, want("late", "heavy"));
    assert_eq!(late.position, Some(position(100)));
    server.run_until_idle();
    let rows = server.delivered(stream);
    assert!(
        rows.iter()
            .all(|(_, ids)| !ids.contains(&"late".to_owned()))
    );
    assert_eq!(rows.last().map(|(offset, _)| *offset), Some(100));
}

#[test]
fn damage_in_an_overloaded_collection_is_told_to_each() {
    let mut server = Server::with(tight());
    let (stream, plain) = (server.welcomed("h"), server.open());
    subscribe_heavily(&mut server, stream);
    subscribe_heavily(&mut server, plain);
    for stream in [stream, plain] {
        server.transport_takes_all(stream);
    }
    burst(&mut server, "heavy", 1, 100);
    server.damaged = Some(50);
    server.run_until_idle();
    assert_eq!(server.code(plain), Some(EndCode::DataLoss));
    let (mut resyncs, mut offsets) = (0, Vec::new());
    for payload in server.take(stream) {
        match payload {
            Payload::SubscribeResponse(response) => {
                let resync = response.resync.expect("nobody subscribed");
                assert_eq!(resync.reason(), ResyncReason::Damaged);
                resyncs += 1;
            }
            Payload::Delivery(delivery) => {
                offsets.push(offset_of(&delivery.event.unwrap().event_id));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(resyncs, FILTERS);
    assert_eq!(offsets, (1..50).collect::<Vec<_>>());
    assert_eq!(server.hub.stats().gauges.behind, 0);
    assert_eq!(server.hub.stats().gauges.overloaded, 0);
}

#[test]
fn memory_of_many_overloaded_collections_is_bounded() {
    let limits = Limits {
        unmatched_bytes: 2_000,
        ..tight()
    };
    let mut server = Server::with(limits);
    let stream = server.welcomed("s");
    let names: Vec<_> = (0..50).map(|index| format!("rooms-{index}")).collect();
    for name in &names {
        server.subscribe(stream, want(name, name));
    }
    server.transport_takes_all(stream);
    let events: Vec<_> = (1..=1_000)
        .map(|offset| event(offset, &names[offset as usize * 7 % 50], "d", 1))
        .collect();
    let largest = events.iter().map(|event| event.weight()).max().unwrap();
    server.log.extend(events.iter().map(Arc::clone));
    for batch in events.chunks(100) {
        server.step(Input::Committed {
            events: batch.to_vec(),
        });
        let (events, bytes) = (server.hub.matching.events(), server.hub.matching.bytes());
        assert!(
            events <= 32 && bytes <= 2_000 + largest,
            "{events}, {bytes}"
        );
    }
    server.run_until_idle();
    let read_faults = server.hub.stats().counters.read_faults;
    assert_eq!(read_faults, 0, "read beyond the head");
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = 0;
    for (offset, ids) in server.delivered(stream) {
        for id in ids {
            let before = last.insert(id, offset).unwrap_or(0);
            assert!(before < offset, "{offset} after {before}");
            count += 1;
        }
    }
    assert_eq!(count, 1_000);
}
