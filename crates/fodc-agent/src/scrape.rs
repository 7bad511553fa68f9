//! Reads endpoints into the record.
//!
//! One task for each endpoint: it waits for its tick (`schedule`), asks the endpoint
//! (`fetch`), and hands what arrives, piece by piece, to whoever keeps the record (`Intake`). A
//! page is never held whole, and a reading that did not come to its end is never a reading: it is
//! missed, with the reason. The next tick is the retry; nothing is tried twice within one.

mod address;
mod body;
mod connection;
mod endpoint;
mod fetch;
mod miss;
mod poll;
mod schedule;

pub(crate) use self::poll::{Intake, Poller, Reading};
pub use self::{
    endpoint::{Endpoint, EndpointFault},
    miss::Miss,
};

use std::time::Duration;

/// What one reading of one endpoint may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Limit on one reading, from looking up the address to the last byte.
    pub timeout: Duration,
    /// Bytes of a page, on the wire and unpacked alike. Default 64 MiB.
    pub body_bytes: u64,
}
