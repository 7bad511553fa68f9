//! The settings of a client core.

use std::{fmt, time::Duration};

use super::Limits;

/// The settings of a [`super::Core`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// A random, unguessable id, made once per client process. Subscription ids on the wire begin
    /// with it, because a plain server has one namespace for the subscriptions of all clients.
    pub session_id: String,
    /// Told to servers only: whoever knows the session's id but not this cannot take its place.
    pub secret: SessionSecret,
    /// The name of this client for people, and the gateway id of its heartbeats.
    pub client_id: String,
    /// The intended time between heartbeats; `None` if none are sent.
    pub heartbeat_interval: Option<Duration>,
    /// The longest silence of a living stream. A plain peer is probed once in this time; `None`
    /// never probes.
    pub activity_timeout: Option<Duration>,
    /// Bounds on the changes that are on their way or queued.
    pub limits: Limits,
    /// Times in a row that a server may refuse, or not continue from, the same position before it
    /// is given up; 0 counts as 1.
    pub max_rejections: u32,
    /// Offers the resume profile. Without it every peer is a plain one.
    pub offer_profile: bool,
    /// The wall clock at [`steadfast_session::Time::ZERO`], in Unix milliseconds.
    pub unix_ms: i64,
}

/// Random bytes of a session. Empty ones protect nothing. Their `Debug` form does not show them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SessionSecret(pub Vec<u8>);

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSecret({} bytes)", self.0.len())
    }
}

impl Config {
    /// Creates the default settings: a heartbeat every 30 s, 90 s of silence, three rejections.
    #[must_use]
    pub fn new(session_id: impl Into<String>, client_id: impl Into<String>, unix_ms: i64) -> Self {
        Self {
            session_id: session_id.into(),
            secret: SessionSecret::default(),
            client_id: client_id.into(),
            heartbeat_interval: Some(Duration::from_secs(30)),
            activity_timeout: Some(Duration::from_secs(90)),
            limits: Limits::default(),
            max_rejections: 3,
            offer_profile: true,
            unix_ms,
        }
    }
}
