#![doc = include_str!("../README.md")]

mod backpressure;
mod counters;
#[cfg(feature = "grpc")]
pub mod dial;
mod driver;
#[cfg(feature = "grpc")]
pub mod grpc;
mod link;
mod options;
mod outage;
mod outbound;
mod resume;
mod shared;
mod state_event;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;

pub use steadfast_session as session;

pub use crate::{
    backpressure::Backpressure,
    counters::Counters,
    link::{Closed, CommandError, CommandPermit, ConnectError, Link},
    options::LinkOptions,
    outage::Outage,
    outbound::Outbound,
    resume::{Observed, Resume, ResumeEvent, Resumed, Resuming},
    shared::{SharedConnection, SharedTransport},
    state_event::StateEvent,
};
