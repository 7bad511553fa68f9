//! The start of a load: clients with planned subscriptions, then publishers of seeded documents.

use std::{num::NonZeroU32, ops::Range, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::time::timeout;

use super::{
    author::Author, counters::Counters, judge::Deliveries, publishers::Publishers,
    subscribers::Subscribers,
};
use crate::clients::{Dial, Publisher, Subscriber};

/// Longest wait for the acknowledgement of all subscriptions.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Subscribes with one client for each plan, and returns when the server has acknowledged everything.
pub(crate) async fn subscribers(
    counters: &Arc<Counters>,
    dial: &Dial,
    plans: Vec<Vec<Deliveries>>,
) -> anyhow::Result<Subscribers> {
    let mut subscribers = Subscribers::new(counters);
    let starting = async {
        for wanted in plans {
            let client = Subscriber::open(dial, counters.observer())?;
            subscribers.start(client, wanted, |_| Ok(())).await?;
        }
        anyhow::Ok(())
    };
    timeout(START_TIMEOUT, starting)
        .await
        .context("the server did not acknowledge the subscriptions in time")??;
    Ok(subscribers)
}

/// Starts publishers that write `rate` entries a second together. `numbers` stand in the names of the
/// producers, behind `name`, and in the ids of the entries.
///
/// Subscriptions come first: the judge expects every entry, but a subscription begins when it is
/// acknowledged.
pub(crate) fn publishers(
    counters: &Arc<Counters>,
    dial: &Dial,
    (name, numbers): (&str, Range<u32>),
    seed: u64,
    rate: NonZeroU32,
) -> anyhow::Result<Publishers> {
    let mut publishers = Publishers::new(counters);
    let share = rate.get() / (numbers.len() as u32).max(1);
    let share = NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN);
    for number in numbers {
        let publisher = Publisher::open(dial, &format!("{name}-{number}"), 1, counters.observer())?;
        publishers.start(publisher, Author::new(seed, number), share);
    }
    Ok(publishers)
}
