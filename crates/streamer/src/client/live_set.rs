//! The documents that match a filter, kept up to date.

use std::fmt;

use super::{Subscription, error::Ended};
use steadfast_streamer_core::{
    Position,
    client::{Change, LiveDocuments, LiveUpdate},
};

/// The documents of a collection that match a filter, and their changes as they happen.
///
/// What is shown is the state at one position, also after the connection was lost or positions were: a
/// new snapshot replaces it when it is whole, never before. Dropping the set unsubscribes.
///
/// ```no_run
/// use steadfast_streamer::{Client, filter::Filter};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let filter = Filter::from_text(["total > 5"])?;
/// let mut orders = client.subscribe("shop", "orders", filter).live_set().await?;
/// while let Some(update) = orders.next().await {
///     println!("{:?}: {} orders", update?, orders.documents().len());
/// }
/// # Ok(())
/// # }
/// ```
pub struct LiveSet {
    subscription: Subscription,
    documents: LiveDocuments,
}

impl LiveSet {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self {
            subscription,
            documents: LiveDocuments::default(),
        }
    }

    /// Waits for the next change of the set: first [`LiveUpdate::Replaced`], when it is whole. `None` after
    /// the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// Returns the reason once if the client stopped or a server refused the subscription.
    pub async fn next(&mut self) -> Option<Result<LiveUpdate, Ended>> {
        loop {
            match self.subscription.next().await? {
                Ok(item) => {
                    if let Some(update) = self.documents.apply(item) {
                        return Some(Ok(update));
                    }
                }
                Err(ended) => return Some(Err(ended)),
            }
        }
    }

    /// Returns the documents shown.
    #[must_use]
    pub fn documents(&self) -> &LiveDocuments {
        &self.documents
    }

    /// Returns a document by its id, as its newest change.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Change> {
        self.documents.get(id)
    }

    /// Returns the position of the state shown, or a later one up to which nothing changes; `None` while a
    /// snapshot is in progress.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.subscription.position()
    }
}

impl fmt::Debug for LiveSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSet")
            .field("documents", &self.documents.len())
            .field("is_whole", &self.documents.is_whole())
            .finish_non_exhaustive()
    }
}
