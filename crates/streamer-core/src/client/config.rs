//! What a core is told once.

use std::time::Duration;

use super::Limits;

/// Settings of a [`super::Core`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Random and unguessable, made once per client process. Subscription ids on the wire begin
    /// with it, since with a plain peer they share one namespace with everybody else's.
    pub session_id: String,
    /// Names this client to people; also the gateway id of heartbeats.
    pub client_id: String,
    /// How often heartbeats are meant to be sent; `None` if never.
    pub heartbeat_interval: Option<Duration>,
    /// How long a stream may be silent. A plain peer is asked once in this time whether it still
    /// has a subscription; `None` never asks.
    pub activity_timeout: Option<Duration>,
    /// Bounds on what is on its way and waiting.
    pub limits: Limits,
    /// How often in a row the same position may be refused, or not be continued from, before it is
    /// given up. 0 counts as 1.
    pub refusals_max: u32,
    /// Whether the resume profile is offered. Without it every peer is a plain one.
    pub offer_profile: bool,
    /// The wall clock at [`steadfast_session::Time::ZERO`], Unix milliseconds.
    pub unix_ms: i64,
}

impl Config {
    /// The defaults: heartbeats each 30 s, 90 s of silence, the third refusal gives a position up.
    #[must_use]
    pub fn new(session_id: impl Into<String>, client_id: impl Into<String>, unix_ms: i64) -> Self {
        Self {
            session_id: session_id.into(),
            client_id: client_id.into(),
            heartbeat_interval: Some(Duration::from_secs(30)),
            activity_timeout: Some(Duration::from_secs(90)),
            limits: Limits::default(),
            refusals_max: 3,
            offer_profile: true,
            unix_ms,
        }
    }
}
