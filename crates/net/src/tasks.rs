//! The tasks of a server, and the signals that end them.

use std::{future::Future, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{future::FutureExt as _, sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// The tasks of one server and the two signals that end them.
///
/// ```text
///   running ── start_drain ──> draining ── cut ──> cut
/// ```
///
/// A draining server takes no new connection, and each task ends when its work is done. A cut server
/// drops every task at its next await. Clones share the tasks and the signals. Dropping a clone has no
/// effect: the owner of the server calls [`Tasks::cut`] in its own `Drop`.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    drain: CancellationToken,
    cut: CancellationToken,
}

/// Longest wait for tasks that were cut. They end at their next await, so only a task that blocks its
/// thread takes longer.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

impl Tasks {
    /// Returns a set without tasks, running.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that is dropped when the server is cut; its output is then `None`.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        // A combinator, not an async block: a block would reserve space for the task twice, and a
        // proxy runs five tasks for each of its agents.
        self.tracker
            .spawn(task.with_cancellation_token_owned(self.cut.clone()))
    }

    /// Resolves when the server drains or is cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Returns true once the server drains or is cut.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns the token that is cancelled when the server drains or is cut.
    ///
    /// Cancelling it starts the drain. Its `drop_guard` drains the server when a part ends that the server
    /// cannot do without.
    #[must_use]
    pub fn drain_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Tells every task that the server drains.
    pub fn start_drain(&self) {
        self.drain.cancel();
    }

    /// Ends every task now. Also the tasks spawned later end at their first await.
    pub fn cut(&self) {
        self.start_drain();
        self.cut.cancel();
    }

    /// Drains for at most `grace`, then cuts, and returns at most one second after that.
    pub async fn drain(&self, grace: Duration) {
        self.start_drain();
        // A tracker that is not closed never reports that it is empty.
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            let tasks = self.tracker.len();
            info!(tasks, "drain deadline passed; cutting what is still open");
        }
        // Also after all tasks have ended: one that is spawned from now on ends at once.
        self.cut();
        if timeout(CUT_TIMEOUT, self.tracker.wait()).await.is_err() {
            let tasks = self.tracker.len();
            warn!(tasks, "tasks still run after the server was cut");
        }
    }
}

/// hyper spawns the calls of an HTTP/2 connection through this.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_work_until_its_deadline_and_cuts_the_rest() {
        for (work, expected) in [(Some(2), 2), (None, 5)] {
            let tasks = Tasks::new();
            tasks.spawn(async move {
                match work {
                    Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                    None => pending().await,
                }
            });
            let started = Instant::now();
            tasks.drain(Duration::from_secs(5)).await;
            assert_eq!(started.elapsed().as_secs(), expected);
            assert!(tasks.tracker.is_empty());
        }
    }
}
