//! The handle of one subscription.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::{
    error::Ended,
    registry::{CommandSender, Registry, Slot},
};
use steadfast_streamer_core::{
    Position,
    client::{Command, Item, SubscriptionId},
};

/// A subscription: a stream of its items in order, across every reconnect.
///
/// It yields `None` after the client was closed. When the server ends the subscription, or the client
/// gives up, the queued items are yielded first, then one error, then `None`.
///
/// Dropping it unsubscribes, at once and for good, connected or not.
///
/// An application that takes items slowly holds back the server for this subscription only. A server
/// without the resume profile cannot be held back: when the client's limit is reached, the longest
/// queue loses its newest changes and yields a gap.
///
/// ```no_run
/// use steadfast_streamer::{Client, Filter, Item};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("127.0.0.1:9000").build()?;
/// let adults = Filter::from_text(["age >= 18"])?;
/// let mut users = client.subscribe("default", "users", adults).await?;
/// while let Some(item) = users.next().await.transpose()? {
///     if let Item::Change(change) = &item {
///         println!("{:?} {}", change.operation, change.document_id);
///     }
///     // Store the position together with the effect of the item, to resume after a restart.
///     println!("resume at {:?}", item.position());
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it unsubscribes"]
pub struct Subscription {
    id: SubscriptionId,
    slot: Arc<Slot>,
    registry: Arc<Registry>,
    commands: Arc<dyn CommandSender>,
}

impl Subscription {
    pub(super) fn new(
        id: SubscriptionId,
        slot: Arc<Slot>,
        registry: Arc<Registry>,
        commands: Arc<dyn CommandSender>,
    ) -> Self {
        Self {
            id,
            slot,
            registry,
            commands,
        }
    }

    /// Returns the next item, as the stream does, without an extension trait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no item.
    pub async fn next(&mut self) -> Option<Result<Item, Ended>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns the position to resume from once the items taken so far have had their effect.
    ///
    /// It moves with each item taken, and further when the server reports that nothing more belongs
    /// to the subscription. `None` with a server that has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.slot.position()
    }

    /// Returns the number of queued items.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.slot.queued()
    }

    /// Ends the subscription, as dropping it does.
    pub fn unsubscribe(self) {
        drop(self);
    }

    pub(super) fn id(&self) -> SubscriptionId {
        self.id
    }

    pub(super) fn send(&self, command: Command) {
        Arc::clone(&self.commands).send(command);
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Stream for Subscription {
    type Item = Result<Item, Ended>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (next, report) = self.slot.poll_next(cx);
        if let Some(through) = report {
            let id = self.id;
            Arc::clone(&self.commands).send(Command::Taken { id, through });
        }
        next
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // First, so that nothing more is queued for a handle that is gone.
        self.registry.remove(self.id);
        Arc::clone(&self.commands).send(Command::Unsubscribe { id: self.id });
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
