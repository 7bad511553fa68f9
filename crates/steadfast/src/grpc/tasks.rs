//! The tasks of one connection: cancelled together, joined together.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::lifeline;

/// An executor whose tasks all end when it is cancelled, and each with the stream it serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// Runs the task that all others of the connection serve.
    pub(super) fn run(&self, connection: impl Future + Send + 'static) {
        self.spawn(self.cancel.clone(), connection);
    }

    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Resolves when the tasks are cancelled, or have ended, and none is left.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.tracker.close();
        let tracker = self.tracker.clone();
        async move { tracker.wait().await }
    }

    fn spawn(&self, end: CancellationToken, task: impl Future + Send + 'static) {
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
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
        let end = self.cancel.child_token();
        self.spawn(end.clone(), lifeline::scoped(end, task));
    }
}
