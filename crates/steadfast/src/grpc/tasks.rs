//! The tasks of one connection: cancelled together, joined together.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::request_body_guard;

/// An executor for hyper. Cancelling it ends all of its tasks; dropping the receiving half of a
/// stream ends that stream's task.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// Spawns the task of the connection itself.
    pub(super) fn spawn_connection(&self, connection: impl Future + Send + 'static) {
        self.spawn(self.cancel.clone(), connection);
    }

    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Resolves when no task is left.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        // `wait` resolves only for a tracker that is closed. A closed one still accepts tasks.
        self.tracker.close();
        let tracker = self.tracker.clone();
        async move { tracker.wait().await }
    }

    fn spawn(&self, cancel: CancellationToken, task: impl Future + Send + 'static) {
        self.tracker.spawn(async move {
            tokio::select! {
                // A cancelled task must not be polled once more: it would write to a socket that is
                // to be reset.
                biased;
                () = cancel.cancelled() => {}
                _ = task => {}
            }
        });
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        // A child per task: the end of one stream cancels its task alone.
        let cancel = self.cancel.child_token();
        self.spawn(cancel.clone(), request_body_guard::scope(cancel, task));
    }
}
