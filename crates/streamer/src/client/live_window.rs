//! The first documents of an order, kept up to date.

use std::{collections::VecDeque, fmt};

use super::{Subscription, error::Ended};
use steadfast_streamer_core::{
    Position,
    client::{WindowDocuments, WindowUpdate},
};

/// The first documents that match a filter in the order of a field, and their changes as they happen.
///
/// What is shown is the state at one position, also after the connection was lost or positions were.
/// Some documents beyond those shown are kept, to take the places of those that leave. When they are used
/// up, the server reads the collection again; until then, what is shown stays as it is. Dropping the
/// window unsubscribes.
///
/// ```no_run
/// use steadfast_streamer::{Client, Direction, filter::Filter};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let filter = Filter::from_text(["state == open"])?;
/// let orders = client.subscribe("shop", "orders", filter);
/// let mut largest = orders.order_by("total", Direction::Descending).limit(10).await?;
/// while let Some(update) = largest.next().await {
///     println!("{:?}: {} orders", update?, largest.documents().len());
/// }
/// # Ok(())
/// # }
/// ```
pub struct LiveWindow {
    subscription: Subscription,
    documents: WindowDocuments,
    /// The effects of the last item that were not returned yet.
    updates: VecDeque<WindowUpdate>,
}

impl LiveWindow {
    pub(super) fn new(subscription: Subscription, documents: WindowDocuments) -> Self {
        Self {
            subscription,
            documents,
            updates: VecDeque::new(),
        }
    }

    /// Waits for the next change of what is shown: first what exists, as entered, then
    /// [`WindowUpdate::Whole`]. `None` after the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// Returns the reason once if the client stopped or a server refused the subscription.
    pub async fn next(&mut self) -> Option<Result<WindowUpdate, Ended>> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Some(Ok(update));
            }
            match self.subscription.next().await? {
                Ok(item) => {
                    self.updates.extend(self.documents.apply(item));
                    if let Some(command) = self.documents.take_command(self.subscription.id()) {
                        self.subscription.send(command);
                    }
                }
                Err(ended) => return Some(Err(ended)),
            }
        }
    }

    /// Returns the documents shown, with all effects of the last item.
    #[must_use]
    pub fn documents(&self) -> &WindowDocuments {
        &self.documents
    }

    /// Returns the position of the state shown, or a later one up to which nothing changes; `None` while a
    /// snapshot is needed or in progress.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let position = self.subscription.position();
        position.filter(|_| self.documents.is_whole())
    }
}

impl fmt::Debug for LiveWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveWindow")
            .field("documents", &self.documents.len())
            .field("is_whole", &self.documents.is_whole())
            .finish_non_exhaustive()
    }
}
