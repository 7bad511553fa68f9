//! The interface of the protocols of a socket: pure machines, without runtime and clock.
//!
//! ```text
//!   text frames ──┐                      ┌──> text frames, pings, the end
//!   events ───────┼──> Machine::step ────┼──> subscriptions, opened and dropped
//!   time ─────────┘                      └──> tokens to check
//! ```
//!
//! The driver (`driver.rs`) feeds one machine per socket. It asks the machine for nothing but the next
//! time, and passes an event on only when everything before it was taken by the socket: a machine needs
//! no queue of its own, and no policy for a slow peer.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use steadfast_session::Time;

use crate::subscription::{Event, Request};

/// The delay from which a tick is late: the driver was held up, by a client that takes a frame slowly or by a
/// busy machine. What the client sent meanwhile is not read.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// The name of a subscription between machine and driver. A machine never uses one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

/// The answer to a principal with too many sockets.
pub(crate) const TOO_MANY_SOCKETS: &str = "this principal has too many sockets";

/// A protocol of one socket.
pub trait Machine: fmt::Debug + Send {
    /// Applies an input. Every effect is in `out` when this returns. Returns the time of the next
    /// [`Input::Tick`]; `None` is never.
    fn step(&mut self, now: Time, input: Input<'_>, out: &mut Actions) -> Option<Time>;

    /// Returns true if an array of frames means the same as its frames one after another.
    fn joins_frames(&self) -> bool {
        false
    }

    /// Returns the bytes that wait in the machine for a message that is not whole.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Returns the number of messages in a text frame, at least 1: the rate of messages counts each.
    fn count_messages(&self, _frame: &str) -> usize {
        1
    }
}

/// What can happen to a socket.
#[derive(Debug)]
pub enum Input<'a> {
    /// The socket is open. The first input, and the only one of its kind.
    Opened(Opened),
    /// The client sent a text frame.
    Text(&'a str),
    /// The client sent another frame, such as the response to a ping: it is alive.
    Alive,
    /// The token of [`Action::Authenticate`] was checked. Follows it at once.
    Authenticated(Result<Principal, &'static str>),
    /// A subscription of [`Action::Subscribe`] has news. Nothing follows [`Event::Ended`], nor
    /// [`Action::Unsubscribe`].
    Event(Key, Event),
    /// The credentials are no longer valid; the text says why. All subscriptions are gone.
    Unauthenticated(&'static str),
    /// The gateway stops. The machine closes the socket.
    Drain {
        /// The time within which clients spread their next attempts.
        retry_after: Duration,
    },
    /// The time that the machine asked for has come, or has passed.
    Tick,
}

/// What a machine needs to know when its socket opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The number of the socket, unique in the gateway.
    pub socket: u64,
    /// The name of the gateway for itself.
    pub server: Arc<str>,
    /// The peer that the credentials of the request name. `None` if there were none, and the policy does
    /// not admit peers without.
    pub principal: Option<Principal>,
    /// Whether the gateway has a policy. Without one everybody may do everything.
    pub is_restricted: bool,
    /// The time after which a silent connection is looked at.
    pub heartbeat: Duration,
}

/// A peer whose credentials are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its name, such as `jwt:alice`; `anonymous` without a policy.
    pub name: Arc<str>,
    /// The time for which its credentials are valid; `None` is for ever.
    pub expires_in: Option<Duration>,
}

/// Something that a machine asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Sends a text frame.
    Send(String),
    /// Sends a ping frame.
    Ping,
    /// Checks a token; [`Input::Authenticated`] follows before any other input. A valid one replaces the
    /// credentials of the socket, and the rights of all its subscriptions.
    Authenticate(String),
    /// Opens a subscription: [`Event::Opened`] or [`Event::Ended`] follows, after at most the time that the
    /// Streamers are given.
    Subscribe(Key, Box<Request>),
    /// Drops a subscription, at once.
    Unsubscribe(Key),
    /// Reads no more items of a subscription. They stay in the log.
    Pause(Key),
    /// Reads the items of a subscription again.
    Resume(Key),
    /// Closes the socket in order, after everything before it was sent.
    Close {
        /// The status code of RFC 6455.
        code: u16,
        /// The reason, at most 123 bytes.
        reason: &'static str,
    },
    /// Drops the connection without a word.
    Cut,
}

/// The actions of a machine, in order.
#[derive(Debug, Default)]
pub struct Actions(VecDeque<Action>);

impl Actions {
    /// Appends an action.
    pub fn push(&mut self, action: Action) {
        self.0.push_back(action);
    }

    /// Appends a text frame.
    pub fn send(&mut self, text: impl Into<String>) {
        self.push(Action::Send(text.into()));
    }

    /// Inserts the actions of another machine step before all others.
    pub(crate) fn insert_first(&mut self, first: Self) {
        for action in first.0.into_iter().rev() {
            self.0.push_front(action);
        }
    }

    /// Removes the oldest action.
    pub fn pop(&mut self) -> Option<Action> {
        let action = self.0.pop_front();
        // A socket that has nothing to do keeps no buffer.
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
        action
    }

    /// Returns true if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes and returns all actions.
    pub fn drain(&mut self) -> impl Iterator<Item = Action> + '_ {
        self.0.drain(..)
    }
}
