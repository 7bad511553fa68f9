//! Messages in both directions, and backpressure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use steadfast::{
    Backpressure, CommandError, Resumed,
    session::{Generation, Ready},
};
use tokio::time::sleep;

use super::*;
use crate::support::note::{After, Note, note};

#[tokio::test(start_paused = true)]
async fn commands_are_handled_during_message_flood() {
    const FLOOD: u64 = 20_000;
    let delivered = Arc::new(AtomicU64::new(0));
    let at_command = Arc::new(AtomicU64::new(u64::MAX));
    let (seen, noted) = (Arc::clone(&delivered), Arc::clone(&at_command));
    let world = ScriptedTransport::new(move |mut peer: Peer| {
        let (seen, noted) = (Arc::clone(&seen), Arc::clone(&noted));
        async move {
            peer.send_headers();
            peer.receive::<Note>().await;
            peer.receive::<Note>().await;
            for number in 0..FLOOD {
                peer.send(&note(number));
            }
            peer.receive::<Note>().await;
            noted.store(seen.load(Ordering::Acquire), Ordering::Release);
            peer.receive_until_end().await;
        }
    });
    let count = Arc::clone(&delivered);
    let link = options(Config::default())
        .spawn(talk(), world, Notes::sending(1), move |_| {
            count.fetch_add(1, Ordering::AcqRel);
        })
        .unwrap();
    link.connect().await.unwrap();
    link.command(note(2)).unwrap();
    while delivered.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    link.command(note(3)).unwrap();
    while delivered.load(Ordering::Acquire) < FLOOD {
        tokio::task::yield_now().await;
    }
    let before = at_command.load(Ordering::Acquire);
    assert!(before < FLOOD / 10, "after {before} of {FLOOD} messages");
}

#[tokio::test(start_paused = true)]
async fn commands_during_dial_are_sent_with_the_call() {
    let world = echoing();
    world.set_dial_outcome(DialOutcome::Pending);
    let mut running = Running::start(world.clone(), Config::default());
    sleep(SECOND).await;
    running.link.command(note(2)).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(
        running.link.counters().messages_out,
        2,
        "queued, not waiting"
    );
    running.leave().await;
    assert_eq!(running.link.status().state, State::Disconnected);

    world.set_dial_outcome(DialOutcome::Connected);
    running.link.start().unwrap();
    running.link.command(note(3)).unwrap();
    let mut notes = Vec::new();
    while notes.len() < 2 {
        if let NoteEvent::Note(note) = running.next().await {
            notes.push(note);
        }
    }
    assert_eq!(
        notes,
        [note(1), note(3)],
        "the lost attempt's messages are not replayed"
    );
}

/// A peer that sends the notes after the requested one without end, 100 per second.
fn endless() -> ScriptedTransport {
    ScriptedTransport::new(async |mut peer: Peer| {
        peer.send_headers();
        let after = peer.receive::<Note>().await.unwrap().number;
        for number in after + 1.. {
            peer.send(&note(number));
            if number % 100 == 0 {
                sleep(SECOND).await;
            }
        }
    })
}

fn resume(world: &ScriptedTransport, ready: Ready) -> Resumed<After, ScriptedConnection> {
    let mut config = Config::default();
    config.ready = ready;
    config.heartbeat_interval = Some(SECOND * 5);
    config.activity_timeout = Some(SECOND * 10);
    options(config)
        .resume(talk(), world.clone(), After::default())
        .unwrap()
}

async fn next(notes: &mut Resumed<After, ScriptedConnection>) -> Note {
    let next = someday("a note", notes.next()).await;
    next.expect("the link is there").unwrap()
}

#[tokio::test(start_paused = true)]
async fn slow_application_keeps_stream_and_loses_nothing() {
    let world = endless();
    let mut notes = resume(&world, Ready::Headers);
    notes.link().connect().await.unwrap();
    for round in 0..5_u64 {
        // Ten times the activity timeout, with the queue full.
        sleep(SECOND * 100).await;
        assert!(notes.link().counters().messages_in <= 256 * (round + 1) + 1);
        for number in round * 256 + 1..=(round + 1) * 256 {
            assert_eq!(next(&mut notes).await, note(number));
        }
    }
    assert_eq!(world.dials().len(), 1);
    assert_eq!(notes.link().status().generation, Generation(1));
    assert!(notes.link().counters().read_pauses >= 5);
}

#[tokio::test(start_paused = true)]
async fn full_application_queue_does_not_delay_next_greeting() {
    let world = endless();
    let mut notes = resume(&world, Ready::FirstMessage);
    notes.link().connect().await.unwrap();
    sleep(SECOND * 40).await;
    assert_eq!(notes.link().counters().read_pauses, 1);
    world.connections()[0].black_hole();
    let reconnected = someday("an answer", notes.link().reconnect()).await;
    assert_eq!(reconnected, Ok(()));
    sleep(SECOND * 120).await;
    let status = notes.link().status();
    assert_eq!(
        (status.state, status.failed_attempts),
        (State::Connected, 0)
    );
    assert_eq!(world.dials().len(), 2);
    for number in 1..=1_000 {
        assert_eq!(next(&mut notes).await, note(number));
    }
}

#[tokio::test(start_paused = true)]
async fn paused_reading_is_not_silence_and_heartbeats_continue() {
    let heartbeats = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heartbeats);
    let world = ScriptedTransport::new(move |mut peer: Peer| {
        let heartbeats = Arc::clone(&count);
        async move {
            peer.send_headers();
            peer.send(&note(1));
            peer.receive::<Note>().await;
            while peer.receive::<Note>().await.is_some() {
                heartbeats.fetch_add(1, Ordering::AcqRel);
            }
        }
    });
    let backpressure = Backpressure::new(1);
    backpressure.enqueued();
    let protocol = Notes {
        heartbeat: Some(note(0)),
        ..Notes::sending(1)
    };
    let held = options(Config::default()).backpressure(Arc::clone(&backpressure));
    let mut running = Running::idle(world.clone(), held, protocol);
    running.link.start().unwrap();
    running.live(1).await;
    sleep(SECOND * 3_601).await;
    assert_eq!(heartbeats.load(Ordering::Acquire), 3_600 / 30);
    assert_eq!(running.link.status().generation, Generation(1));
    assert!(running.events.try_recv().is_err(), "held back");
    backpressure.dequeued();
    assert_eq!(running.next().await, NoteEvent::Note(note(1)));
    assert_eq!(running.down().await.reason, Reason::Silent);
}

#[tokio::test(start_paused = true)]
async fn black_holed_stream_after_a_paused_one_times_out() {
    let world = ScriptedTransport::new(|mut peer: Peer| async move {
        if peer.connection_number() == 0 {
            peer.send_headers();
            peer.send(&note(1));
        }
        while peer.receive::<Note>().await.is_some() {}
    });
    let backpressure = Backpressure::new(1);
    backpressure.enqueued();
    let held = options(Config::default()).backpressure(backpressure);
    let mut running = Running::idle(world.clone(), held, Notes::sending(1));
    running.link.start().unwrap();
    running.live(1).await;
    sleep(SECOND).await;
    assert_eq!(running.link.counters().read_pauses, 1);
    // While reading is paused, only a probe finds the loss.
    world.connections()[0].black_hole();
    let link = running.link.clone();
    let reconnecting = tokio::spawn(async move { link.reconnect().await });
    assert_eq!(running.down().await.reason, Reason::ProbeFailed);
    // The application is still slow, but that is no reason to wait for a dead peer.
    assert_eq!(running.down().await.reason, Reason::OpenTimeout);
    reconnecting.abort();
}

#[tokio::test(start_paused = true)]
async fn dropped_consumer_does_not_pause_reading() {
    let world = endless();
    let notes = resume(&world, Ready::Headers);
    let link = notes.link().clone();
    link.connect().await.unwrap();
    drop(notes);
    sleep(SECOND * 60).await;
    let counters = link.counters();
    assert_eq!(counters.read_pauses, 0);
    assert!(
        counters.messages_in >= 5_900,
        "{} notes",
        counters.messages_in
    );
}

#[tokio::test(start_paused = true)]
async fn only_connection_of_live_stream_is_published() {
    let world = listening();
    let running = Running::start(world.clone(), Config::default());
    let mut shown = running.link.connection();
    within("shown", shown.wait_for(Option::is_some))
        .await
        .unwrap();
    assert!(running.link.status().state == State::Connected || shown.borrow().is_some());
    world.set_dial_outcome(DialOutcome::Pending);
    world.connections()[0].kill();
    within("gone", shown.wait_for(Option::is_none))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn full_command_queue_is_an_error_and_a_reservation_waits() {
    let options = options(Config::default()).max_commands(2);
    let running = Running::idle(listening(), options, Notes::sending(1));
    running.link.start().unwrap();
    // The driver takes nothing before the test yields.
    running.link.command(note(2)).unwrap();
    running.link.command(note(3)).unwrap();
    let full = running.link.command(note(4));
    assert_eq!(full, Err(CommandError::Full(2)));
    running.link.start().unwrap();
    let permit = within("capacity", running.link.reserve_command()).await;
    permit.unwrap().send(note(5)).unwrap();
    running.live(1).await;
    assert_eq!(running.link.counters().messages_out, 4);
    running.link.close().await;
    assert_eq!(running.link.command(note(6)), Err(CommandError::Closed));
    let reserved = within("closed", running.link.reserve_command()).await;
    assert!(matches!(reserved, Err(steadfast::Closed)));
}

#[tokio::test(start_paused = true)]
async fn single_request_ends_our_half_and_not_the_stream() {
    let world = ScriptedTransport::new(|mut peer: Peer| async move {
        peer.send_headers();
        assert_eq!(peer.receive::<Note>().await, Some(note(1)));
        // A Go server of such a method waits for this before it calls its handler.
        assert_eq!(peer.receive::<Note>().await, None);
        peer.send(&note(7));
        std::future::pending::<()>().await;
    });
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let call = talk().with_single_request();
    let link = options(Config::default())
        .spawn(call, world, Notes::sending(1), move |event| {
            sender.send(event).ok();
        })
        .unwrap();
    link.connect().await.unwrap();
    events.recv().await.expect("the response");
    assert_eq!(link.status().state, State::Connected);
    assert_eq!(link.counters().messages_out, 1);
}
