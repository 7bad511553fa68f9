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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use steadfast_session::{Cause, Generation, State, Time};

    use super::*;

    fn transition(number: u64) -> Transition {
        Transition {
            number,
            at: Time::ZERO,
            from: State::Connecting,
            to: State::Connected,
            cause: Cause::Live,
            generation: Generation(number),
        }
    }

    /// An observer that gets a turn only when the test yields.
    fn observed() -> (Notices, Arc<Mutex<Vec<Notice>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = Arc::clone(&seen);
        let notices = Notices::to(move |notice| seeing.lock().unwrap().push(notice));
        (notices, seen)
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn i12_a_slow_observer_is_told_how_much_it_missed_before_it_is_told_more() {
        let (mut notices, seen) = observed();
        for number in 0..1_100 {
            notices.tell(transition(number));
        }
        settle().await;
        notices.tell(transition(1_100));
        notices.tell(transition(1_101));
        settle().await;
        let seen = seen.lock().unwrap();
        let (queued, later) = seen.split_at(QUEUE);
        for (number, notice) in (0..).zip(queued) {
            assert_eq!(*notice, Notice::Changed(transition(number)));
        }
        let told = [
            Notice::Missed(1_100 - 1_024),
            Notice::Changed(transition(1_100)),
            Notice::Changed(transition(1_101)),
        ];
        assert_eq!(later, told);
    }

    #[tokio::test]
    async fn what_was_missed_last_is_told_when_the_link_ends() {
        let (mut notices, seen) = observed();
        for number in 0..1_030 {
            notices.tell(transition(number));
        }
        settle().await;
        drop(notices);
        settle().await;
        let seen = seen.lock().unwrap();
        assert_eq!((seen.len(), seen.last()), (1_025, Some(&Notice::Missed(6))));
    }
}
