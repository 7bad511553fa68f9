//! Sources of credentials, in virtual time.

use std::sync::{Arc, Mutex};

use steadfast::{
    CallCredentials, CredentialsError, Metadata, RenewalRequests,
    session::{Advice, Authorization},
};
use tokio::time::{Instant, sleep};

use super::{support::note::note, *};

/// A source that numbers its tokens and notes what it was told.
#[derive(Clone, Default)]
struct Issuer(Arc<Mutex<Vec<(Instant, bool)>>>);

impl Issuer {
    fn issue(&self, refused: bool) -> Result<Metadata, CredentialsError> {
        let mut asked = self.0.lock().unwrap();
        asked.push((Instant::now(), refused));
        let token = format!("Bearer token-number-{}", asked.len());
        Ok(Metadata::new().with("authorization", token)?)
    }

    /// A source whose first `failing` requests fail.
    fn credentials(&self, failing: usize) -> CallCredentials {
        let issuer = self.clone();
        CallCredentials::from(move |refused| {
            let issuer = issuer.clone();
            async move {
                let metadata = issuer.issue(refused)?;
                if issuer.asked().len() <= failing {
                    return Err(CredentialsError::Other("the issuer is away".into()));
                }
                Ok(metadata)
            }
        })
    }

    /// What each request was told.
    fn asked(&self) -> Vec<bool> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, told)| *told)
            .collect()
    }
}

fn refused() -> End {
    status(16, Advice::Refresh)
}

fn token(peer: &Peer) -> String {
    let metadata = &peer.call().metadata;
    metadata.get("authorization").unwrap_or("none").to_owned()
}

/// A peer that accepts the tokens for which `accepts` is true, each for a minute and a half.
fn judging(accepts: fn(&str) -> bool) -> ScriptedTransport {
    ScriptedTransport::new(move |peer: Peer| async move {
        if accepts(&token(&peer)) {
            peer.send_headers();
            sleep(SECOND * 90).await;
        }
        peer.end(refused());
    })
}

fn start(world: &ScriptedTransport, credentials: CallCredentials) -> Running<ScriptedConnection> {
    let mut config = Config::default();
    config.activity_timeout = None;
    let options = options(config).credentials(credentials);
    let running = Running::idle(world.clone(), options, Notes::sending(1));
    running.link.start().unwrap();
    running
}

#[tokio::test(start_paused = true)]
async fn source_is_told_once_of_each_refusal() {
    let issuer = Issuer::default();
    let world = judging(|token| token != "Bearer token-number-1");
    let running = start(&world, issuer.credentials(0));
    running.live(1).await;
    assert_eq!(issuer.asked(), [false, true], "refused once");
    sleep(SECOND * 40).await;
    world.connections()[1].cut();
    running.live(2).await;
    assert_eq!(issuer.asked(), [false, true, false], "only lost");
}

#[tokio::test(start_paused = true)]
async fn expired_credentials_are_renewed_without_delay() {
    let issuer = Issuer::default();
    let running = start(&judging(|_| true), issuer.credentials(0));
    sleep(SECOND * 300).await;
    running.live(4).await;
    assert_eq!(issuer.asked(), [false, true, true, true]);
    for outage in running.link.outages() {
        assert!(outage.redial < SECOND / 10, "{outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_refused_for_ever_meet_the_backoff() {
    let issuer = Issuer::default();
    let world = judging(|_| false);
    let running = start(&world, issuer.credentials(0));
    sleep(SECOND * 600).await;
    let attempts = world.streams().len();
    assert!((20..=33).contains(&attempts), "{attempts}");
    let mut told = vec![true; attempts];
    told[0] = false;
    assert_eq!(issuer.asked(), told);
    assert_eq!(running.link.status().state, State::Connecting);
}

#[tokio::test(start_paused = true)]
async fn transport_that_renews_credentials_needs_no_source() {
    for (renews, state) in [(true, State::Connecting), (false, State::Disconnected)] {
        let mut config = Config::default();
        config.renews_credentials = renews;
        let running = Running::idle(judging(|_| false), options(config), Notes::sending(1));
        running.link.start().unwrap();
        sleep(SECOND * 600).await;
        assert_eq!(running.link.status().state, state);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_source_meets_the_backoff_and_nothing_is_dialled() {
    let issuer = Issuer::default();
    let world = judging(|token| token != "Bearer token-number-4");
    let mut running = start(&world, issuer.credentials(3));
    let end = running.down().await;
    assert_eq!(
        (end.initiator, end.reason.label()),
        (Initiator::Local, "credentials")
    );
    assert!(end.to_string().contains("the issuer is away"), "{end}");
    sleep(SECOND * 3).await;
    assert_eq!(world.dials(), []);
    running.live(1).await;
    // The fourth token was refused, the fifth accepted.
    assert_eq!(issuer.asked(), [false, false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn source_that_failed_is_still_told_of_the_refusal() {
    let issuer = Issuer::default();
    let asked = issuer.clone();
    let source = move |refused| {
        let metadata = asked.issue(refused);
        let number = asked.asked().len();
        async move {
            match number {
                2 | 3 => Err(CredentialsError::Other("the issuer is away".into())),
                _ => metadata,
            }
        }
    };
    let running = start(
        &judging(|token| token != "Bearer token-number-1"),
        source.into(),
    );
    sleep(SECOND * 20).await;
    running.live(1).await;
    assert_eq!(issuer.asked(), [false, true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn source_that_never_responds_is_dropped_in_time() {
    let alive = Arc::new(());
    let guard = Arc::clone(&alive);
    let source = move |_| {
        let guard = Arc::clone(&guard);
        async move {
            let never = std::future::pending().await;
            drop(guard);
            never
        }
    };
    let mut running = start(&judging(|_| true), source.into());
    assert_eq!(running.down().await.reason.label(), "open_timeout");
    sleep(SECOND * 5).await;
    assert_eq!(Arc::strong_count(&alive), 3, "the next attempt asks again");
    let before = Instant::now();
    running.link.close().await;
    assert_eq!(Arc::strong_count(&alive), 1);
    assert!(before.elapsed() < SECOND / 100);
}

#[tokio::test(start_paused = true)]
async fn fixed_and_obtained_metadata_are_sent_together() {
    let fixed = Metadata::new().with("tenant", "north").unwrap();
    let fixed = fixed.with("authorization", "Basic old").unwrap();
    let issuer = Issuer::default();
    let world = judging(|_| true);
    let credentials = issuer.credentials(0).with_metadata(fixed);
    let running = start(&world, credentials);
    running.live(1).await;
    let call = world.streams()[0].call.clone();
    let entries: Vec<_> = call.metadata.iter().collect();
    let token = ("authorization", "Bearer token-number-1");
    assert_eq!(entries, [("tenant", "north"), token]);
}

#[tokio::test(start_paused = true)]
async fn newer_credentials_wait_for_a_full_queue_and_keep_no_link() {
    let options = options(Config::default()).max_commands(1);
    let running = Running::idle(judging(|_| true), options, Notes::sending(1));
    running.link.start().unwrap();
    running.live(1).await;
    let issuer = Issuer::default();
    let (requests, renewer) = RenewalRequests::new();
    let command = |Authorization(text)| note(text.len() as u64);
    let serving = running
        .link
        .renew_credentials(renewer, issuer.credentials(0), command);
    let serving = tokio::spawn(serving);
    let full = running.link.reserve_command().await.unwrap();
    let sent = running.link.counters().messages_out;
    requests.request();
    sleep(SECOND).await;
    assert_eq!(issuer.asked(), [false]);
    assert_eq!(running.link.counters().messages_out, sent);
    drop(full);
    sleep(SECOND).await;
    assert_eq!(running.link.counters().messages_out, sent + 1);
    drop(running);
    requests.request();
    within("the end", serving).await.unwrap();
}
