//! The pure state machine of one resilient stream.
//!
//! A [`session::Session`] decides when to open a stream, when it is up, when it is dead and when to
//! try again. A [`Protocol`] says what is spoken on it. An [`Endpoint`] is the two put together; a
//! driver performs its actions and feeds it what happens.
//!
//! This crate never reads a clock, never draws from a generator it was not seeded with, never
//! allocates a socket, task or thread. Equal inputs give equal outputs, on any machine.

mod backoff;
pub mod config;
mod end;
pub mod endpoint;
mod protocol;
pub mod session;
mod status;
mod time;
mod timer;

pub use crate::{
    config::{CheckedConfig, Config, ConfigFault, ConfigFaults, Jitter, Liveness, Ready, Recovery},
    end::{Advice, End, Initiator, Reason},
    endpoint::Endpoint,
    protocol::{Context, Effect, Protocol, Signal},
    session::Session,
    status::{Activity, Cause, State, Status, Transition},
    time::Time,
    timer::{Deadline, Timer},
};

/// Names one attempt to hold a stream open. Anything tagged with an older one is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);
