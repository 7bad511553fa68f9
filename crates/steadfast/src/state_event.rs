//! Calls an observer for every state transition, without waiting for it.

use std::fmt;

use steadfast_session::Transition;
use tokio::sync::mpsc;

/// An event for the callback of [`crate::LinkOptions::on_state_change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateEvent {
    /// A state transition.
    Changed(Transition),
    /// The number of transitions that were dropped because the callback was too slow.
    ///
    /// [`crate::Link::status`] has the current state and the most recent transitions.
    Missed(u64),
}

/// One plain line.
impl fmt::Display for StateEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(transition) => transition.fmt(f),
            Self::Missed(number) => write!(f, "missed {number} transitions"),
        }
    }
}

/// The capacity of the queue to the callback. A link makes at most a few transitions per second, so
/// only a callback that blocks for minutes misses any.
const QUEUE: usize = 1_024;

/// The sender to the callback's task. Never blocks; counts what it could not queue.
#[derive(Debug)]
pub(crate) struct StateEvents {
    queue: mpsc::Sender<StateEvent>,
    missed: u64,
}

impl StateEvents {
    /// Runs `callback` on its own task, so that it may call back into the link. The task ends after
    /// the last queued event once the driver is dropped.
    pub(crate) fn spawn(mut callback: impl FnMut(StateEvent) + Send + 'static) -> Self {
        let (queue, mut events) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                callback(event);
            }
        });
        Self { queue, missed: 0 }
    }

    pub(crate) fn send(&mut self, transition: Transition) {
        // Order: the callback learns of a hole before it sees the transition after the hole.
        if self.missed > 0 && self.queue.try_send(StateEvent::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.missed > 0
            || self
                .queue
                .try_send(StateEvent::Changed(transition))
                .is_err()
        {
            self.missed += 1;
        }
    }
}

impl Drop for StateEvents {
    fn drop(&mut self) {
        if self.missed > 0 {
            self.queue.try_send(StateEvent::Missed(self.missed)).ok();
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

    /// An observer that runs only when the test yields.
    fn observed() -> (StateEvents, Arc<Mutex<Vec<StateEvent>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&seen);
        let events = StateEvents::spawn(move |event| writer.lock().unwrap().push(event));
        (events, seen)
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn slow_observer_gets_missed_count_before_next_transition() {
        let (mut events, seen) = observed();
        for number in 0..1_100 {
            events.send(transition(number));
        }
        settle().await;
        events.send(transition(1_100));
        events.send(transition(1_101));
        settle().await;
        let seen = seen.lock().unwrap();
        let (queued, later) = seen.split_at(QUEUE);
        for (number, event) in (0..).zip(queued) {
            assert_eq!(*event, StateEvent::Changed(transition(number)));
        }
        let expected = [
            StateEvent::Missed(1_100 - 1_024),
            StateEvent::Changed(transition(1_100)),
            StateEvent::Changed(transition(1_101)),
        ];
        assert_eq!(later, expected);
        assert_eq!(later[0].to_string(), "missed 76 transitions");
        assert_eq!(later[1].to_string(), transition(1_100).to_string());
    }

    #[tokio::test]
    async fn final_missed_count_is_sent_when_link_ends() {
        let (mut events, seen) = observed();
        for number in 0..1_030 {
            events.send(transition(number));
        }
        settle().await;
        drop(events);
        settle().await;
        let seen = seen.lock().unwrap();
        let last = (seen.len(), seen.last());
        assert_eq!(last, (1_025, Some(&StateEvent::Missed(6))));
    }
}
