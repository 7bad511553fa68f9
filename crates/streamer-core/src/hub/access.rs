//! The rights of the peer of a stream.
//!
//! A hub that is [restricted](super::Hub::restricted) serves nothing to a stream before it was told what its
//! peer may do. Whether a subscription is granted is decided when it is requested. When the rights of a peer
//! change and with them those of a subscription, the stream ends; the client subscribes again at once and
//! gets exactly what it may see then. Filters therefore never change under a subscription.

use std::{fmt, sync::Arc};

use steadfast_session::Time;

use crate::filter::{Document, Filter, Selection, evaluate};

/// The rights of one peer.
pub trait Rights: fmt::Debug + Send + Sync {
    /// Returns what of a collection the peer may see. The same question always has the same answer.
    fn grant(&self, database: &str, collection: &str) -> Grant;
}

/// The part of a collection that a peer may see.
#[derive(Clone, Debug, PartialEq)]
pub enum Grant {
    /// Nothing, whether the collection exists or not.
    Nothing,
    /// Every document.
    Everything,
    /// The documents that satisfy at least one filter.
    Any(Arc<[Filter]>),
}

/// The fingerprint of a grant of every document.
pub(super) const EVERYTHING: u64 = 0;

/// The peer of a stream, and its rights.
#[derive(Clone, Debug)]
pub struct StreamAccess {
    /// The principal. Sessions and subscription ids of one are unknown to all others.
    pub owner: Arc<str>,
    /// True if the subscriptions of all its streams count together.
    pub shares_limits: bool,
    /// Its rights.
    pub rights: Arc<dyn Rights>,
    /// The time at which the stream ends unless newer credentials arrive.
    pub expires_at: Option<Time>,
}

/// The filter of a subscription, as far as its peer may see the documents.
#[derive(Debug)]
pub(super) struct Granted {
    /// The filter that the matcher uses.
    pub(super) filter: Filter,
    /// Filters that are evaluated for what it has found: at least one must hold.
    pub(super) also: Option<Arc<[Filter]>>,
    /// The fingerprint of the grant.
    pub(super) fingerprint: u64,
}

impl Grant {
    /// Restricts the filter of a subscription; `None` if nothing is granted.
    pub(super) fn restrict(&self, filter: Filter) -> Option<Granted> {
        let (filter, also) = match self {
            Self::Nothing => return None,
            Self::Everything => (filter, None),
            Self::Any(filters) => match &**filters {
                [] => return None,
                // The matcher finds few documents then, instead of all that are thrown away after.
                [only] if can_join(only) && can_join(&filter) => (filter.and(only), None),
                _ => (filter, Some(Arc::clone(filters))),
            },
        };
        Some(Granted {
            filter,
            also,
            fingerprint: self.fingerprint(),
        })
    }

    /// Returns a number that other grants have not; [`EVERYTHING`] for everything. It is the same in every process.
    fn fingerprint(&self) -> u64 {
        let Self::Any(filters) = self else {
            return EVERYTHING;
        };
        let mut hasher = blake3::Hasher::new();
        for filter in &**filters {
            let text = filter.to_string();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        u64::from_le_bytes(number).max(1)
    }
}

/// Returns true for a filter whose conditions mean the same beside others. `_id` is the document's id only
/// alone.
fn can_join(filter: &Filter) -> bool {
    !matches!(filter.selection(), Selection::Document(_))
}

/// Returns true if at least one filter holds, or there are none to hold.
pub(super) fn admits(also: Option<&[Filter]>, document: &Document<'_>) -> bool {
    also.is_none_or(|filters| filters.iter().any(|filter| satisfies(filter, document)))
}

/// As in the matcher: a document that cannot be read satisfies no condition.
pub(super) fn satisfies(filter: &Filter, document: &Document<'_>) -> bool {
    evaluate(filter, document).unwrap_or(false)
}
