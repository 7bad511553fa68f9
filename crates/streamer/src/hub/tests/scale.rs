//! Many subscriptions: work that must be shared, counted and not timed.

use super::server::*;
use crate::hub::*;

#[test]
fn s18_twenty_thousand_restored_subscriptions_cost_about_one_pass_over_the_log() {
    let mut server = Server::holding(rooms(5_000), Limits::default());
    server.audited = false;
    let stream = server.welcomed("s");
    for index in 0..20_000 {
        let wanted = want(&format!("sub-{index}"), "users").after(index % 50);
        server.ask(stream, wanted);
    }
    server.settle();
    server.hub.audit();
    let stats = server.hub.stats();
    assert_eq!((stats.held.subscriptions, stats.held.behind), (20_000, 0));
    let passes = stats.counters.page_events as f64 / 5_000.0;
    assert!(passes < 2.5, "{passes} passes");
}

#[test]
fn i20_limits_hold_for_streams_that_ask_for_more() {
    let limits = Limits {
        subscriptions: 100,
        ..Limits::default()
    };
    let mut server = Server::with(limits);
    let streams = [server.welcomed("s"), server.open()];
    for index in 0..300 {
        server.ask(streams[index % 2], want(&format!("sub-{index}"), "rooms"));
    }
    let stats = server.hub.stats();
    assert_eq!(stats.held.subscriptions, 100);
    assert_eq!(stats.counters.refused_subscriptions, 200);
    server.assert_frees_everything();
}
