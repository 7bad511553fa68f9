//! The bytes of messages that were begun and are not finished.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{Refusal, Refusals};

/// Limits on messages that peers have begun and not finished. Their bytes are held until the rest
/// arrives, so that without a limit a peer decides how much memory is held, and for how long. A
/// connection may have at most [`Self::CONNECTION_MESSAGES`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfinishedLimits {
    /// Bytes on one connection.
    pub connection_bytes: usize,
    /// Bytes on all connections of a listener.
    pub all_bytes: usize,
    /// Longest time from the first byte of a message to its last.
    pub timeout: Duration,
}

/// The unfinished messages of all connections of a listener.
#[derive(Debug)]
pub(crate) struct UnfinishedMessages {
    limits: UnfinishedLimits,
    refusals: Refusals,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    next_id: u64,
    /// A connection without unfinished messages has no entry.
    connections: HashMap<u64, Connection>,
    /// The connections that hold bytes, by their number: a cut must not look at all of them.
    by_bytes: BTreeSet<(usize, u64)>,
    /// The messages that cuts have looked at.
    #[cfg(test)]
    visited: usize,
}

#[derive(Debug, Default)]
struct Connection {
    bytes: usize,
    /// The number of messages that are not cut.
    uncut: usize,
    messages: HashMap<u64, Message>,
}

#[derive(Debug, Default)]
struct Message {
    /// Zero once cut: the bytes are about to be freed and must not cause another cut.
    bytes: usize,
    cut: Option<Refusal>,
    waker: Option<Waker>,
}

/// One unfinished message. Dropping it returns its bytes.
#[derive(Debug)]
pub(crate) struct UnfinishedMessage {
    among: Arc<UnfinishedMessages>,
    connection: u64,
    id: u64,
}

impl UnfinishedLimits {
    /// The number of messages that a connection may have begun and not finished.
    pub const CONNECTION_MESSAGES: usize = 1_024;
}

impl Default for UnfinishedLimits {
    fn default() -> Self {
        Self {
            connection_bytes: 32 << 20,
            all_bytes: 256 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

impl UnfinishedMessages {
    pub(crate) fn new(limits: UnfinishedLimits, refusals: Refusals) -> Arc<Self> {
        Arc::new(Self {
            limits,
            refusals,
            state: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> &UnfinishedLimits {
        &self.limits
    }

    /// Begins a message on a connection.
    pub(crate) fn begin(self: &Arc<Self>, connection: u64) -> UnfinishedMessage {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let entry = state.connections.entry(connection).or_default();
        entry.uncut += 1;
        entry.messages.insert(id, Message::default());
        drop(state);
        UnfinishedMessage {
            among: Arc::clone(self),
            connection,
            id,
        }
    }

    /// Returns the bytes of all unfinished messages.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnfinishedMessage {
    /// Sets the bytes that have arrived. Beyond a limit the largest message is cut: of this
    /// connection, or of the connection that holds most.
    pub(crate) fn set_bytes(&self, bytes: usize) {
        let mut guard = self.among.state();
        let state = &mut *guard;
        if !state.resize(self.connection, self.id, bytes) {
            return;
        }
        let UnfinishedLimits {
            connection_bytes,
            all_bytes,
            ..
        } = self.among.limits;
        let mut woken = Vec::new();
        while state.connections[&self.connection].exceeds(connection_bytes) {
            woken.extend(state.cut_largest(self.connection, Refusal::ConnectionUnfinished));
            self.among.refusals.count(Refusal::ConnectionUnfinished);
        }
        while state.bytes > all_bytes {
            let Some(&(_, connection)) = state.by_bytes.last() else {
                break;
            };
            woken.extend(state.cut_largest(connection, Refusal::AllUnfinished));
            self.among.refusals.count(Refusal::AllUnfinished);
        }
        drop(guard);
        // Outside the lock, which a task that is woken takes.
        woken.into_iter().for_each(Waker::wake);
    }

    /// Resolves when the message is cut.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let mut state = self.among.state();
        let message = state.connection(self.connection).message(self.id);
        match (message.cut, &mut message.waker) {
            (Some(refusal), _) => return Poll::Ready(refusal),
            (None, Some(waker)) => waker.clone_from(cx.waker()),
            (None, none @ None) => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Counts the end of the message by its deadline.
    pub(crate) fn time_out(&self) {
        self.among.refusals.count(Refusal::SlowMessage);
    }
}

impl Drop for UnfinishedMessage {
    fn drop(&mut self) {
        let mut state = self.among.state();
        let was_uncut = state.resize(self.connection, self.id, 0);
        let connection = state.connection(self.connection);
        connection.uncut -= usize::from(was_uncut);
        connection.messages.remove(&self.id);
        if connection.messages.is_empty() {
            state.connections.remove(&self.connection);
        }
    }
}

impl Connection {
    fn exceeds(&self, bytes: usize) -> bool {
        self.bytes > bytes || self.uncut > UnfinishedLimits::CONNECTION_MESSAGES
    }

    fn message(&mut self, id: u64) -> &mut Message {
        let message = self.messages.get_mut(&id);
        message.expect("a message is removed when it is dropped")
    }
}

impl State {
    /// Returns the entry of a connection that has messages.
    fn connection(&mut self, connection: u64) -> &mut Connection {
        let entry = self.connections.get_mut(&connection);
        entry.expect("a connection is removed with its last message")
    }

    /// Sets the bytes of a message. Returns false if it has been cut.
    fn resize(&mut self, connection: u64, id: u64, bytes: usize) -> bool {
        let entry = self.connection(connection);
        let message = entry.message(id);
        if message.cut.is_some() {
            return false;
        }
        let before = std::mem::replace(&mut message.bytes, bytes);
        let of_connection = entry.bytes;
        entry.bytes = of_connection - before + bytes;
        let now = entry.bytes;
        self.bytes = self.bytes - before + bytes;
        self.by_bytes.remove(&(of_connection, connection));
        if now > 0 {
            self.by_bytes.insert((now, connection));
        }
        true
    }

    /// Cuts the largest message of a connection that has one.
    fn cut_largest(&mut self, connection: u64, refusal: Refusal) -> Option<Waker> {
        #[cfg(test)]
        {
            self.visited += self.connection(connection).messages.len();
        }
        let messages = self.connection(connection).messages.iter();
        let (&id, _) = messages
            .filter(|(_, message)| message.cut.is_none())
            .max_by_key(|(_, message)| message.bytes)
            .expect("only messages that are not cut exceed a limit");
        self.resize(connection, id, 0);
        let entry = self.connection(connection);
        entry.uncut -= 1;
        let message = entry.message(id);
        message.cut = Some(refusal);
        message.waker.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(message: &UnfinishedMessage) -> Option<Refusal> {
        match message.poll_cut(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(refusal) => Some(refusal),
            Poll::Pending => None,
        }
    }

    #[test]
    fn largest_message_of_the_connection_that_holds_most_is_cut() {
        let refusals = Refusals::default();
        let limits = UnfinishedLimits {
            connection_bytes: 100,
            all_bytes: 150,
            timeout: Duration::from_secs(1),
        };
        let all = UnfinishedMessages::new(limits, refusals.clone());
        // The connection of each message, its bytes, and the message that is cut then.
        let steps = [
            (1, 40, None),
            (1, 60, None),
            // 101 bytes on connection 1.
            (1, 1, Some((1, Refusal::ConnectionUnfinished))),
            (2, 90, None),
            // 151 bytes on all.
            (3, 20, Some((3, Refusal::AllUnfinished))),
        ];
        let mut messages = Vec::new();
        for (connection, bytes, expected) in steps {
            let message = all.begin(connection);
            message.set_bytes(bytes);
            messages.push(message);
            if let Some((index, refusal)) = expected {
                assert_eq!(cut(&messages[index]), Some(refusal));
            }
        }
        let alive = messages.iter().filter(|message| cut(message).is_none());
        assert_eq!(alive.count(), 3);
        assert_eq!(all.bytes(), 40 + 1 + 20);
        messages.clear();
        assert_eq!(all.bytes(), 0);
        let state = all.state();
        assert!(state.by_bytes.is_empty() && state.connections.is_empty());
        assert_eq!(refusals.of(Refusal::AllUnfinished), 1);
        assert_eq!(refusals.of(Refusal::ConnectionUnfinished), 1);
    }

    #[test]
    fn messages_of_a_connection_are_bounded_in_number() {
        let refusals = Refusals::default();
        let all = UnfinishedMessages::new(UnfinishedLimits::default(), refusals.clone());
        let mut messages = Vec::new();
        for number in 0..UnfinishedLimits::CONNECTION_MESSAGES + 10 {
            let message = all.begin(1);
            // The first ones are the largest.
            message.set_bytes(10_000 - number);
            messages.push(message);
        }
        let of_another = all.begin(2);
        of_another.set_bytes(1);
        let cuts: Vec<_> = messages.iter().map(cut).collect();
        assert!(cuts[..10].iter().all(Option::is_some));
        assert!(cuts[10..].iter().all(Option::is_none));
        assert_eq!(refusals.of(Refusal::ConnectionUnfinished), 10);
        assert_eq!(cut(&of_another), None);
    }

    #[test]
    fn cut_visits_the_messages_of_one_connection() {
        for others in [10, 10_000] {
            let limits = UnfinishedLimits {
                connection_bytes: 100,
                ..UnfinishedLimits::default()
            };
            let all = UnfinishedMessages::new(limits, Refusals::default());
            let hold = |connection: u64, bytes| {
                let message = all.begin(connection);
                message.set_bytes(bytes);
                message
            };
            let _held: Vec<_> = (1..=others).map(|other| hold(other, 1)).collect();
            for _ in 0..500 {
                assert!(cut(&hold(0, 101)).is_some());
            }
            assert_eq!(all.state().visited, 500, "{others} other messages");
        }
    }

    #[test]
    fn task_whose_message_is_cut_by_another_is_woken() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let limits = UnfinishedLimits {
            connection_bytes: 100,
            ..UnfinishedLimits::default()
        };
        let all = UnfinishedMessages::new(limits, Refusals::default());
        let (large, small) = (all.begin(1), all.begin(1));
        large.set_bytes(90);
        let flag = Arc::new(Flag(false.into()));
        let waker = Waker::from(Arc::clone(&flag));
        assert!(
            large
                .poll_cut(&mut Context::from_waker(&waker))
                .is_pending()
        );
        small.set_bytes(11);
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        assert_eq!(cut(&large), Some(Refusal::ConnectionUnfinished));
        // What arrives for a message that was cut no longer counts.
        large.set_bytes(1_000);
        assert_eq!(all.bytes(), 11);
    }
}
