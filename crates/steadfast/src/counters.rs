//! The counters of a link.

use std::collections::BTreeMap;

/// Totals since the link was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Attempts begun.
    pub attempts: u64,
    /// Streams that became live.
    pub streams_established: u64,
    /// Ends of streams and attempts by [`steadfast_session::Reason::label`].
    pub ends: BTreeMap<&'static str, u64>,
    /// Messages queued for the peer.
    pub messages_out: u64,
    /// Bytes of the messages queued for the peer.
    pub bytes_out: u64,
    /// Whole messages received.
    pub messages_in: u64,
    /// Bytes of the messages received.
    pub bytes_in: u64,
    /// Probes sent.
    pub probes: u64,
    /// Pauses of reading because the application's queue was full.
    pub read_pauses: u64,
}
