//! The interface between a session and the protocol spoken on its stream.

use std::time::Duration;

use crate::{End, Generation, Time};

/// The messages of a stream and their meaning.
///
/// A protocol is pure, as the session is: it is called with events and requests effects through its
/// [`Context`]. An [`Endpoint`](crate::Endpoint) combines the two, and both the driver and the
/// simulation step that one machine. Messages of older generations never reach a protocol.
pub trait Protocol {
    /// A message to the peer.
    type Send;
    /// A message from the peer.
    type Receive;
    /// A request of a handle.
    type Command;
    /// A notification for the handles.
    type Event;

    /// Handles the start of a new stream. Messages sent here are queued before the call is awaited,
    /// because some peers send their headers only with their first response.
    fn on_open(
        &mut self,
        now: Time,
        generation: Generation,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// Handles the connection's being ready for the call, which may be long after
    /// [`Protocol::on_open`]. Messages sent here are the newest that still go out with the call.
    fn on_connected(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>) {
        let _ = (now, cx);
    }

    /// Handles a message of the current stream.
    fn on_message(
        &mut self,
        now: Time,
        message: Self::Receive,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// Handles a command. A stream may be open or not; see [`Context::is_open`].
    fn on_command(
        &mut self,
        now: Time,
        command: Self::Command,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// Sends a heartbeat on the current stream.
    fn on_heartbeat(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>);

    /// Handles the session's becoming live: everything is restored.
    fn on_live(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>) {
        let _ = (now, cx);
    }

    /// Handles the end of the current stream. Another stream may follow.
    fn on_down(&mut self, now: Time, end: &End, cx: &mut Context<Self::Send, Self::Event>);

    /// Handles the end of all attempts, closed, left or given up. No stream follows until the caller
    /// connects again.
    fn on_stop(&mut self, now: Time, end: &End, cx: &mut Context<Self::Send, Self::Event>);

    /// Returns true once a live stream has delivered everything that was missed before it. Called only
    /// while live. The default suits a protocol that misses nothing or cannot tell.
    fn caught_up(&self) -> bool {
        true
    }

    /// Returns the time of the next call of [`Protocol::on_timer`].
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Handles the passing of [`Protocol::deadline`], which must then be later or `None`.
    fn on_timer(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>) {
        let _ = (now, cx);
    }
}

/// Collects the effects that a protocol requests during one call.
#[derive(Debug)]
pub struct Context<S, E> {
    effects: Vec<Effect<S, E>>,
    open: bool,
}

/// One effect that a protocol requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<S, E> {
    /// Queue a message for the peer.
    Send(S),
    /// Notify the handles.
    Event(E),
    /// Signal the session.
    Signal(Signal),
}

/// A signal of a protocol to its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The peer has greeted. The restoration begins if [`Ready::Restored`](crate::Ready::Restored) is
    /// configured.
    Greeted,
    /// The peer answered one more part of the restoration. The deadline for the next part is armed.
    RestoreProgress,
    /// Everything is restored.
    Restored,
    /// The peer acknowledged a heartbeat.
    HeartbeatAcked,
    /// From now on the peer must acknowledge heartbeats within the activity timeout.
    ExpectAcks,
    /// The peer asks for heartbeats at this interval for the duration of this stream. The session
    /// limits it to at least 10 ms and at most half the activity timeout.
    HeartbeatInterval(Duration),
    /// The peer announced that it stops, with this message.
    Drain(String),
    /// The stream cannot be used any more and must end.
    Fail(End),
}

impl<S, E> Context<S, E> {
    /// Creates an empty context. With `open`, messages can be sent.
    #[must_use]
    pub fn new(open: bool) -> Self {
        Self {
            effects: Vec::new(),
            open,
        }
    }

    /// Returns true if a stream is open, so that messages can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Queues a message for the peer.
    ///
    /// Discards it if no stream is open, as nothing sent now would reach the next one.
    ///
    /// # Panics
    ///
    /// In debug builds, if no stream is open.
    pub fn send(&mut self, message: S) {
        // A fault of the protocol: it forgot to look whether a stream is open. In release builds
        // the loss of the message does less harm than a panic in the driver.
        debug_assert!(self.open, "sent while no stream is open");
        if self.open {
            self.effects.push(Effect::Send(message));
        }
    }

    /// Notifies the handles.
    pub fn emit(&mut self, event: E) {
        self.effects.push(Effect::Event(event));
    }

    /// Signals the session.
    pub fn signal(&mut self, signal: Signal) {
        self.effects.push(Effect::Signal(signal));
    }

    /// Ends the stream.
    pub fn fail(&mut self, end: End) {
        self.signal(Signal::Fail(end));
    }

    /// Returns all requested effects, in order.
    #[must_use]
    pub fn into_effects(self) -> Vec<Effect<S, E>> {
        self.effects
    }

    /// Removes and returns all requested effects, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect<S, E>> {
        self.effects.drain(..)
    }

    /// Prepares the empty context for the next call of the protocol.
    pub(crate) fn set_open(&mut self, open: bool) {
        debug_assert!(self.effects.is_empty(), "effects of the last call are left");
        self.open = open;
    }
}
