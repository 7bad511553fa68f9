//! Sources beside the metrics: crashes and profiles of the process that the agent watches.

pub(crate) mod crash;
pub(crate) mod folder;
pub(crate) mod pressure;

use tokio::task::spawn_blocking;
use tracing::warn;

use crate::uplink::source::{NotSent, Responses, SourceKind};

/// Sends the messages of a response. Creating them, and each `next`, may block. No further message is
/// created before the proxy has taken the previous ones.
async fn send_all<K: SourceKind, I>(
    create: impl FnOnce() -> I + Send + 'static,
    responses: Responses<K>,
) where
    I: Iterator<Item = K::Response> + Send + 'static,
{
    let mut create = Some(create);
    let mut messages = None;
    loop {
        let (first, rest) = (create.take(), messages.take());
        let next = spawn_blocking(move || {
            let mut messages = rest.or_else(|| first.map(|create| create()))?;
            Some((messages.next()?, messages))
        });
        // A panic there has been reported; the response ends.
        let Ok(Some((message, rest))) = next.await else {
            return;
        };
        messages = Some(rest);
        match responses.send(&message).await {
            Ok(()) => {}
            // The others may fit.
            Err(error @ NotSent::TooLong { .. }) => warn!(stream = K::NAME, %error, "not sent"),
            Err(NotSent::StreamGone) => return,
        }
    }
}
