//! The queue in front of the writer thread. Unbounded, because the writer's capacity limits what is in it.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{QueuePermit, WriteError};
use crate::log::{Outcome, Submission};

/// A command in the queue.
#[derive(Debug)]
pub(super) enum Command {
    Append(AppendRequest),
    /// The producer is connected.
    Touch(Arc<str>),
    /// End the thread. Always the last command that is handled.
    Stop,
}

/// The entries of one submitter.
#[derive(Debug)]
pub(super) struct AppendRequest {
    pub(super) batch: Vec<Submission>,
    /// The length of `batch`, which is emptied for the commit.
    pub(super) entries: usize,
    /// The weight of `batch`.
    pub(super) bytes: usize,
    pub(super) outcomes: oneshot::Sender<Result<Vec<Outcome>, WriteError>>,
    pub(super) _permit: QueuePermit,
}

/// The sending half. When the last clone is dropped, the queue is closed.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<SendingEnd>);

/// The receiving half, of which there is one.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Queue>);

/// The receiver has been dropped.
#[derive(Debug)]
pub(super) struct Closed;

/// What the receiver got.
#[derive(Debug)]
pub(super) enum Received {
    Command(Command),
    /// No command came in time.
    Timeout,
    /// There is no command, and there will be none.
    Closed,
}

#[derive(Debug)]
struct SendingEnd(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Notified when the receiver has what it waits for.
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    /// The length of the queue that the receiver waits for; 0 if it does not wait.
    wanted: usize,
    /// Sender or receiver has been dropped, or a command ends the thread.
    closed: bool,
}

impl AppendRequest {
    /// Sends the outcomes, or the reason why there are none.
    pub(super) fn respond(self, result: Result<Vec<Outcome>, WriteError>) {
        // The submitter may have stopped waiting; the commit stands all the same.
        drop(self.outcomes.send(result));
    }
}

/// Creates an empty queue.
pub(super) fn queue() -> (Sender, Receiver) {
    let queue = Arc::new(Queue::default());
    let end = SendingEnd(Arc::clone(&queue));
    (Sender(Arc::new(end)), Receiver(queue))
}

impl Sender {
    pub(super) fn send(&self, command: Command) -> Result<(), Closed> {
        let queue = &self.0.0;
        let mut state = queue.state();
        if state.closed {
            return Err(Closed);
        }
        state.closed = matches!(command, Command::Stop);
        state.commands.push_back(command);
        // Once for all commands that the receiver waits for: to wake a thread costs more than to queue
        // a command.
        if state.is_ready() {
            queue.ready.notify_one();
        }
        Ok(())
    }
}

impl Receiver {
    /// Waits for a command.
    pub(super) fn receive(&self, timeout: Duration) -> Received {
        let mut state = self.wait(1, timeout);
        match state.commands.pop_front() {
            Some(command) => Received::Command(command),
            None if state.closed => Received::Closed,
            None => Received::Timeout,
        }
    }

    /// Returns the number of commands.
    pub(super) fn len(&self) -> usize {
        self.0.state().commands.len()
    }

    /// Waits until there are this many commands, or no more can come.
    pub(super) fn wait_for(&self, commands: usize, timeout: Duration) {
        drop(self.wait(commands, timeout));
    }

    fn wait(&self, commands: usize, timeout: Duration) -> MutexGuard<'_, State> {
        let mut state = self.0.state();
        state.wanted = commands;
        // Without a look at the clock if there is nothing to wait for.
        if !state.is_ready() && !timeout.is_zero() {
            let is_short = |state: &mut State| !state.is_ready();
            let waited = self.0.ready.wait_timeout_while(state, timeout, is_short);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted = 0;
        state
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // No step can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.wanted > 0 && (self.closed || self.commands.len() >= self.wanted)
    }
}

impl Drop for SendingEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.close();
        // Their submitters learn that nobody will handle them.
        let left = std::mem::take(&mut self.0.state().commands);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn touch() -> Command {
        Command::Touch("p".into())
    }

    #[test]
    fn receiver_waits_for_commands_the_end_or_the_timeout() {
        // What ends the wait for three commands, and what is received then.
        for (sent, end, timeout, received) in [
            (3, None, LONG, 3),
            (5, None, LONG, 5),
            (1, Some(Command::Stop), LONG, 2),
            (2, None, Duration::from_millis(1), 2),
            (0, None, Duration::ZERO, 0),
        ] {
            let (sender, receiver) = queue();
            let waiting = std::thread::spawn(move || {
                receiver.wait_for(3, timeout);
                receiver
            });
            for command in (0..sent).map(|_| touch()).chain(end) {
                sender.send(command).unwrap();
            }
            let receiver = waiting.join().unwrap();
            for _ in 0..received {
                let next = receiver.receive(Duration::ZERO);
                assert!(matches!(next, Received::Command(_)), "{next:?}");
            }
            let next = receiver.receive(Duration::ZERO);
            assert!(!matches!(next, Received::Command(_)), "{next:?}");
            drop(sender);
            let end = receiver.receive(LONG);
            assert!(matches!(end, Received::Closed), "{end:?}");
        }
    }

    #[test]
    fn commands_after_the_end_are_rejected() {
        let (sender, receiver) = queue();
        sender.send(Command::Stop).unwrap();
        assert!(sender.send(touch()).is_err());
        let (other, gone) = queue();
        drop(gone);
        assert!(other.send(touch()).is_err());
        drop((sender, receiver));
    }
}
