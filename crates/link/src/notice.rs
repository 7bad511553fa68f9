//! Tells an observer of every transition, without ever waiting for it.

use steadfast_session::Transition;
use tokio::sync::mpsc;

/// What a callback is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The state changed.
    Changed(Transition),
    /// The callback was too slow for this many transitions; the status tells where things stand,
    /// and its recent transitions most of what was missed.
    Missed(u64),
}

/// Notices that wait for the callback.
const QUEUE: usize = 1_024;

/// The sending end: never blocks, counts what it could not queue.
#[derive(Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
    missed: u64,
}

impl Notices {
    /// Runs the callback on a task of its own, so that it may call back into the handle. The task
    /// ends with the driver, after what is queued.
    pub(crate) fn to(mut callback: impl FnMut(Notice) + Send + 'static) -> Self {
        let (queue, mut notices) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                callback(notice);
            }
        });
        Self { queue, missed: 0 }
    }

    pub(crate) fn tell(&mut self, transition: Transition) {
        if self.missed > 0 && self.queue.try_send(Notice::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.missed > 0 || self.queue.try_send(Notice::Changed(transition)).is_err() {
            self.missed += 1;
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        if self.missed > 0 {
            self.queue.try_send(Notice::Missed(self.missed)).ok();
        }
    }
}
