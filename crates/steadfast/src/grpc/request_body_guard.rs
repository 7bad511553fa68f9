//! Ends the sending half of a stream when its receiving half is dropped.
//!
//! hyper sends the body of a request from a task of its own, which outlives the response. If the
//! peer does not read, that task waits with its queue until the connection ends. A connection that is
//! killed with its stream hides this; on a shared connection every abandoned stream would remain.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Cancels the task that is being polled.
    static TASK: CancellationToken;
}

/// The guard of a request's body, owned by the receiving half. Dropping it ends the sending half.
#[derive(Debug, Default)]
pub(super) struct RequestBodyGuard(BodyCancellation);

/// The sending half's view of its [`RequestBodyGuard`].
#[derive(Clone, Debug, Default)]
pub(super) struct BodyCancellation(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    /// The task that sends the body, once it has polled it.
    task: Option<CancellationToken>,
}

/// Runs `task` so that `cancel` is the token of every body polled in it.
pub(super) fn scope<F: Future>(
    cancel: CancellationToken,
    task: F,
) -> impl Future<Output = F::Output> {
    TASK.scope(cancel, task)
}

impl RequestBodyGuard {
    pub(super) fn cancellation(&self) -> BodyCancellation {
        self.0.clone()
    }
}

impl Drop for RequestBodyGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.cancelled = true;
        if let Some(task) = state.task.take() {
            task.cancel();
        }
    }
}

impl BodyCancellation {
    /// Returns true once the guard was dropped. The calling task, if it was started by [`scope`], is
    /// remembered as the one to cancel.
    pub(super) fn is_cancelled(&self) -> bool {
        let mut state = self.state();
        // The connection's own task polls each body first. It is not in a scope and is not
        // remembered, because it serves all streams.
        if state.task.is_none() {
            state.task = TASK.try_with(CancellationToken::clone).ok();
        }
        state.cancelled
    }

    // A poisoned lock is harmless: no change of the state is visible in part.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_guard_cancels_the_task_that_polled_the_body() {
        let guard = RequestBodyGuard::default();
        let cancellation = guard.cancellation();
        let task = CancellationToken::new();
        assert!(!scope(task.clone(), async { cancellation.is_cancelled() }).await);
        drop(guard);
        assert!(task.is_cancelled());
    }

    #[tokio::test]
    async fn task_that_polls_after_the_drop_sees_it_and_is_not_cancelled() {
        let guard = RequestBodyGuard::default();
        let cancellation = guard.cancellation();
        assert!(!cancellation.is_cancelled(), "polled outside of a scope");
        drop(guard);
        let task = CancellationToken::new();
        assert!(scope(task.clone(), async { cancellation.is_cancelled() }).await);
        assert!(!task.is_cancelled());
    }
}
