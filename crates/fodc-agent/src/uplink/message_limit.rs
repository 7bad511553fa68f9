//! The longest message that a plain proxy accepts, as far as it can be found out.
//!
//! No version of the proxy announces its limit. All releases accept 4 MiB; the newest version
//! accepts 32 MiB and is also the only one with the schema registry stream. A call of that stream
//! without an agent id is refused by the newest version and unknown to the others, and leaves no
//! trace in either. The result of that call therefore tells the limit.

use std::{
    future::Future,
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use steadfast::{CallCredentials, Link, LinkOptions, SharedTransport, transport};
use steadfast_session::{
    Cause, Config, Context, End, Generation, Protocol, Ready, Reason, State, Time,
};
use tokio::time::timeout;
use tracing::debug;

const METHOD: &str = "/banyandb.fodc.v1.FODCService/StreamSchemaRegistry";

/// The limit of the newest version, in bytes.
const NEWEST_LIMIT: usize = 32 << 20;

/// The limit of every release, in bytes.
pub(crate) const RELEASE_LIMIT: usize = 4 << 20;

/// The limits that are used, whatever a proxy announces.
const ALLOWED: RangeInclusive<usize> = (64 << 10)..=NEWEST_LIMIT;

/// gRPC's code for a call without the metadata that names the agent.
const UNAUTHENTICATED: i32 = 16;

/// The longest wait for the version of the proxy; a query waits meanwhile.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest message that one proxy accepts, as far as is known now.
#[derive(Debug)]
pub(crate) struct MessageLimit {
    bytes: AtomicUsize,
    /// The proxy has rejected a message as too long.
    rejected: AtomicBool,
}

impl MessageLimit {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes: bytes.clamp(*ALLOWED.start(), *ALLOWED.end()).into(),
            rejected: false.into(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Halves the limit after the proxy has rejected a message, and returns the new one.
    pub(crate) fn halve(&self) -> usize {
        // First, so that a version that is learned from now on raises nothing.
        self.rejected.store(true, Ordering::Release);
        let half = (self.bytes() / 2).max(*ALLOWED.start());
        self.bytes.store(half, Ordering::Release);
        half
    }

    /// Raises the limit to that of the proxy's version, and returns true if it was lower.
    pub(crate) fn raise(&self, bytes: usize) -> bool {
        // A rejected message outweighs the version: something between may limit messages, too.
        let raised = bytes > self.bytes() && !self.rejected.load(Ordering::Acquire);
        if raised {
            self.bytes.store(bytes, Ordering::Release);
        }
        raised
    }
}

/// Returns the limit of the proxy's version if it is higher than that of the releases.
pub(crate) async fn probe<C: transport::Connection>(
    connection: C,
    credentials: CallCredentials,
) -> Option<usize> {
    let mut config = Config::default();
    config.max_retries = 1;
    // Both outcomes come as the status of the call, so its headers are enough.
    config.ready = Ready::Headers;
    config.open_timeout = PROBE_TIMEOUT;
    config.heartbeat_interval = None;
    config.activity_timeout = None;
    let call = transport::Call::new(METHOD);
    let link: Link<Silent, _> = LinkOptions::from(config)
        .name("fodc version")
        // A relay that checks them must not answer in place of the proxy.
        .credentials(credentials)
        // On the connection of the registration: nothing is dialled for the probe.
        .spawn(call, SharedTransport::new(connection), Silent, |()| {})
        .expect("these settings have no fault");
    let newest = timeout(PROBE_TIMEOUT, is_unauthenticated(&link)).await == Ok(true);
    link.close().await;
    debug!(newest, "probed the version of the proxy");
    newest.then_some(NEWEST_LIMIT)
}

/// Starts the link and resolves to true if its only attempt ends with `UNAUTHENTICATED`.
fn is_unauthenticated<C: transport::Connection>(
    link: &Link<Silent, C>,
) -> impl Future<Output = bool> + use<C> {
    let mut status = link.watch();
    // Only a closed link fails to start, and nobody else holds this one.
    link.start().ok();
    async move {
        let over = |status: &steadfast_session::Status| {
            // One attempt is configured, so its failure is the end.
            status.failed_attempts > 0 && status.state == State::Disconnected
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

/// The protocol of a stream without messages.
#[derive(Debug)]
struct Silent;

impl Protocol for Silent {
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
    fn halved_limit_is_not_raised_again() {
        let limit = MessageLimit::new(RELEASE_LIMIT);
        assert!(limit.raise(NEWEST_LIMIT));
        assert!(!limit.raise(NEWEST_LIMIT), "it is known already");
        assert_eq!(limit.halve(), NEWEST_LIMIT / 2);
        assert!(!limit.raise(NEWEST_LIMIT));
        assert_eq!(limit.bytes(), NEWEST_LIMIT / 2);
    }

    #[test]
    fn message_limit_is_clamped() {
        assert_eq!(MessageLimit::new(0).bytes(), 64 << 10);
        assert_eq!(MessageLimit::new(0).halve(), 64 << 10);
        assert_eq!(MessageLimit::new(usize::MAX).bytes(), NEWEST_LIMIT);
    }
}
