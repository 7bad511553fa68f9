//! The uplink on real sockets, against proxies of every version.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod uplink_support;

use std::time::{Duration, Instant};

use steadfast::{
    dial::Servers,
    session::{Recovery, State},
};
use steadfast_chaos::{Fault, Reach};
use steadfast_fodc_agent::uplink::Uplink;
use tokio::time::sleep;
use uplink_support::{
    agent, connected, latest,
    record::{Regular, Stuck},
    server::{Behaviour, Dialect, Proxy},
    until, window, within,
};

/// Returns an uplink with intervals a twentieth as long, so that a test sees many of them.
fn fast_uplink(
    address: impl Into<Servers>,
    record: impl steadfast_fodc_agent::uplink::SampleStore,
) -> Uplink {
    agent(address, record)
        .reconnect_interval(Duration::from_millis(100))
        .heartbeat_interval(Duration::from_millis(50))
        .clock(|| 99_000)
        .tune(|mut config| {
            // On a busy machine a test ends streams before they count as stable; then delays grow.
            config.stable_after = Duration::from_millis(20);
            config.max_backoff = Duration::from_millis(400);
            config.recovery = Recovery::Spread(Duration::from_millis(50));
            config
        })
        .build()
        .unwrap()
}

/// Disconnects and closes, in time whatever the proxy does.
async fn leave(uplink: Uplink) {
    let began = Instant::now();
    within("disconnected", uplink.disconnect()).await;
    within("closed", uplink.close()).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn each_proxy_version_registers_and_queries() {
    for dialect in Dialect::ALL {
        let mut proxy = Proxy::start(Behaviour::of(dialect));
        let uplink = fast_uplink(proxy.addr.to_string(), Regular::of(3));
        within("registered", uplink.connect()).await.unwrap();
        let id = uplink.registered().borrow().clone().unwrap().agent_id;
        // Before the first query there are no headers, and nothing hangs on them.
        proxy.until("heartbeats", |log| log.heartbeats >= 3).await;
        proxy.query(latest()).await;
        let (agent_id, reply) = proxy.response().await;
        assert_eq!((agent_id.as_str(), reply.metrics.len()), (id.as_str(), 3));
        assert_eq!(reply.metrics[0].labels["pod_name"], "db-0");
        proxy.query(window(10, 19)).await;
        assert_eq!(proxy.response().await.1.metrics.len(), 30);
        proxy.query(window(500, 600)).await;
        let empty = proxy.response().await.1;
        assert_eq!(
            (empty.metrics.len(), empty.timestamp.unwrap().seconds),
            (0, 99)
        );
        {
            let log = proxy.log();
            let counts = (log.registrations.len(), log.refusals, log.crashes);
            assert_eq!(counts, (1, 0, 0));
        }
        within("left", uplink.disconnect()).await;
        proxy.until("gone", |log| log.online.is_empty()).await;
    }
}

#[tokio::test]
async fn localhost_proxy_is_reached_over_ipv4_only() {
    let proxy = Proxy::start(Behaviour::of(Dialect::Newest));
    let uplink = fast_uplink(format!("localhost:{}", proxy.addr.port()), Regular::of(1));
    within("registered", uplink.connect()).await.unwrap();
}

#[tokio::test]
async fn connected_only_after_registration() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let uplink = fast_uplink(port.to_string(), Regular::of(1));
    let failed = within("a response", uplink.connect()).await;
    assert!(failed.is_err());
    assert_eq!(uplink.status().state, State::Connecting);
    assert_eq!(*uplink.registered().borrow(), None);

    let mute = Behaviour {
        mute: true,
        ..Behaviour::of(Dialect::Newest)
    };
    let proxy = Proxy::start(mute);
    let uplink = fast_uplink(proxy.addr.to_string(), Regular::of(1));
    uplink.start();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(uplink.status().state, State::Connecting);
    // O7: the proxy is well again behind the same address.
    let proxy = proxy.restart(Behaviour::of(Dialect::Newest));
    within("registered", until(uplink.watch(), connected)).await;
    assert_eq!(proxy.log().registrations.len(), 1);
}

#[tokio::test]
async fn response_too_large_for_the_proxy_is_cut() {
    for (dialect, whole) in [(Dialect::V0_10_3, false), (Dialect::Newest, true)] {
        let mut proxy = Proxy::start(Behaviour::of(dialect));
        let record = Regular {
            padding: 600,
            ..Regular::of(8_000)
        };
        // A busy machine takes its time over so much, and this is not about time.
        let uplink = agent(proxy.addr.to_string(), record)
            .response_timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        uplink.start();
        for (query, latest) in [(latest(), true), (window(0, None), false), (latest(), true)] {
            proxy.query(query).await;
            let (agent_id, reply) = proxy.response().await;
            let count = reply.metrics.len();
            assert!(count > 4_000, "{count}");
            if latest {
                assert_eq!(count == 8_000, whole, "{count} of {dialect:?}");
            }
            assert_eq!(proxy.log().online, [agent_id]);
        }
        assert_eq!(proxy.log().registrations.len(), 1);
        assert_eq!(uplink.counters().metrics_streams, 1);
    }
}

#[tokio::test]
async fn unread_response_delays_no_heartbeat() {
    let proxy = Proxy::start(Behaviour {
        ignores_responses: true,
        ..Behaviour::of(Dialect::Newest)
    });
    let record = Regular {
        padding: 1_000,
        ..Regular::of(3_000)
    };
    let uplink = fast_uplink(proxy.addr.to_string(), record);
    uplink.start();
    for _ in 0..40 {
        proxy.query(latest()).await;
    }
    let before = proxy.log().heartbeats;
    let began = Instant::now();
    let beats = move |log: &uplink_support::server::ProxyLog| log.heartbeats >= before + 30;
    proxy.until("heartbeats", beats).await;
    // Long before the stream is given up, which would make way for them.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(proxy.log().registrations.len(), 1);
    // At most one response waits, and one is on its way; the other queries were not even read.
    assert!(uplink.counters().responses <= 3, "{:?}", uplink.counters());
    leave(uplink).await;
}

#[tokio::test]
async fn close_with_a_full_send_buffer_ends_in_time() {
    let proxy = Proxy::start(Behaviour {
        ignores_responses: true,
        ..Behaviour::of(Dialect::V0_10_3)
    });
    let between = proxy.behind();
    let record = Regular {
        padding: 1_000,
        ..Regular::of(4_000)
    };
    let uplink = fast_uplink(between.addr().to_string(), record);
    uplink.start();
    proxy.query(latest()).await;
    let _frozen = between.inject(Fault::Freeze, Reach::Everything);
    sleep(Duration::from_millis(500)).await;
    assert!(connected(&uplink.status()), "nobody knows yet");
    leave(uplink).await;
}

#[tokio::test]
async fn silent_proxy_is_kept_and_dead_one_detected() {
    const ACTIVITY: Duration = Duration::from_secs(3);
    let proxy = Proxy::start(Behaviour {
        heartbeat_seconds: 1,
        ..Behaviour::of(Dialect::Seed)
    });
    let between = proxy.behind();
    let uplink = agent(between.addr().to_string(), Regular::of(1))
        .activity_timeout(ACTIVITY)
        .build()
        .unwrap();
    within("registered", uplink.connect()).await.unwrap();
    // Nothing comes but what it is asked for life.
    sleep(3 * ACTIVITY).await;
    assert!(connected(&uplink.status()), "{:?}", uplink.status());
    assert_eq!(between.stats().accepted, 1);
    assert_eq!(proxy.log().registrations.len(), 1);

    let _frozen = between.inject(Fault::Freeze, Reach::Everything);
    let began = Instant::now();
    let lost = until(uplink.watch(), |now| now.state == State::Reconnecting);
    within("a loss", lost).await;
    let took = began.elapsed();
    // The last sign of life is at most a third of the timeout older than the freeze.
    assert!(took > ACTIVITY / 2, "{took:?}");
    assert!(took < ACTIVITY + Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn stuck_record_gives_an_empty_response_in_time() {
    let mut proxy = Proxy::start(Behaviour::of(Dialect::Newest));
    let record = Stuck::new(Regular::of(3));
    record.set(true);
    let uplink = agent(proxy.addr.to_string(), record.clone())
        .heartbeat_interval(Duration::from_millis(50))
        .response_timeout(Duration::from_millis(400))
        .build()
        .unwrap();
    uplink.start();
    for _ in 0..3 {
        proxy.query(latest()).await;
        let began = Instant::now();
        let (_, reply) = proxy.response().await;
        assert_eq!((reply.metrics.len(), reply.timestamp.is_some()), (0, true));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    let before = proxy.log().heartbeats;
    proxy
        .until("heartbeats", move |log| log.heartbeats > before + 5)
        .await;
    record.set(false);
    let well = async {
        loop {
            proxy.query(latest()).await;
            if proxy.response().await.1.metrics.len() == 3 {
                break;
            }
        }
    };
    within("the record again", well).await;
    assert_eq!(proxy.log().registrations.len(), 1);
}
