//! What a layer above the session implements, and what it may ask for.

use std::time::Duration;

use crate::{End, Generation, Time};

/// The meaning of a stream: what is said on it, and what is made of the answers.
///
/// A protocol is pure like the session below it: it is told what happened and asks for effects
/// through its [`Context`]. [`crate::Endpoint`] puts the two together, and both the driver and the
/// simulation drive that one machine. Messages of older generations never reach a protocol.
pub trait Protocol {
    /// Messages to the peer.
    type Send;
    /// Messages from the peer.
    type Receive;
    /// What handles ask of the protocol.
    type Command;
    /// What the protocol tells its handles.
    type Event;

    /// A new stream begins. Everything sent here is queued before the call is awaited, because some
    /// peers answer with headers only once they have something to answer.
    fn on_open(
        &mut self,
        now: Time,
        generation: Generation,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// A message of the current stream.
    fn on_message(
        &mut self,
        now: Time,
        message: Self::Receive,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// A handle asks for something; a stream may be open or not ([`Context::is_open`]).
    fn on_command(
        &mut self,
        now: Time,
        command: Self::Command,
        cx: &mut Context<Self::Send, Self::Event>,
    );

    /// A heartbeat is due on the current stream.
    fn on_heartbeat(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>);

    /// The session became live: restored, and announced as connected.
    fn on_live(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>) {
        let _ = (now, cx);
    }

    /// The current stream is gone. Another may follow.
    fn on_down(&mut self, now: Time, end: &End, cx: &mut Context<Self::Send, Self::Event>);

    /// No stream will follow until the caller connects again: closed, left or given up.
    fn on_stop(&mut self, now: Time, end: &End, cx: &mut Context<Self::Send, Self::Event>);

    /// Whether a live stream has brought everything that was missed while there was none. Asked
    /// only while live; a protocol that misses nothing, or can not tell, leaves it at true.
    fn caught_up(&self) -> bool {
        true
    }

    /// When [`Protocol::on_timer`] is to be called next.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// The deadline has passed. It must move, or be gone, when this returns.
    fn on_timer(&mut self, now: Time, cx: &mut Context<Self::Send, Self::Event>) {
        let _ = (now, cx);
    }
}

/// Collects what a protocol asks for during one call.
#[derive(Debug)]
pub struct Context<S, E> {
    effects: Vec<Effect<S, E>>,
    open: bool,
}

/// One thing a protocol asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<S, E> {
    /// Queue a message for the peer.
    Send(S),
    /// Tell the handles.
    Event(E),
    /// Tell the session.
    Signal(Signal),
}

/// What a protocol can tell the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The peer has greeted. Restoration begins, if the link asks for it.
    Greeted,
    /// One more part of the restoration is answered; its deadline is armed anew.
    RestoreProgress,
    /// Everything restored is answered.
    Restored,
    /// A heartbeat of ours was acknowledged.
    HeartbeatAcked,
    /// From here on the peer must acknowledge heartbeats within the activity timeout.
    ExpectAcks,
    /// The peer wants heartbeats at this interval, for as long as this stream lasts. At most half
    /// the activity timeout and at least 10 ms are granted.
    HeartbeatInterval(Duration),
    /// The peer announced that it stops.
    Drain(String),
    /// The stream is no good and is to end.
    Fail(End),
}

impl<S, E> Context<S, E> {
    /// An empty context; `open` says whether messages can be sent.
    #[must_use]
    pub fn new(open: bool) -> Self {
        Self {
            effects: Vec::new(),
            open,
        }
    }

    /// Whether a stream is open, so that something can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Queues a message for the peer.
    ///
    /// # Panics
    ///
    /// In debug builds, if no stream is open: state is restored, messages are not kept.
    pub fn send(&mut self, message: S) {
        debug_assert!(self.open, "sent while no stream is open");
        if self.open {
            self.effects.push(Effect::Send(message));
        }
    }

    /// Tells the handles.
    pub fn emit(&mut self, event: E) {
        self.effects.push(Effect::Event(event));
    }

    /// Tells the session.
    pub fn signal(&mut self, signal: Signal) {
        self.effects.push(Effect::Signal(signal));
    }

    /// Ends the stream.
    pub fn fail(&mut self, end: End) {
        self.signal(Signal::Fail(end));
    }

    /// Everything asked for so far, in order.
    #[must_use]
    pub fn into_effects(self) -> Vec<Effect<S, E>> {
        self.effects
    }

    /// Takes everything asked for so far, in order, and leaves the context empty.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect<S, E>> {
        self.effects.drain(..)
    }
}
