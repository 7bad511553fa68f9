//! Ends of streams and links, and the messages that were queued.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use futures_util::StreamExt as _;
use steadfast::{
    Resumed, StateEvent,
    session::{Activity, Advice, Cause, ConfigFaults, Generation},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::*;
use crate::support::note::{After, large, note};

#[tokio::test(start_paused = true)]
async fn unreading_peer_costs_outbox_limit_and_its_stream() {
    // The first connection's peer never reads.
    let world = ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        if peer.connection_number() == 0 {
            std::future::pending::<()>().await;
        }
        peer.receive_until_end().await;
    });
    let options = options(Config::default()).outbox_bytes(10_000);
    let mut running = Running::idle(world.clone(), options, Notes::sending(1));
    running.link.start().unwrap();
    running.live(1).await;
    for number in 0..9 {
        running.link.command(large(number, 1_000)).unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(
        running.link.status().generation,
        Generation(1),
        "below the limit"
    );
    running.link.command(large(9, 1_000)).unwrap();
    assert_eq!(
        running.down().await,
        End::retry(Initiator::Local, Reason::OutboxFull)
    );
    running.live(2).await;
    for number in 0..100 {
        running.link.command(large(number, 1_000)).unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        running.link.status().generation,
        Generation(2),
        "room returns"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_policy_overrides_advice() {
    let world = ScriptedTransport::new(async |peer: Peer| peer.end(status(7, Advice::Stop)));
    // For this link nothing is fatal.
    let lenient = options(Config::default())
        .retry_policy(|end| (end.advice == Advice::Stop).then_some(Advice::Wait(None)));
    let mut running = Running::idle(world.clone(), lenient, Notes::sending(1));
    running.link.start().unwrap();
    assert_eq!(running.down().await, status(7, Advice::Wait(None)));
    sleep(SECOND * 23).await;
    assert_eq!(world.dials().len(), 1, "the longest backoff, not the first");
    sleep(SECOND * 8).await;
    assert_eq!(world.dials().len(), 2);

    let strict = options(Config::default()).retry_policy(|_| Some(Advice::Stop));
    let ending = ScriptedTransport::new(async |peer: Peer| peer.end(finished()));
    let mut running = Running::idle(ending.clone(), strict, Notes::sending(1));
    running.link.start().unwrap();
    assert_eq!(
        running.stopped().await,
        End::stop(Initiator::Peer, Reason::Finished)
    );
    sleep(SECOND * 600).await;
    assert_eq!(ending.dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_cannot_be_renewed_stop_the_link() {
    let world = ScriptedTransport::new(async |peer: Peer| peer.end(status(16, Advice::Refresh)));
    let mut running = Running::start(world.clone(), Config::default());
    assert_eq!(running.stopped().await, status(16, Advice::Refresh));
    assert_eq!(world.dials().len(), 2);
    sleep(SECOND * 600).await;
    assert_eq!(world.dials().len(), 2);
    let status = running.link.status();
    assert_eq!(
        (status.state, status.activity),
        (State::Disconnected, Activity::Idle)
    );
}

#[tokio::test(start_paused = true)]
async fn leave_sends_queued_and_receives_remaining_messages() {
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let world = ScriptedTransport::new(move |mut peer: Peer| {
        let received = Arc::clone(&count);
        async move {
            peer.send_headers();
            while peer.receive::<Note>().await.is_some() {
                received.fetch_add(1, Ordering::AcqRel);
            }
            peer.send(&note(77));
            peer.end(finished());
        }
    });
    let mut running = Running::start(world.clone(), Config::default());
    running.live(1).await;
    for number in 0..50 {
        running.link.command(note(number)).unwrap();
    }
    let left = Instant::now();
    running.leave().await;
    assert_eq!(left.elapsed(), Duration::ZERO, "the peer ended at once");
    assert_eq!(received.load(Ordering::Acquire), 51);
    assert_eq!(running.next().await, NoteEvent::Note(note(77)));
    assert_eq!(running.stopped().await.reason, Reason::Left);
    // The command is handled, but there is no stream to send it on.
    running.link.command(note(1)).unwrap();
    sleep(SECOND).await;
    assert_eq!(running.link.counters().messages_out, 51);
}

#[tokio::test(start_paused = true)]
async fn leave_with_unresponsive_peer_takes_drain_timeout() {
    let world = ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        std::future::pending::<()>().await;
    });
    let running = Running::start(world.clone(), Config::default());
    running.live(1).await;
    let began = Instant::now();
    running.leave().await;
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(world.connections()[0].is_closed());
}

#[tokio::test(start_paused = true)]
async fn close_waits_at_most_the_close_timeout() {
    let world = listening();
    let options = options(Config::default()).close_timeout(SECOND * 3);
    let running = Running::idle(world.clone(), options, Notes::sending(1));
    running.link.start().unwrap();
    running.live(1).await;
    world.connections()[0].never_close();
    let began = Instant::now();
    running.link.close().await;
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn state_callback_may_use_and_close_the_link() {
    let slot: Arc<OnceLock<Link<Notes, ScriptedConnection>>> = Arc::default();
    let within = Arc::clone(&slot);
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let options = options(Config::default()).on_state_change(move |notice| {
        let link = within.wait();
        let seen = (link.status(), link.counters(), link.outages());
        let to = match &notice {
            StateEvent::Changed(transition) => transition.to,
            StateEvent::Missed(_) => panic!("nothing is missed"),
        };
        if to == State::Connected {
            link.command(note(5)).unwrap();
            link.start().unwrap();
            tokio::task::block_in_place(|| {
                Handle::current().block_on(async {
                    link.reconnect().await.unwrap();
                    link.close().await;
                });
            });
            assert!(link.is_closed());
        }
        sender.send((to, seen)).unwrap();
    });
    let running = Running::idle(echoing(), options, Notes::sending(1));
    assert!(slot.set(running.link.clone()).is_ok());
    running.link.start().unwrap();
    let mut states = Vec::new();
    while states.len() < 3 {
        let (to, _) = super::within("a notice", notices.recv()).await.unwrap();
        states.push(to);
    }
    let expected = [State::Connecting, State::Connected, State::Disconnected];
    assert_eq!(states, expected);
}

#[tokio::test(start_paused = true)]
async fn panic_in_sink_closes_link_and_connection() {
    let world = echoing();
    let link = options(Config::default())
        .spawn(talk(), world.clone(), Notes::sending(1), |event| {
            assert!(!matches!(event, NoteEvent::Note(_)), "on purpose");
        })
        .unwrap();
    link.start().unwrap();
    within("closed", link.closed()).await;
    assert!(world.connections()[0].is_closed());
    assert!(link.command(note(1)).is_err());
    assert_eq!(link.connect().await, Err(ConnectError::Closed));
    let status = link.status();
    assert_eq!(
        (status.state, status.activity),
        (State::Disconnected, Activity::Closed)
    );
    assert!(link.connection().borrow().is_none());
}

fn resumed(world: &ScriptedTransport, config: Config) -> Resumed<After, ScriptedConnection> {
    options(config)
        .name("counting")
        .resume(talk(), world.clone(), After::default())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_continues_and_drops_duplicates() {
    // Each stream sends three notes, the first of them again, and ends.
    let world = ScriptedTransport::new(async |mut peer: Peer| {
        peer.send_headers();
        let after = peer.receive::<Note>().await.unwrap().number;
        for number in [after, after + 1, after + 2, after + 3] {
            peer.send(&note(number));
        }
        peer.end(finished());
    });
    let notes = resumed(&world, Config::default());
    let numbers: Vec<u64> = notes
        .take(30)
        .map(|response| response.unwrap().number)
        .collect()
        .await;
    assert!(numbers.iter().copied().eq(1..=30), "{numbers:?}");
    assert!(world.dials().len() >= 10);
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_yields_stop_once_and_nothing_on_leave() {
    let world = ScriptedTransport::new(async |peer: Peer| peer.end(status(7, Advice::Stop)));
    let mut notes = resumed(&world, Config::default());
    assert_eq!(notes.next().await, Some(Err(status(7, Advice::Stop))));
    notes.link().leave().await;
    notes.link().close().await;
    assert_eq!(notes.next().await, None);

    let world = echoing();
    let mut notes = resumed(&world, Config::default());
    notes.link().connect().await.unwrap();
    notes.send(note(4)).unwrap();
    assert_eq!(notes.next().await, Some(Ok(note(4))));
    notes.link().leave().await;
    notes.send(note(5)).expect("the link is not closed");
    notes.link().close().await;
    assert_eq!(notes.next().await, None);
    assert!(format!("{notes:?}").contains("Disconnected"), "{notes:?}");
}

#[tokio::test]
async fn all_configuration_faults_are_returned_at_once() {
    let mut config = Config::default();
    config.backoff_multiplier = 0.5;
    config.open_timeout = Duration::ZERO;
    let (sink, _events) = note_sink();
    let options = options(config).name("faulty");
    assert!(format!("{options:?}").contains("faulty"));
    let faults: ConfigFaults = options
        .spawn(talk(), listening(), Notes::default(), sink)
        .unwrap_err();
    assert_eq!(faults.faults().len(), 2, "{faults}");
}

#[tokio::test(start_paused = true)]
async fn status_has_state_cause_attempts_and_next_retry() {
    let world = ScriptedTransport::new(async |peer: Peer| peer.end(finished()));
    let running = Running::start(world.clone(), Config::default());
    let status = running
        .until("the third backoff", |status| {
            status.consecutive_failures == 3 && status.activity == Activity::Backoff
        })
        .await;
    assert_eq!(status.state, State::Connecting, "never live yet");
    assert_eq!(status.cause, Cause::Ended(finished()));
    assert_eq!(
        (status.generation, status.failed_attempts),
        (Generation(3), 3)
    );
    let retry = status.next_retry_at.unwrap();
    running
        .until("the next attempt", |status| {
            status.generation == Generation(4)
        })
        .await;
    let at = world.dials()[3].at - world.dials()[0].at;
    let planned = Duration::from_micros(retry.as_micros());
    assert!(
        at >= planned && at < planned + Duration::from_millis(5),
        "{at:?} {planned:?}"
    );
}
