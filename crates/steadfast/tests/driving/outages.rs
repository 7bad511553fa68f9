//! Counters, transitions and measured outages are consistent.

use steadfast::session::Ready;
use tokio::time::{Instant, sleep};

use super::*;
use crate::support::note::note;

const TENTH: Duration = Duration::from_millis(100);

/// A peer that greets, completes the restoration and completes the catch-up, with a delay before each,
/// and then sends a message per second until its connection is cut.
fn unhurried() -> ScriptedTransport {
    ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        for (number, wait) in [(1, TENTH), (2, TENTH * 2), (3, TENTH * 4)] {
            sleep(wait).await;
            peer.send(&note(number));
        }
        loop {
            sleep(SECOND).await;
            peer.send(&note(4));
        }
    })
}

#[tokio::test(start_paused = true)]
async fn measured_outage_parts_add_up_to_its_duration() {
    let world = unhurried();
    let mut config = Config::default();
    config.ready = Ready::Restored;
    config.heartbeat_interval = None;
    config.activity_timeout = Some(SECOND * 20);
    let protocol = Notes {
        missed: 3,
        ..Notes::sending(1)
    };
    let running = Running::idle(world.clone(), options(config), protocol);
    running.link.start().unwrap();
    running.live(1).await;
    sleep(SECOND * 60).await;
    assert_eq!(
        running.link.outages(),
        [],
        "the first connection ends no outage"
    );

    let last_heard = Instant::now();
    world.connections()[0].black_hole();
    world.set_dial_outcome(DialOutcome::Refused);
    sleep(SECOND * 21).await;
    assert_eq!(running.link.status().state, State::Reconnecting);
    assert_eq!(running.link.outages(), [], "not over yet");
    world.set_dial_outcome(DialOutcome::Connected);
    running.live(2).await;
    let live = Instant::now();
    sleep(SECOND * 2).await;

    let [outage] = running.link.outages().try_into().unwrap();
    let near = |measured: Duration, expected: Duration| {
        let slack = Duration::from_millis(10);
        assert!(
            measured >= expected.saturating_sub(slack) && measured <= expected + slack,
            "{measured:?} is not {expected:?}: {outage:?}"
        );
    };
    assert_eq!(outage.reason, Reason::Silent);
    assert_eq!(outage.detection, SECOND * 20);
    near(outage.restore, TENTH * 3);
    near(outage.catch_up, TENTH * 4);
    let opened = world.dials().last().unwrap().at;
    // The last sign of life came up to a second before the hole.
    let began = Duration::from_micros(outage.began.as_micros());
    assert!(began >= SECOND * 59 && began <= SECOND * 61, "{began:?}");
    assert!((opened - last_heard) <= outage.detection + outage.redial);
    assert_eq!(u64::from(outage.attempts), world.dials().len() as u64 - 1);
    let parts = outage.detection + outage.redial + outage.restore + outage.catch_up;
    assert_eq!(outage.duration(), parts);
    let started = world.dials()[0].at;
    near(outage.duration() + began, live + TENTH * 4 - started);
}

#[tokio::test(start_paused = true)]
async fn counters_agree_with_events() {
    let world = ScriptedTransport::new(async |mut peer: Peer| {
        peer.send_headers();
        while let Some(received) = peer.receive::<Note>().await {
            peer.send(&received);
            if received.number == 2 {
                peer.end(finished());
            }
        }
    });
    let running = Running::start(world.clone(), Config::default());
    for round in 1..=3 {
        running.live(round).await;
        running.link.command(note(2)).unwrap();
        sleep(SECOND * 60).await;
    }
    world.set_dial_outcome(DialOutcome::Refused);
    world.connections().last().unwrap().kill();
    sleep(SECOND * 20).await;
    running.link.close().await;

    let counters = running.link.counters();
    assert_eq!(counters.attempts, world.dials().len() as u64);
    assert_eq!(counters.streams_established, 4);
    let ended: u64 = counters.ends.values().sum();
    // Each attempt ended once, and only an attempt can end; the last one ended before the close.
    assert_eq!(ended, counters.attempts);
    assert_eq!(counters.ends["finished"], 3);
    assert_eq!(counters.ends["lost"], 1);
    assert_eq!(counters.ends["unreachable"], counters.attempts - 4);
    // Each attempt queues its first message, even if its dial fails.
    assert_eq!(counters.messages_out, counters.attempts + 3);
    assert_eq!((counters.messages_in, counters.bytes_in), (7, 7 * 2));
    assert_eq!(counters.bytes_out, counters.messages_out * 2);
    assert_eq!((counters.probes, counters.read_pauses), (0, 0));
    assert_eq!(running.link.outages().len(), 3, "the fourth was never over");
}

#[tokio::test(start_paused = true)]
async fn transitions_form_a_chain_without_holes() {
    let world = ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        sleep(SECOND * 31).await;
        peer.end(finished());
    });
    let running = Running::start(world, Config::default());
    sleep(SECOND * 600).await;
    running.link.close().await;
    let status = running.link.status();
    let recent: Vec<_> = status.recent.iter().cloned().collect();
    assert!(recent.len() > 20);
    assert_eq!(recent.len() as u64, status.transitions, "none is lost");
    assert_eq!(recent[0].from, State::Disconnected);
    for (number, pair) in recent.windows(2).enumerate() {
        assert_eq!(pair[0].number, number as u64 + 1);
        assert_eq!(
            pair[0].to, pair[1].from,
            "each begins where the last one ended"
        );
        assert!(pair[0].at <= pair[1].at);
    }
    assert_eq!(recent.last().unwrap().to, State::Disconnected);
    assert_eq!(status.since, recent.last().unwrap().at);
}
