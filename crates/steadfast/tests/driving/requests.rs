//! `connect` and `reconnect` observe the driver and do not drive it.

use futures_util::future::join_all;
use steadfast::session::{Activity, Cause, Generation};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::support::note::note;

#[tokio::test(start_paused = true)]
async fn connect_resolves_at_live_and_at_once_if_live() {
    let world = listening();
    let running = Running::idle(world.clone(), options(Config::default()), Notes::sending(1));
    assert_eq!(running.link.status().state, State::Disconnected);
    assert_eq!(running.connect().await, Ok(()));
    assert_eq!(running.link.status().state, State::Connected);
    let before = Instant::now();
    assert_eq!(running.connect().await, Ok(()));
    assert_eq!((before.elapsed(), world.dials().len()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn connect_fails_after_three_attempts_and_link_keeps_trying() {
    let world = listening();
    world.set_dial_outcome(DialOutcome::Refused);
    let running = Running::idle(world.clone(), options(Config::default()), Notes::sending(1));
    // Each request counts only the attempts that fail while it waits.
    for round in 1..=2 {
        let error = running.connect().await.unwrap_err();
        let ConnectError::Failed { attempts: 3, last } = &error else {
            panic!("three attempts failed: {error:?}")
        };
        assert!(matches!(last, Cause::Ended(end) if end.reason.label() == "unreachable"));
        let text = error.to_string();
        let expected = "3 attempts failed, the link keeps trying; last failure: ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(world.dials().len(), 3 * round);
    }
    world.set_dial_outcome(DialOutcome::Connected);
    // The longest backoff.
    sleep(SECOND * 30).await;
    running.live(1).await;
    assert_eq!(world.dials().len(), 7, "no further request is needed");
}

#[tokio::test(start_paused = true)]
async fn cancelled_connect_does_not_stop_the_link() {
    let world = listening();
    world.set_dial_outcome(DialOutcome::Refused);
    let running = Running::idle(world.clone(), options(Config::default()), Notes::sending(1));
    timeout(Duration::from_millis(100), running.link.connect())
        .await
        .expect_err("still trying");
    world.set_dial_outcome(DialOutcome::Connected);
    running.live(1).await;
}

#[tokio::test(start_paused = true)]
async fn eleventh_waiting_request_is_busy() {
    let world = listening();
    world.set_dial_outcome(DialOutcome::Pending);
    let running = Running::idle(world.clone(), options(Config::default()), Notes::sending(1));
    let ten = join_all((0..10).map(|_| running.link.connect()));
    let late = async {
        sleep(SECOND).await;
        let busy = running.connect().await;
        assert_eq!(busy, Err(ConnectError::Busy(10)));
        world.set_dial_outcome(DialOutcome::Connected);
    };
    let (answers, ()) = tokio::join!(ten, late);
    assert_eq!(answers, vec![Ok(()); 10]);
    assert_eq!(running.connect().await, Ok(()), "there is room again");
}

#[tokio::test(start_paused = true)]
async fn reconnect_keeps_a_healthy_stream() {
    let world = echoing();
    let mut running = Running::start(world.clone(), Config::default());
    let before = running.live(1).await;
    assert_eq!(running.reconnect().await, Ok(()));
    let after = running.link.status();
    assert_eq!(
        (after.generation, after.transitions),
        (Generation(1), before.transitions)
    );
    assert_eq!((world.dials().len(), world.streams().len()), (1, 1));
    assert_eq!(
        (
            world.connections()[0].probes(),
            running.link.counters().probes
        ),
        (1, 1)
    );
    running.link.command(note(2)).unwrap();
    assert_eq!(running.next().await, NoteEvent::Note(note(1)));
    assert_eq!(running.next().await, NoteEvent::Note(note(2)));
}

#[tokio::test(start_paused = true)]
async fn reconnect_replaces_stream_of_unresponsive_peer() {
    let world = listening();
    let mut running = Running::start(world.clone(), Config::default());
    running.live(1).await;
    world.connections()[0].black_hole();
    let asked = Instant::now();
    assert_eq!(running.reconnect().await, Ok(()));
    let taken = asked.elapsed();
    assert!((SECOND * 5..SECOND * 6).contains(&taken), "{taken:?}");
    assert_eq!(
        running.down().await,
        End::retry(Initiator::Peer, Reason::ProbeFailed)
    );
    assert_eq!(
        world.dials().len(),
        2,
        "a fresh connection, not a stream on the dead one"
    );
    assert!(world.connections()[0].is_closed());
}

#[tokio::test(start_paused = true)]
async fn reconnect_without_stream_connects_and_skips_backoff() {
    let world = listening();
    let running = Running::idle(world.clone(), options(Config::default()), Notes::sending(1));
    assert_eq!(running.reconnect().await, Ok(()));
    assert_eq!(running.link.counters().probes, 0);

    world.set_dial_outcome(DialOutcome::Refused);
    world.connections()[0].kill();
    running
        .until("a long backoff", |status| {
            status.consecutive_failures >= 3 && status.activity == Activity::Backoff
        })
        .await;
    world.set_dial_outcome(DialOutcome::Connected);
    let asked = Instant::now();
    assert_eq!(running.reconnect().await, Ok(()));
    assert!(
        asked.elapsed() <= Duration::from_millis(510),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn connect_reports_stop_and_next_connect_starts_anew() {
    let world = listening();
    world.set_dial_outcome(DialOutcome::Refused);
    let mut config = Config::default();
    config.max_retries = 2;
    let mut running = Running::idle(world.clone(), options(config), Notes::sending(1));
    let error = running.connect().await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Stopped(Cause::Ended(_))),
        "{error:?}"
    );
    assert_eq!(running.stopped().await.reason.label(), "unreachable");
    assert_eq!(world.dials().len(), 2, "the first attempt counts");
    sleep(SECOND * 120).await;
    assert_eq!(world.dials().len(), 2, "terminal is terminal");
    world.set_dial_outcome(DialOutcome::Connected);
    assert_eq!(running.connect().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn left_link_stays_idle_until_connect() {
    let world = listening();
    let running = Running::start(world.clone(), Config::default());
    running.live(1).await;
    running.leave().await;
    assert_eq!(running.link.status().state, State::Disconnected);
    sleep(SECOND * 600).await;
    assert_eq!(world.dials().len(), 1);
    assert_eq!(running.connect().await, Ok(()));
    assert_eq!(world.dials().len(), 2);
}
