//! Scrapes endpoints.
//!
//! Each endpoint has one task. It waits for the next tick (`schedule`), requests the page
//! (`fetch`) and hands it piece by piece to a `PageSink`, so that a page is never held whole. A
//! scrape that does not reach the end of its page is missed, with the reason. It is not repeated:
//! the next tick is the retry.
//!
//! ```
//! use steadfast_fodc_agent::scrape::Endpoint;
//!
//! let endpoint = Endpoint::new("http://localhost:9100/metrics")?.label("job", "node");
//! assert_eq!(endpoint.labels()["instance"], "localhost:9100");
//! # Ok::<(), steadfast_fodc_agent::scrape::EndpointFault>(())
//! ```

mod access;
mod body;
mod connection;
mod endpoint;
mod error;
mod fetch;
mod poll;
mod redirect;
mod schedule;
mod sink;

use std::time::Duration;

pub use self::{
    access::{Access, AccessFault},
    endpoint::{Endpoint, EndpointFault, Protocol},
    error::ScrapeError,
};
pub(crate) use self::{
    endpoint::HEALTH_PREFIX,
    error::error_chain,
    fetch::Fetcher,
    poll::Poller,
    sink::{PageSink, ScrapeOutcome},
};

/// The limits of one scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeLimits {
    /// The time from the lookup of the address to the last byte.
    pub(crate) timeout: Duration,
    /// The bytes of a page, on the wire and unpacked alike.
    pub(crate) body_bytes: u64,
}
