//! The handle of one subscription.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::registry::{Ask, Registry, Slot};
use steadfast::session::End;
use steadfast_streamer_core::{
    Position,
    client::{Command, Item, Refusal, SubscriptionId},
};

/// A subscription: its items in order, across every reconnect.
///
/// Yields `None` after it was unsubscribed from or the client was closed. When the server ends it,
/// or the client gives up, what is queued is yielded first, then one error, then `None`.
///
/// Dropping it unsubscribes, at once and for good, connected or not. Items that nobody takes hold
/// back the server (with a plain peer: are dropped, which a gap tells), never another subscription.
#[must_use = "dropping it unsubscribes"]
pub struct Subscription {
    id: SubscriptionId,
    slot: Arc<Slot>,
    registry: Arc<Registry>,
    link: Arc<dyn Ask>,
}

/// Why a subscription ended other than by its owner's wish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The server refused it.
    #[error(transparent)]
    Refused(Refusal),
    /// The client gave up: the server fenced it, or too many attempts failed.
    #[error("the client stopped: {0}")]
    Stopped(End),
}

impl Subscription {
    pub(super) fn new(
        id: SubscriptionId,
        slot: Arc<Slot>,
        registry: Arc<Registry>,
        link: Arc<dyn Ask>,
    ) -> Self {
        Self {
            id,
            slot,
            registry,
            link,
        }
    }

    /// The next item; as the stream, without needing an extension trait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: an item is taken only when it is returned.
    pub async fn next(&mut self) -> Option<Result<Item, Ended>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The place to continue from once everything taken so far has had its effect. It moves with
    /// what is taken, and past it when the server says that nothing more belonged to the
    /// subscription. `None` with a peer that has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.slot.position()
    }

    /// How many items wait to be taken.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.slot.queued()
    }

    /// Ends the subscription, at once and for good, connected or not. The same as dropping it.
    pub fn unsubscribe(self) {
        drop(self);
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Stream for Subscription {
    type Item = Result<Item, Ended>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.slot.poll_next(cx);
        if let Some(through) = self.slot.take_report() {
            let id = self.id;
            Arc::clone(&self.link).ask(Command::Taken { id, through });
        }
        next
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.registry.remove(self.id);
        Arc::clone(&self.link).ask(Command::Unsubscribe { id: self.id });
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.id)
            .field("queued", &self.queued())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
