//! Ends the sending half of a stream whose receiving half is gone.
//!
//! hyper sends a request's body from a task of its own, and that task outlives whoever dropped the
//! response: with a peer that does not read it waits, its queue in its hands, for as long as the
//! connection lives. On a connection that is killed with its stream nobody notices; on a borrowed
//! one every abandoned stream would stay.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Ends the task that is being polled.
    static TASK: CancellationToken;
}

/// Kept with the receiving half: dropping it ends the sending half.
#[derive(Debug, Default)]
pub(super) struct Lifeline(Sending);

/// Kept with the sending half.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cut: bool,
    /// The task that sends, once it has been seen at work.
    task: Option<CancellationToken>,
}

/// Runs a task that serves one stream and can be ended with it.
pub(super) fn scoped<F: Future>(
    end: CancellationToken,
    task: F,
) -> impl Future<Output = F::Output> {
    TASK.scope(end, task)
}

impl Lifeline {
    pub(super) fn sending(&self) -> Sending {
        self.0.clone()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.cut = true;
        if let Some(task) = state.task.take() {
            task.cancel();
        }
    }
}

impl Sending {
    /// Whether nothing is to be sent any more. Asked by the task that sends, which is thereby known;
    /// the connection's own task, which polls each body first, is not one of those.
    pub(super) fn is_cut(&self) -> bool {
        let mut state = self.state();
        if state.task.is_none() {
            state.task = TASK.try_with(CancellationToken::clone).ok();
        }
        state.cut
    }

    /// Each change is whole when it is visible, so a poisoned lock does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_receiving_half_ends_the_task_that_was_seen_to_send() {
        let lifeline = Lifeline::default();
        let sending = lifeline.sending();
        let end = CancellationToken::new();
        assert!(!scoped(end.clone(), async { sending.is_cut() }).await);
        drop(lifeline);
        assert!(end.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_begins_to_send_too_late_is_told_and_no_other_is_ended() {
        let lifeline = Lifeline::default();
        let sending = lifeline.sending();
        assert!(!sending.is_cut(), "asked by no task of its own");
        drop(lifeline);
        let end = CancellationToken::new();
        assert!(scoped(end.clone(), async { sending.is_cut() }).await);
        assert!(!end.is_cancelled());
    }
}
