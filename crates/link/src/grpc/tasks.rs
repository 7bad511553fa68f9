//! The tasks of one connection: cancelled together, joined together.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An executor whose tasks all end when it is cancelled.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Resolves when the tasks are cancelled, or have ended, and none is left.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.tracker.close();
        let tracker = self.tracker.clone();
        async move { tracker.wait().await }
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                _ = task => {}
            }
        });
    }
}
