//! The uplink against proxies that misbehave, in virtual time: minutes and hours of it.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod beginnings;
mod identities;
mod metrics;
#[path = "../uplink_support/mod.rs"]
mod uplink_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast::{
    ConnectError, LinkOptions, Metadata,
    session::{Activity, Advice, Cause, End, Initiator, Reason, State, Status},
    testing::ScriptedConnection,
};
use steadfast_fodc_agent::uplink::Uplink;
use steadfast_wire::fodc::{RegisterAgentResponse, StreamMetricsRequest};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use uplink_support::{
    agent, connected, identity, latest,
    record::{Broken, Regular},
    scripted::{Peer, Scripted},
    someday, until, window,
};

const SECOND: Duration = Duration::from_secs(1);

/// How a test with a record of its own begins.
fn on(proxy: &Scripted) -> Uplink<ScriptedConnection> {
    agent("", Regular::of(3)).build_on(proxy.clone()).unwrap()
}

/// Returns an uplink that has registered.
async fn registered(proxy: &Scripted) -> Uplink<ScriptedConnection> {
    let uplink = on(proxy);
    uplink.start();
    someday("a registration", until(uplink.watch(), connected)).await;
    uplink
}

fn status(code: i32, message: &str) -> End {
    // As the transport would advise.
    let advice = match code {
        12 | 5 => Advice::Stop,
        16 => Advice::Refresh,
        8 => Advice::Wait(None),
        _ => Advice::Retry,
    };
    End::status(code, message, advice)
}

/// A proxy that passes queries in and responses out of its metrics streams, by agent id.
fn asking() -> (Scripted, mpsc::UnboundedReceiver<(String, Peer)>) {
    let (sender, streams) = mpsc::unbounded_channel();
    let proxy = Scripted::registering(move |peer| {
        let sender = sender.clone();
        async move {
            let id = peer.agent_id().unwrap_or_default().to_owned();
            sender.send((id, peer)).ok();
            std::future::pending::<()>().await;
        }
    });
    (proxy, streams)
}

#[tokio::test(start_paused = true)]
async fn agent_started_before_its_proxy_registers() {
    let proxy = Scripted::registering(Peer::hold);
    proxy.refuse_dials(true);
    let uplink = on(&proxy);
    uplink.start();
    sleep(SECOND * 12).await;
    assert_eq!(uplink.status().state, State::Connecting);
    proxy.refuse_dials(false);
    let came = Instant::now();
    someday("a registration", until(uplink.watch(), connected)).await;
    assert!(came.elapsed() < SECOND * 10, "{:?}", came.elapsed());
    assert_eq!(proxy.registered(), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_renewed_at_once_on_every_stream() {
    let judged = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&judged);
    let proxy = Scripted::new(move |peer| {
        let accepted = peer.authorization() == Some("Bearer new");
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            if !accepted {
                peer.end(status(16, "expired"));
            } else if peer.is_registration() {
                peer.register(RegisterAgentResponse::default()).await;
            } else {
                peer.hold().await;
            }
        }
    });
    let source = |refused| async move {
        let token = if refused { "new" } else { "old" };
        Ok(Metadata::new().with("authorization", format!("Bearer {token}"))?)
    };
    let uplink = agent("", Regular::of(3))
        .link(LinkOptions::new().seed(7).credentials(source))
        .build_on(proxy.clone())
        .unwrap();
    uplink.start();
    let registered = timeout(SECOND * 2, until(uplink.watch(), connected)).await;
    registered.expect("not after the delay of a refusal");
    sleep(SECOND * 2).await;
    for method in ["RegisterAgent", "StreamMetrics"] {
        let opened = proxy.opened(method);
        assert_eq!(opened.len(), 2, "{method}: refused once, then accepted");
        assert!(opened[1] - opened[0] < SECOND, "{method}");
    }
    assert!(judged.load(Ordering::Relaxed) >= 4);
}

#[tokio::test(start_paused = true)]
async fn refusals_for_minutes_grow_the_delay() {
    let proxy = Scripted::registering(Peer::hold);
    proxy.refuse_dials(true);
    let uplink = agent("", Regular::of(3))
        .reconnect_interval_max(SECOND * 30)
        .build_on(proxy.clone())
        .unwrap();
    let Err(ConnectError::Failed { attempts, .. }) = uplink.connect().await else {
        panic!("three failed attempts are a response");
    };
    assert_eq!(attempts, 3);
    sleep(SECOND * 600).await;
    let dials = proxy.dials();
    assert_eq!(dials.len() as u64, uplink.link_counters().attempts);
    let delays = dials.windows(2).map(|pair| pair[1] - pair[0]);
    let delays: Vec<f64> = delays.map(|delay| delay.as_secs_f64()).collect();
    for (delay, ideal) in delays
        .iter()
        .zip([5.0, 10.0, 20.0].into_iter().chain([30.0; 99]))
    {
        let longest = f64::min(1.2 * ideal, 30.0) + 0.1;
        assert!((0.8 * ideal..=longest).contains(delay), "{delays:?}");
    }
    proxy.refuse_dials(false);
    let back = timeout(SECOND * 31, until(uplink.watch(), connected)).await;
    back.expect("back within the longest delay");
    assert_eq!(proxy.registered(), 1);
}

#[tokio::test(start_paused = true)]
async fn agents_are_back_one_interval_after_their_proxy() {
    let proxy = Scripted::registering(Peer::hold);
    let uplinks: Vec<_> = (0..100)
        .map(|seed| {
            let identity = watch::Sender::new(identity());
            let builder = Uplink::builder("", identity.subscribe(), Regular::of(0));
            let builder = builder.link(LinkOptions::new().seed(seed));
            let uplink = builder.build_on(proxy.clone()).unwrap();
            uplink.start();
            uplink
        })
        .collect();
    sleep(SECOND * 40).await;
    // A long rollout: the delays would have grown to the longest meanwhile.
    proxy.refuse_dials(true);
    proxy.cut_everything();
    sleep(SECOND * 300).await;
    proxy.refuse_dials(false);
    sleep(SECOND * 5).await;
    assert_eq!(proxy.registered(), 200);
    assert!(uplinks.iter().all(|uplink| connected(&uplink.status())));
}

#[tokio::test(start_paused = true)]
async fn each_proxy_restart_costs_one_registration() {
    let proxy = Scripted::registering(Peer::hold);
    let uplink = on(&proxy);
    uplink.start();
    for restart in 1..=20 {
        let mut registered = uplink.registered();
        let id = format!("agent-{restart}");
        let again = registered.wait_for(|now| now.as_ref().is_some_and(|now| now.agent_id == id));
        someday("a registration", again).await.unwrap();
        sleep(SECOND * 40).await;
        assert_eq!(proxy.registered(), restart);
        assert_eq!(proxy.opened("RegisterAgent").len() as u64, restart);
        assert_eq!(proxy.opened("StreamMetrics").len() as u64, restart);
        proxy.connection().cut();
    }
    assert_eq!(uplink.counters().registrations, 20);
}

#[tokio::test(start_paused = true)]
async fn unimplemented_metrics_are_tried_once() {
    let proxy = Scripted::registering(|peer| async move { peer.end(status(12, "unknown method")) });
    let uplink = registered(&proxy).await;
    sleep(SECOND * 600).await;
    assert_eq!(proxy.registered(), 1, "registrations in ten minutes");
    assert_eq!(proxy.opened("StreamMetrics").len(), 1);
    assert_eq!(uplink.counters().switched_off, 1);
    assert_eq!(uplink.metrics_status().unwrap().state, State::Disconnected);

    proxy.connection().cut();
    sleep(SECOND * 60).await;
    assert_eq!(proxy.registered(), 2);
    assert_eq!(proxy.opened("StreamMetrics").len(), 2, "asked again");
}

#[tokio::test(start_paused = true)]
async fn metrics_status_never_causes_a_registration() {
    for code in [0, 1, 2, 3, 4, 5, 7, 8, 10, 12, 13, 14, 16] {
        let proxy = Scripted::registering(move |peer| async move { peer.end(status(code, "no")) });
        let _uplink = registered(&proxy).await;
        sleep(SECOND * 600).await;
        assert_eq!(proxy.registered(), 1, "{code}");
        let opened = proxy.opened("StreamMetrics").len();
        let bound = if code == 12 { 1..=1 } else { 2..=30 };
        assert!(
            bound.contains(&opened),
            "{code}: {opened} streams in ten minutes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn refused_registrations_back_off() {
    for code in [2, 3, 5, 7, 8, 12, 16] {
        let proxy = Scripted::new(move |peer: Peer| async move { peer.end(status(code, "no")) });
        let uplink = on(&proxy);
        uplink.start();
        sleep(SECOND * 600).await;
        let dials = proxy.dials();
        let delays = dials
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let delays: Vec<f64> = delays.collect();
        // 30 s from the fourth on, and a fifth of the interval more at most.
        let ideal = [5.0, 10.0, 20.0].into_iter().chain([30.0; 99]);
        for (delay, ideal) in delays.iter().zip(ideal) {
            assert!((ideal..=ideal + 1.1).contains(delay), "{code}: {delays:?}");
        }
        assert!((18..=22).contains(&delays.len()), "{code}: {delays:?}");
        assert_eq!(uplink.status().state, State::Connecting, "nothing is final");
    }
}

#[tokio::test(start_paused = true)]
async fn proxy_that_is_away_is_tried_each_interval() {
    // What relays answer for a proxy that is away, and a stream that ends without a word.
    for code in [0, 1, 4, 13, 14] {
        let proxy = Scripted::new(move |peer: Peer| async move { peer.end(status(code, "no")) });
        let uplink = on(&proxy);
        uplink.start();
        // The interval is 5 s, and jitter shortens a delay by a fifth at most.
        let mut before = 0;
        for _ in 0..30 {
            sleep(SECOND * 20).await;
            let opened = proxy.opened("RegisterAgent").len();
            let asked = opened - before;
            assert!((4..=6).contains(&asked), "{code}: {asked} in 20 s");
            before = opened;
        }
        assert!(before <= 151, "{code}: {before} in ten minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn registration_ends_the_doubling_after_refusals() {
    let refuse = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuse);
    let proxy = Scripted::new(move |peer: Peer| {
        let refusing = Arc::clone(&refusing);
        async move {
            if refusing.load(Ordering::Relaxed) {
                peer.end(status(8, "full"));
            } else if peer.is_registration() {
                peer.register(RegisterAgentResponse::default()).await;
            } else {
                peer.hold().await;
            }
        }
    });
    let uplink = on(&proxy);
    uplink.start();
    sleep(SECOND * 120).await;
    refuse.store(false, Ordering::Relaxed);
    let back = timeout(SECOND * 32, until(uplink.watch(), connected)).await;
    back.expect("back within the longest delay");
    sleep(SECOND * 60).await;
    refuse.store(true, Ordering::Relaxed);
    proxy.cut_everything();
    sleep(SECOND * 2).await;
    let lost = proxy.dials().len();
    refuse.store(false, Ordering::Relaxed);
    sleep(SECOND * 7).await;
    assert!(
        connected(&uplink.status()),
        "the first refusal costs one interval"
    );
    assert_eq!(proxy.dials().len(), lost + 1);
}

#[tokio::test(start_paused = true)]
async fn full_registry_fails_an_attempt_with_its_message() {
    let full = Arc::new(AtomicU64::new(3));
    let left = Arc::clone(&full);
    let proxy = Scripted::new(move |mut peer: Peer| {
        let left = Arc::clone(&left);
        async move {
            if left
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
                .is_err()
            {
                if peer.is_registration() {
                    return peer.register(RegisterAgentResponse::default()).await;
                }
                return peer.hold().await;
            }
            peer.receive::<steadfast_wire::fodc::RegisterAgentRequest>()
                .await;
            let why = "maximum number of agents (1) reached";
            peer.send(&RegisterAgentResponse {
                message: why.to_owned(),
                ..RegisterAgentResponse::default()
            });
            peer.end(status(2, why));
        }
    });
    let uplink = on(&proxy);
    let Err(ConnectError::Failed { last, .. }) = uplink.connect().await else {
        panic!("refused three times is a response");
    };
    let why = "maximum number of agents (1) reached".to_owned();
    let refused = End::retry(Initiator::Peer, Reason::Refused(why));
    assert_eq!(last, Cause::Ended(refused));
    someday("room", until(uplink.watch(), connected)).await;
    let counters = uplink.counters();
    assert_eq!((counters.refused, counters.registrations), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn silent_proxy_costs_one_timeout_per_attempt() {
    // It takes the connection alone, or the stream as well.
    for takes_the_stream in [false, true] {
        let asked = Arc::new(AtomicU64::new(0));
        let proxy = Scripted::new(move |peer: Peer| {
            let asked = Arc::clone(&asked);
            async move {
                if peer.is_registration() && asked.fetch_add(1, Ordering::AcqRel) >= 4 {
                    return peer.register(RegisterAgentResponse::default()).await;
                }
                if takes_the_stream {
                    peer.send_headers();
                }
                peer.hold().await;
            }
        });
        let uplink = on(&proxy);
        uplink.start();
        sleep(SECOND * 9).await;
        assert_eq!(proxy.dials().len(), 1, "it waits for the response");
        sleep(SECOND * 8).await;
        assert_eq!(proxy.dials().len(), 2, "10 s and a first delay later");
        someday("a response", until(uplink.watch(), connected)).await;
        let dials = proxy.dials();
        assert_eq!(dials.len(), 5, "each attempt on a connection of its own");
        assert!(dials[4] - dials[3] <= SECOND * 41);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_proxy_is_kept_and_dead_one_detected() {
    let proxy = Scripted::registering(Peer::hold);
    let uplink = registered(&proxy).await;
    sleep(SECOND * 6 * 3_600).await;
    assert_eq!(proxy.registered(), 1);
    assert_eq!(proxy.dials().len(), 1);
    let beats = proxy.heartbeats().len();
    assert!(
        (2_159..=2_160).contains(&beats),
        "{beats} heartbeats in six hours"
    );
    let probes = proxy.connection().probes();
    assert!(
        (719..=720).contains(&probes),
        "{probes}: each 30 s, not more"
    );

    let holed = Instant::now();
    proxy.connection().black_hole();
    let lost = |status: &Status| status.state == State::Reconnecting;
    someday("a loss", until(uplink.watch(), lost)).await;
    assert!(holed.elapsed() <= SECOND * 91, "{:?}", holed.elapsed());
    timeout(SECOND * 2, until(uplink.watch(), connected))
        .await
        .expect("back at once");
    assert_eq!(proxy.registered(), 2);
}

#[tokio::test(start_paused = true)]
async fn thousand_agents_spread_their_reconnects() {
    let proxy = Scripted::registering(Peer::hold);
    let mut uplinks = Vec::new();
    for seed in 0..1_000 {
        let identity = watch::Sender::new(identity());
        let builder = Uplink::builder("", identity.subscribe(), Regular::of(0))
            .link(LinkOptions::new().seed(seed));
        let uplink = builder.build_on(proxy.clone()).unwrap();
        uplink.start();
        uplinks.push(uplink);
    }
    sleep(SECOND * 40).await;
    assert_eq!(proxy.registered(), 1_000);
    let lost = Instant::now();
    for uplink in &uplinks {
        assert!(connected(&uplink.status()));
    }
    proxy.cut_everything();
    sleep(SECOND * 2).await;
    assert_eq!(proxy.registered(), 2_000);
    let dials = proxy.dials();
    let mut tenths = [0; 10];
    for dial in &dials[1_000..] {
        let after = (*dial - lost).as_millis() as usize;
        assert!(after <= 1_001, "{after} ms");
        tenths[(after / 100).min(9)] += 1;
    }
    assert!(
        tenths.iter().all(|count| (60..=140).contains(count)),
        "{tenths:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_follow_the_effective_interval() {
    for (seconds, ours, expected) in [(3, 10, 3), (0, 7, 7), (0, 0, 10), (120, 10, 120)] {
        let proxy = Scripted::new(move |peer: Peer| async move {
            if peer.is_registration() {
                let response = RegisterAgentResponse {
                    heartbeat_interval_seconds: seconds,
                    ..RegisterAgentResponse::default()
                };
                peer.register(response).await;
            } else {
                peer.hold().await;
            }
        });
        let uplink = agent("", Regular::of(1))
            .heartbeat_interval(SECOND * ours)
            .build_on(proxy.clone())
            .unwrap();
        uplink.start();
        someday("a registration", until(uplink.watch(), connected)).await;
        let registered = Instant::now();
        sleep(SECOND * 600).await;
        let beats = proxy.heartbeats();
        let wanted = 600 / expected;
        assert!(
            (wanted - 1..=wanted).contains(&(beats.len() as u64)),
            "{}",
            beats.len()
        );
        let first = beats[0].0 - registered;
        assert_eq!(
            first.as_secs(),
            expected,
            "the first after one whole interval"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn evicted_agent_registers_once_more() {
    let proxy = Scripted::new(|peer: Peer| async move {
        if !peer.is_registration() {
            return peer.hold().await;
        }
        let dropped = peer.registered_until(SECOND * 300).await;
        dropped.end(status(2, "agent 1 not found"));
    });
    let uplink = on(&proxy);
    uplink.start();
    sleep(SECOND * 1_000).await;
    assert_eq!(
        proxy.registered(),
        4,
        "one, and one for each time it was dropped"
    );
    assert_eq!(proxy.opened("StreamMetrics").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn disconnect_is_idempotent_and_final_until_start() {
    let proxy = Scripted::registering(Peer::hold);
    let uplink = on(&proxy);
    someday("disconnected", uplink.disconnect()).await;
    assert_eq!(proxy.dials().len(), 0, "there was nothing to end");
    for round in 1..=3 {
        uplink.start();
        uplink.start();
        someday("a registration", until(uplink.watch(), connected)).await;
        let began = Instant::now();
        uplink.disconnect().await;
        uplink.disconnect().await;
        assert!(began.elapsed() <= SECOND * 4, "{:?}", began.elapsed());
        sleep(SECOND * 600).await;
        assert_eq!(uplink.status().state, State::Disconnected);
        assert_eq!(*uplink.registered().borrow(), None);
        assert_eq!(uplink.metrics_status(), None);
        assert_eq!(proxy.registered(), round);
    }
    someday("closed", uplink.close()).await;
    uplink.start();
    sleep(SECOND * 60).await;
    assert_eq!(proxy.registered(), 3);
    assert_eq!(uplink.connect().await, Err(ConnectError::Closed));
}

#[tokio::test(start_paused = true)]
async fn reconnect_replaces_only_a_dead_registration() {
    let proxy = Scripted::registering(Peer::hold);
    let uplink = on(&proxy);
    uplink.connect().await.unwrap();
    uplink.reconnect().await.unwrap();
    sleep(SECOND).await;
    assert_eq!((proxy.registered(), proxy.dials().len()), (1, 1));
    assert_eq!(proxy.opened("StreamMetrics").len(), 1);
    sleep(SECOND * 40).await;
    proxy.connection().black_hole();
    let began = Instant::now();
    uplink.reconnect().await.unwrap();
    assert!(began.elapsed() <= SECOND * 6, "{:?}", began.elapsed());
    assert_eq!(proxy.registered(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_everything() {
    let (proxy, mut streams) = asking();
    let uplink = on(&proxy);
    let other = uplink.clone();
    uplink.start();
    let (_, peer) = someday("a stream", streams.recv()).await.unwrap();
    drop(uplink);
    sleep(SECOND * 100).await;
    assert_eq!(proxy.registered(), 1);
    drop(other);
    sleep(SECOND * 3).await;
    drop(peer);
    sleep(SECOND * 600).await;
    assert_eq!(proxy.dials().len(), 1, "nobody is left to dial");
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test]
async fn builder_reports_all_faults_at_once() {
    let nobody = watch::Sender::new(steadfast_fodc_model::identity::Identity::default());
    let builder = Uplink::builder("nowhere", nobody.subscribe(), Regular::of(0))
        .reconnect_interval(Duration::ZERO)
        .tune(|mut config| {
            config.open_timeout = Duration::ZERO;
            config
        });
    let faults = builder.build().unwrap_err();
    assert!(faults.address.is_some());
    assert_eq!(faults.identity.as_ref().unwrap().faults().len(), 2);
    assert_eq!(faults.config.as_ref().unwrap().faults().len(), 2);
    let text = faults.to_string();
    for part in [
        "nowhere",
        "role is empty",
        "pod name",
        "initial_backoff",
        "open_timeout",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
