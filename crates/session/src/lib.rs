//! The pure state machine of one resilient stream.
//!
//! A [`Session`] decides when to open a stream, when the stream is live, when it is dead and when to
//! try again. A [`Protocol`] defines the messages on the stream. An [`Endpoint`] combines the two; a
//! driver performs its actions and feeds it events.
//!
//! This crate never reads a clock, never uses a random generator that the caller did not seed, and
//! owns no socket, task or thread. Equal inputs give equal outputs on any machine.
//!
//! ```
//! use steadfast_session::{Config, Generation, Session, Time, session::{Action, Input}};
//!
//! let config = Config::default().check().expect("the defaults are valid");
//! let mut session = Session::new(config, 7);
//! let mut actions = Vec::new();
//!
//! let deadline = session.step(Time::ZERO, Input::Connect, &mut actions);
//! assert!(actions.contains(&Action::Open { generation: Generation(1), refresh: false }));
//!
//! // The driver dials, and steps the session again with what happens, or at the deadline.
//! let timeout = deadline.expect("an attempt has a deadline").at;
//! session.step(timeout, Input::Tick, &mut actions);
//! assert!(session.status().next_retry_at.is_some());
//! ```

mod backoff;
pub mod config;
mod end;
pub mod endpoint;
mod one_line;
mod protocol;
mod renewal;
pub mod session;
mod status;
mod time;
mod timer;

pub use crate::{
    config::{
        CheckedConfig, Config, ConfigFault, ConfigFaults, ConfigProblem, Jitter, Liveness, Ready,
        Recovery,
    },
    end::{Advice, Detail, End, Initiator, Reason},
    endpoint::Endpoint,
    one_line::OneLine,
    protocol::{Context, Effect, Protocol, Signal},
    renewal::{Authorization, Renewal},
    session::Session,
    status::{Activity, Cause, State, Status, Transition},
    time::Time,
    timer::{Deadline, Timer},
};

/// The number of one attempt to hold a stream. Input tagged with an older one is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);
