//! The look at all streams for operators.

use steadfast_wire::streamer::value::Kind;

use super::{access::authorize, server::*};
use crate::hub::*;

/// Surveys in slices of a budget and returns how many it took.
fn surveyed(server: &Server, entries: usize, budget: usize) -> (Survey, usize) {
    let (mut survey, mut slices) = (Survey::new(entries), 1);
    while !server.hub.survey(&mut survey, budget) {
        slices += 1;
    }
    (survey, slices)
}

#[test]
fn slowest_streams_are_named_and_the_others_summed() {
    let mut server = Server::new();
    for n in 0..6_u64 {
        let stream = server.welcomed(&format!("s{n}"));
        let id = format!("id{n}");
        // The first has credit for nothing, the last for all.
        server.subscribe(stream, want(&id, "rooms").credit(4 * n, 1_000_000));
    }
    for _ in 0..20 {
        server.commit("rooms", "r1", 1);
    }
    for budget in [1, 3, 1_000] {
        let (survey, slices) = surveyed(&server, 2, budget);
        let slowest: Vec<_> = survey
            .slowest
            .iter()
            .map(|stream| {
                let (id, database, collection) = stream.slowest.as_ref().unwrap();
                assert_eq!((&**database, &**collection), ("db", "rooms"));
                (stream.session.as_deref().unwrap(), &**id, stream.lag)
            })
            .collect();
        assert_eq!(slowest, [("s0", "id0", 20), ("s1", "id1", 16)]);
        assert_eq!(survey.slowest[0].without_credit, 1);
        assert_eq!(survey.others(), (3, 12 + 8 + 4));
        assert_eq!(survey.lags[..4], [1, 2, 3, 0]);
        // Six streams, and five subscriptions that are behind.
        assert_eq!(slices, 11_usize.div_ceil(budget).max(1), "{budget}");
        assert_eq!(survey.gauges, server.hub.stats().gauges);
    }
}

#[test]
fn survey_that_is_interrupted_sees_each_stream_once() {
    let mut server = Server::new();
    let streams: Vec<_> = (0..10).map(|n| server.welcomed(&format!("s{n}"))).collect();
    for stream in &streams {
        server.subscribe(*stream, want("a", "rooms").credit(0, 0));
    }
    server.commit("rooms", "r1", 1);
    let mut survey = Survey::new(100);
    // Two streams with one subscription each, and the third without its subscription.
    assert!(!server.hub.survey(&mut survey, 5));
    server.step(Input::Ended { stream: streams[2] });
    server.step(Input::Ended { stream: streams[0] });
    while !server.hub.survey(&mut survey, 5) {}
    let seen: Vec<_> = survey.slowest.iter().map(|it| it.stream).collect();
    assert_eq!(seen, [&streams[..2], &streams[3..]].concat());
    assert!(
        survey
            .slowest
            .iter()
            .all(|it| (it.lag, it.behind) == (1, 1))
    );
}

#[test]
fn peer_that_leaves_its_queue_unread_is_among_the_slowest() {
    let mut server = Server::new();
    server.hub = server.hub.restricted();
    let stream = server.open();
    authorize(&mut server, stream, "alice", Grant::Everything, None);
    server.subscribe(stream, want("a", "rooms"));
    server.transport_takes_all(stream);
    server.commit("rooms", "r1", 1);
    server.pass(Duration::from_secs(3));
    let (survey, _) = surveyed(&server, 10, 1_000);
    let status = &survey.slowest[0];
    assert_eq!((status.peer, status.lag), (PeerKind::Plain, 0));
    assert_eq!(status.queued_messages, 1);
    assert_eq!(status.principal.as_deref(), Some("alice"));
    assert_eq!(status.blocked, Duration::from_secs(3));
}

#[test]
fn subscriptions_are_counted_by_kind() {
    let mut server = Server::new();
    let stream = server.welcomed("s");
    let text = |text: &str| Kind::StringValue(text.to_owned());
    let some = want("some", "rooms").filter("m", "==", text("x"));
    server.subscribe(stream, want("one", "rooms").document("r1"));
    server.subscribe(stream, want("all", "rooms"));
    server.subscribe(stream, some);
    let more = want("more", "rooms").filter("m", "==", text("x"));
    server.subscribe(stream, more.filter("_id", "==", text("r1")));
    let gauges = server.hub.stats().gauges;
    let kinds = (
        gauges.document_subscriptions,
        gauges.collection_subscriptions,
        gauges.filter_subscriptions,
    );
    assert_eq!(kinds, (1, 1, 2));
    server.commit("rooms", "r1", 1);
    let counters = server.hub.stats().counters;
    // Without the field `m` the two filters are no candidates.
    assert_eq!((counters.candidates, counters.matched), (2, 2));
}
