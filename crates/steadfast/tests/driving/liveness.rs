//! Detection of dead peers; quiet and slow peers are kept.

use steadfast::session::{Generation, Liveness, Ready};
use tokio::time::{Instant, sleep};

use super::*;
use crate::support::note::note;

#[tokio::test(start_paused = true)]
async fn sent_heartbeats_do_not_hide_a_silent_peer() {
    let world = listening();
    let mut config = Config::default();
    config.heartbeat_interval = Some(SECOND * 10);
    config.activity_timeout = Some(SECOND * 25);
    let protocol = Notes {
        heartbeat: Some(note(0)),
        ..Notes::sending(1)
    };
    let mut running = Running::idle(world.clone(), options(config), protocol);
    running.link.start().unwrap();
    running.live(1).await;
    let live = Instant::now();
    let end = running.down().await;
    assert_eq!(end, End::retry(Initiator::Peer, Reason::Silent));
    let found = live.elapsed();
    assert!(
        (SECOND * 25..SECOND * 25 + Duration::from_millis(5)).contains(&found),
        "what is sent proves nothing: {found:?}"
    );
    assert!(running.link.counters().messages_out >= 3);
    running.live(2).await;
    assert_eq!(world.dials().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn parts_of_an_incomplete_message_are_signs_of_life() {
    let world = ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        for _ in 0..100 {
            sleep(SECOND * 80).await;
            peer.send_part();
        }
        peer.receive_until_end().await;
    });
    let mut running = Running::start(world.clone(), Config::default());
    running.live(1).await;
    let began = Instant::now();
    assert_eq!(running.down().await.reason, Reason::Silent);
    let expected = SECOND * (100 * 80 + 90);
    let lasted = began.elapsed();
    assert!(
        lasted >= expected && lasted < expected + SECOND,
        "{lasted:?}"
    );
    assert_eq!(running.link.counters().messages_in, 0);
}

#[tokio::test(start_paused = true)]
async fn hanging_dial_ends_at_open_timeout() {
    let world = listening();
    world.set_dial_outcome(DialOutcome::Pending);
    let mut running = Running::start(world.clone(), Config::default());
    let began = Instant::now();
    let end = running.down().await;
    assert_eq!(end, End::retry(Initiator::Network, Reason::OpenTimeout));
    assert_eq!(began.elapsed().as_secs(), 10);
    world.set_dial_outcome(DialOutcome::Connected);
    running.live(1).await;
}

#[tokio::test(start_paused = true)]
async fn each_phase_before_live_has_its_timeout_and_reason() {
    for (ready, answers, reason, seconds) in [
        (Ready::FirstMessage, 0, Reason::GreetingTimeout, 10),
        (Ready::Restored, 0, Reason::GreetingTimeout, 10),
        (Ready::Restored, 1, Reason::RestoringTimeout, 30),
    ] {
        let world = ScriptedTransport::new(move |peer: Peer| async move {
            peer.send_headers();
            for number in 0..answers {
                peer.send(&note(number));
            }
            peer.receive_until_end().await;
        });
        let mut config = Config::default();
        config.ready = ready;
        let mut running = Running::start(world, config);
        let began = Instant::now();
        assert_eq!(running.down().await, End::retry(Initiator::Peer, reason));
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn unaccepted_request_ends_at_open_timeout() {
    let world = ScriptedTransport::new(async |peer: Peer| peer.receive_until_end().await);
    world.withhold_acceptance();
    let mut config = Config::default();
    config.ready = Ready::Accepted;
    let mut running = Running::start(world.clone(), config);
    assert_eq!(
        running.down().await,
        End::retry(Initiator::Network, Reason::OpenTimeout)
    );
}

#[tokio::test(start_paused = true)]
async fn late_probe_response_of_older_connection_is_ignored() {
    let world = ScriptedTransport::new(async |mut peer: Peer| {
        peer.send_headers();
        if peer.connection_number() == 0 {
            peer.end(finished());
            sleep(SECOND * 5).await;
            peer.send(&note(99));
        }
        while peer.receive::<Note>().await.is_some() {}
    });
    let mut running = Running::start(world.clone(), Config::default());
    running.live(2).await;
    sleep(SECOND * 20).await;
    assert_eq!(running.link.status().generation, Generation(2));
    assert_eq!(running.next().await, NoteEvent::Down(finished()));
    assert!(
        running.events.try_recv().is_err(),
        "nothing of the older one"
    );
}

#[tokio::test(start_paused = true)]
async fn tiny_activity_timeout_neither_panics_nor_storms() {
    for liveness in [Liveness::Received, Liveness::Probed] {
        let world = listening();
        let mut config = Config::default();
        config.liveness = liveness;
        config.heartbeat_interval = None;
        config.activity_timeout = Some(Duration::from_micros(1));
        config.max_backoff = SECOND;
        let running = Running::start(world.clone(), config);
        sleep(SECOND * 60).await;
        let dials = world.dials();
        assert!(
            (60..=80).contains(&dials.len()),
            "{} in a minute",
            dials.len()
        );
        for pair in dials.windows(2) {
            assert!(pair[1].at - pair[0].at >= Duration::from_millis(500));
        }
        assert_eq!(
            running.link.status().streams_established,
            dials.len() as u64
        );
    }
}
