//! The pure state machine of one resilient stream.

mod end;
mod protocol;
mod time;

pub use crate::{
    end::{Advice, By, End, Reason},
    protocol::{Context, Effect, Protocol, Signal},
    time::Time,
};

/// Names one attempt to hold a stream open. Anything tagged with an older one is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);
