//! Keeps a gRPC stream up.
//!
//! A [`Link`] drives a session ([`steadfast_session`]) over a [`transport::Transport`]: it dials,
//! opens, greets, restores, notices when the peer is dead, and tries again, with one backoff, in
//! one loop. What is spoken on the stream is a [`steadfast_session::Protocol`]; for services that
//! are not ours there is [`Resume`].

mod borrowed;
mod counters;
mod driver;
mod gate;
#[cfg(feature = "grpc")]
pub mod grpc;
mod link;
mod notice;
mod outage;
mod outbound;
mod resume;
mod stream;
pub mod transport;

pub use steadfast_session as session;

pub use crate::{
    borrowed::{Borrowed, Shared},
    counters::Counters,
    gate::Gate,
    link::{Builder, Closed, ConnectError, Link},
    notice::Notice,
    outage::Outage,
    outbound::Outbound,
    resume::{Resume, Resumed, Resuming, Told},
};
