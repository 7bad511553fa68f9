//! How long a message a plain proxy takes, as far as it can be found out.
//!
//! No version says it. All releases take 4 MiB, the newest takes 32, and only the newest has the
//! stream of the schema registry: called without an id it is refused there, and unknown elsewhere.
//! Neither leaves a trace in the proxy.

use std::{
    future::Future,
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use steadfast::{Borrowed, Link, transport};
use steadfast_session::{
    Cause, Config, Context, End, Generation, Protocol, Ready, Reason, State, Time,
};
use tokio::time::timeout;
use tracing::debug;

const METHOD: &str = "/banyandb.fodc.v1.FODCService/StreamSchemaRegistry";

/// What the newest version takes.
const NEWEST: usize = 32 << 20;

/// gRPC's code for a stream without an id.
const UNAUTHENTICATED: i32 = 16;

/// A question waits for its answer meanwhile.
const WITHIN: Duration = Duration::from_secs(1);

/// What every release takes.
pub(crate) const RELEASES: usize = 4 << 20;

/// No proxy is believed to take less in one message, or more.
const BELIEVED: RangeInclusive<usize> = (64 << 10)..=NEWEST;

/// The longest message one proxy takes, as far as is known now.
#[derive(Debug)]
pub(crate) struct MessageBytes {
    now: AtomicUsize,
    /// The proxy itself has found something too long.
    proven: AtomicBool,
}

impl MessageBytes {
    pub(crate) fn new(told: usize) -> Self {
        Self {
            now: told.clamp(*BELIEVED.start(), *BELIEVED.end()).into(),
            proven: false.into(),
        }
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    /// Something was too long for it.
    pub(crate) fn halve(&self) -> usize {
        self.proven.store(true, Ordering::Release);
        let half = (self.now() / 2).max(*BELIEVED.start());
        self.now.store(half, Ordering::Release);
        half
    }

    /// It is of a version that takes so much. Whether that is more than was thought.
    pub(crate) fn raise(&self, bytes: usize) -> bool {
        let more = bytes > self.now() && !self.proven.load(Ordering::Acquire);
        if more {
            self.now.store(bytes, Ordering::Release);
        }
        more
    }
}

/// What the proxy takes, if it is found to be more than the releases do.
pub(crate) async fn ask<C: transport::Connection>(connection: C) -> Option<usize> {
    let config = Config {
        max_retries: 1,
        ready: Ready::Headers,
        open_timeout: WITHIN,
        heartbeat_interval: None,
        activity_timeout: None,
        ..Config::default()
    };
    let call = transport::Call::new(METHOD);
    let link: Link<Nothing, _> = steadfast::Builder::new(call)
        .name("fodc version")
        .config(config)
        .spawn(Borrowed::new(connection), Nothing, |()| {})
        .expect("these settings have no fault");
    let newest = timeout(WITHIN, refused(&link)).await == Ok(true);
    link.close().await;
    debug!(newest, "asked for the version of the proxy");
    newest.then_some(NEWEST)
}

/// Whether the one attempt ends with a refusal of whoever has no id.
fn refused<C: transport::Connection>(
    link: &Link<Nothing, C>,
) -> impl Future<Output = bool> + use<C> {
    let mut status = link.watch();
    // Only a link that is closed can not be started, and this one is ours.
    link.start().ok();
    async move {
        let over = |now: &steadfast_session::Status| {
            now.failed_attempts > 0 && now.state == State::Disconnected
        };
        let Ok(over) = status.wait_for(over).await else {
            return false;
        };
        match &over.cause {
            Cause::Ended(End {
                reason: Reason::Status { code, .. },
                ..
            }) => *code == UNAUTHENTICATED,
            Cause::Ended(_) | Cause::Requested | Cause::Live | Cause::PeerDraining(_) => false,
        }
    }
}

/// The protocol of a stream on which nothing is said.
#[derive(Debug)]
struct Nothing;

impl Protocol for Nothing {
    type Send = ();
    type Receive = ();
    type Command = ();
    type Event = ();

    fn on_open(&mut self, _: Time, _: Generation, _: &mut Context<(), ()>) {}

    fn on_message(&mut self, _: Time, (): (), _: &mut Context<(), ()>) {}

    fn on_command(&mut self, _: Time, (): (), _: &mut Context<(), ()>) {}

    fn on_heartbeat(&mut self, _: Time, _: &mut Context<(), ()>) {}

    fn on_down(&mut self, _: Time, _: &End, _: &mut Context<(), ()>) {}

    fn on_stop(&mut self, _: Time, _: &End, _: &mut Context<(), ()>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_proxy_itself_found_too_long_is_not_forgotten() {
        let bytes = MessageBytes::new(RELEASES);
        assert!(bytes.raise(NEWEST));
        assert!(!bytes.raise(NEWEST), "it is known already");
        assert_eq!(bytes.halve(), NEWEST / 2);
        assert!(!bytes.raise(NEWEST));
        assert_eq!(bytes.now(), NEWEST / 2);
    }

    #[test]
    fn no_proxy_is_believed_to_take_next_to_nothing_or_everything() {
        assert_eq!(MessageBytes::new(0).now(), 64 << 10);
        assert_eq!(MessageBytes::new(0).halve(), 64 << 10);
        assert_eq!(MessageBytes::new(usize::MAX).now(), NEWEST);
    }
}
