//! The changes of another system over `syntrix.puller.v1`, received ([`intake`]) and served
//! ([`feed`]).
//!
//! ```text
//!   Puller ── PullerEvent ──> Intake ── Received ──> transform ──> submissions, with the Marker
//!   log ── Event ──> coalesce ──> Feed ── PullerEvent ──> consumers
//! ```

pub mod document;
mod document_ids;
pub mod feed;
pub mod intake;
mod marker;
mod progress;
mod transform;

pub use self::{
    document_ids::{DocumentIds, Lookup},
    marker::{InvalidMarker, Loss, Marker, Seen},
    progress::{ClusterTime, EventId, InvalidProgress, Progress},
    transform::{Dropped, SourceChange, SourceId, transform},
};
