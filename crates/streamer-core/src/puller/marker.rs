//! The position of an intake in its source, stored in the log with the changes that it covers.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use prost::Message;
use steadfast_wire::puller::{ChangeEvent, PullerEvent};

use super::progress::{ClusterTime, EventId, Progress};

/// The changes that were received, per backend.
///
/// A Puller's own marker is the id of the last change, exclusive. That is not enough: changes of one
/// transaction have the same time, a Puller replays them in another order than it sends them live, and
/// nothing shows that it no longer holds what follows the marker. So this one remembers which changes
/// of the last time were received, and requests that time again: what was received is recognized, what
/// was not is new, and a Puller that sends neither has forgotten the place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    backends: BTreeMap<String, Reached>,
    /// The last place at which changes of the source were lost.
    pub loss: Option<Loss>,
}

/// A place in the log before which changes of the source are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Just before the next event of the source.
    Pending,
    /// Just before the event at this offset.
    Before(u64),
}

/// The relation of a change to those that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is later than all of its backend.
    Later,
    /// It has the time of the last one, and was not received.
    SameTime,
    /// It was received.
    Repeated,
}

/// An error of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMarker {
    /// A change without a time, by which it cannot be ordered.
    #[error("a change has neither a cluster time nor an id with one")]
    NoTime,
    /// More backends than any source has.
    #[error("changes of more than {MAX_BACKENDS} backends")]
    TooManyBackends,
    /// The stored marker cannot be decoded.
    #[error("the stored marker cannot be decoded")]
    Encoding,
}

/// The place that was reached in one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reached {
    time: ClusterTime,
    /// The hash in the id of the last change.
    hash: String,
    /// The changes of this time that were received, at most [`MAX_SEEN`].
    seen: BTreeSet<u64>,
}

/// The maximum number of changes of one time that are remembered. After a cut in the middle of a
/// transaction with more changes, those beyond may arrive twice; none is lost.
const MAX_SEEN: usize = 16_384;

/// The maximum number of backends. A source has a handful; the marker is written with every commit.
const MAX_BACKENDS: usize = 1_024;

/// The backend that a server of this project names, and the one in the first request to any Puller.
pub(super) const OWN_BACKEND: &str = "steadfast";

impl Marker {
    /// Returns the relation of a change to those that were received.
    ///
    /// # Errors
    ///
    /// Returns an error if the change has no time.
    pub fn relation(&self, change: &ChangeEvent) -> Result<Seen, InvalidMarker> {
        let id = id_of(change)?;
        let Some(reached) = self.backends.get(&change.backend) else {
            return Ok(Seen::Later);
        };
        Ok(match id.time.cmp(&reached.time) {
            Ordering::Less => Seen::Repeated,
            Ordering::Equal if reached.seen.contains(&digest(change)) => Seen::Repeated,
            Ordering::Equal => Seen::SameTime,
            Ordering::Greater => Seen::Later,
        })
    }

    /// Takes a change or a heartbeat into account, and returns the relation of the change to those that
    /// were received before.
    ///
    /// # Errors
    ///
    /// Returns an error if the change has no time, or if there are too many backends.
    pub fn advance(&mut self, event: &PullerEvent) -> Result<Option<Seen>, InvalidMarker> {
        let seen = match &event.change_event {
            None => None,
            Some(change) => Some(self.advance_change(change)?),
        };
        self.advance_progress(&event.progress)?;
        Ok(seen)
    }

    fn advance_change(&mut self, change: &ChangeEvent) -> Result<Seen, InvalidMarker> {
        let seen = self.relation(change)?;
        let id = id_of(change)?;
        match seen {
            Seen::Repeated => {}
            Seen::Later => {
                self.reach(&change.backend, id)?;
                self.remember(change);
            }
            Seen::SameTime => self.remember(change),
        }
        Ok(seen)
    }

    /// Moves backends that the Puller's own marker shows further on.
    fn advance_progress(&mut self, progress: &str) -> Result<(), InvalidMarker> {
        // A marker that cannot be read is of no use here, and no reason to refuse the change.
        let progress: Progress = progress.parse().unwrap_or_default();
        for (backend, id) in progress.backends {
            let Ok(id) = id.parse::<EventId>() else {
                continue;
            };
            let reached = self.backends.get(&backend);
            if reached.is_none_or(|reached| reached.time < id.time) {
                self.reach(&backend, id)?;
            }
        }
        Ok(())
    }

    fn reach(&mut self, backend: &str, id: EventId) -> Result<(), InvalidMarker> {
        if self.backends.len() >= MAX_BACKENDS && !self.backends.contains_key(backend) {
            return Err(InvalidMarker::TooManyBackends);
        }
        let reached = Reached {
            time: id.time,
            hash: id.hash,
            seen: BTreeSet::new(),
        };
        self.backends.insert(backend.to_owned(), reached);
        Ok(())
    }

    fn remember(&mut self, change: &ChangeEvent) {
        if let Some(reached) = self.backends.get_mut(&change.backend)
            && reached.seen.len() < MAX_SEEN
        {
            reached.seen.insert(digest(change));
        }
    }

    /// Returns the progress marker to request changes after: just before the last time of each backend.
    ///
    /// Without any, it asks for everything that the Puller holds. The empty marker would ask for what
    /// happens from now on, and a cut before the first change would lose what happened meanwhile (P3).
    #[must_use]
    pub fn request(&self) -> Progress {
        let mut progress = Progress::default();
        for (backend, reached) in &self.backends {
            let after = EventId {
                // Nothing of this time was received if only a heartbeat named it.
                time: if reached.seen.is_empty() {
                    reached.time
                } else {
                    reached.time.previous()
                },
                hash: reached.hash.clone(),
            };
            progress.backends.insert(backend.clone(), after.to_string());
        }
        if progress.backends.is_empty() {
            // A Puller ignores backends that it does not know, and sends all of those that the marker
            // does not name (P4).
            let start = format!("0-0-{:016x}", 0);
            progress.backends.insert(OWN_BACKEND.to_owned(), start);
        }
        progress
    }

    /// Returns the backends of which a change was received: the Puller must still hold its time.
    pub(super) fn reached_backends(&self) -> BTreeSet<String> {
        let reached =
            |(name, reached): (&String, &Reached)| (!reached.seen.is_empty()).then(|| name.clone());
        self.backends.iter().filter_map(reached).collect()
    }

    /// Encodes the marker for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let backends = self.backends.iter().map(|(name, reached)| BackendBody {
            name: name.clone(),
            time: reached.time.as_number(),
            hash: reached.hash.clone(),
            seen: reached.seen.iter().copied().collect(),
        });
        let body = MarkerBody {
            backends: backends.collect(),
            loss_pending: self.loss == Some(Loss::Pending),
            loss_before: match self.loss {
                Some(Loss::Before(offset)) => offset,
                Some(Loss::Pending) | None => 0,
            },
        };
        body.encode_to_vec().into()
    }

    /// Decodes a stored marker.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidMarker::Encoding`] if it is damaged.
    pub fn decode(encoded: &[u8]) -> Result<Self, InvalidMarker> {
        let body = MarkerBody::decode(encoded).map_err(|_| InvalidMarker::Encoding)?;
        let backends = body.backends.into_iter().map(|backend| {
            let reached = Reached {
                time: ClusterTime::from_number(backend.time),
                hash: backend.hash,
                seen: backend.seen.into_iter().collect(),
            };
            (backend.name, reached)
        });
        Ok(Self {
            backends: backends.collect(),
            loss: match (body.loss_pending, body.loss_before) {
                (true, _) => Some(Loss::Pending),
                (false, 0) => None,
                (false, offset) => Some(Loss::Before(offset)),
            },
        })
    }
}

/// Returns the id of a change, with the time that orders it.
fn id_of(change: &ChangeEvent) -> Result<EventId, InvalidMarker> {
    let id = change.event_id.parse::<EventId>().ok();
    match (change.cluster_time, id) {
        (None, None) => Err(InvalidMarker::NoTime),
        (None, Some(id)) => Ok(id),
        (Some(time), id) => Ok(EventId {
            time: time.into(),
            hash: id.map_or_else(String::new, |id| id.hash),
        }),
    }
}

/// Returns what tells two changes of one time apart. The id alone does not: a transaction may change a
/// document twice.
fn digest(change: &ChangeEvent) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [
        change.event_id.as_bytes(),
        change.op_type.as_bytes(),
        &change.full_doc,
    ] {
        // With its length, no other split into parts has the same input.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut digest = [0; 8];
    hasher.finalize_xof().fill(&mut digest);
    u64::from_le_bytes(digest)
}

#[derive(Clone, PartialEq, Message)]
struct MarkerBody {
    #[prost(message, repeated, tag = "1")]
    backends: Vec<BackendBody>,
    #[prost(bool, tag = "2")]
    loss_pending: bool,
    #[prost(uint64, tag = "3")]
    loss_before: u64,
}

#[derive(Clone, PartialEq, Message)]
struct BackendBody {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    time: u64,
    #[prost(string, tag = "3")]
    hash: String,
    #[prost(fixed64, repeated, tag = "4")]
    seen: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(backend: &str, id: &str, document: &'static str) -> PullerEvent {
        let parsed: EventId = id.parse().unwrap();
        PullerEvent {
            change_event: Some(ChangeEvent {
                event_id: id.to_owned(),
                backend: backend.to_owned(),
                full_doc: Bytes::from_static(document.as_bytes()),
                cluster_time: Some(parsed.time.into()),
                ..ChangeEvent::default()
            }),
            progress: String::new(),
        }
    }

    fn request(marker: &Marker) -> Vec<(String, String)> {
        marker.request().backends.into_iter().collect()
    }

    #[test]
    fn changes_are_told_from_repeated_ones() {
        use Seen::{Later, Repeated, SameTime};
        let mut marker = Marker::default();
        for (backend, id, document, expected) in [
            ("b1", "12-1-bb", "1", Later),
            ("b1", "12-1-bb", "1", Repeated),
            // The order of ids at one time says nothing: live they come as they happened.
            ("b1", "12-1-aa", "2", SameTime),
            ("b1", "12-1-aa", "2", Repeated),
            // One document twice in a transaction.
            ("b1", "12-1-aa", "3", SameTime),
            ("b2", "1-1-aa", "4", Later),
            ("b1", "13-0-aa", "5", Later),
            ("b1", "12-1-aa", "3", Repeated),
            ("b1", "12-1-zz", "6", Repeated),
        ] {
            let seen = marker.advance(&event(backend, id, document));
            assert_eq!(seen, Ok(Some(expected)), "{backend} {id} {document}");
            marker = Marker::decode(&marker.encode()).unwrap();
        }
        assert_eq!(
            request(&marker),
            [("b1", "12-4294967295-aa"), ("b2", "1-0-aa")]
                .map(|(backend, id)| (backend.to_owned(), id.to_owned()))
        );
    }

    #[test]
    fn first_request_asks_for_everything() {
        let start = ("steadfast".to_owned(), "0-0-0000000000000000".to_owned());
        let first = request(&Marker::default());
        assert_eq!(first, std::slice::from_ref(&start));
        let mut marker = Marker::default();
        let heartbeat = PullerEvent {
            change_event: None,
            progress: marker.request().to_string(),
        };
        assert_eq!(marker.advance(&heartbeat), Ok(None));
        assert_eq!(request(&marker), [start]);
        assert!(marker.reached_backends().is_empty());
    }

    #[test]
    fn progress_moves_backends_forward_only() {
        let mut marker = Marker::default();
        marker.advance(&event("b1", "12-1-aa", "1")).unwrap();
        let mut heartbeat = |backends: &[(&str, &str)]| {
            let backends = backends.iter();
            let backends = backends.map(|(name, id)| ((*name).to_owned(), (*id).to_owned()));
            let progress = Progress {
                backends: backends.collect(),
            };
            let event = PullerEvent {
                change_event: None,
                progress: progress.to_string(),
            };
            assert_eq!(marker.advance(&event), Ok(None));
            request(&marker)
        };
        let expected = |ids: [&str; 2]| {
            ["b1", "b2"]
                .map(String::from)
                .into_iter()
                .zip(ids.map(String::from))
                .collect::<Vec<_>>()
        };
        // The marker of a Puller that has lost a backend, or names it without an id.
        heartbeat(&[]);
        let both = heartbeat(&[("b1", "11-9-aa"), ("b2", "5-5-aa"), ("b3", "none")]);
        assert_eq!(both, expected(["12-0-aa", "5-5-aa"]));
        let moved = heartbeat(&[("b1", "14-0-cc")]);
        assert_eq!(moved, expected(["14-0-cc", "5-5-aa"]));
    }

    #[test]
    fn change_without_a_time_and_too_many_backends_are_errors() {
        let mut marker = Marker::default();
        let mut event = event("b", "1-1-aa", "1");
        let change = event.change_event.as_mut().unwrap();
        change.cluster_time = None;
        assert_eq!(marker.advance(&event), Ok(Some(Seen::Later)));
        event.change_event.as_mut().unwrap().event_id.clear();
        assert_eq!(marker.advance(&event), Err(InvalidMarker::NoTime));
        for number in 1..MAX_BACKENDS {
            let event = self::event(&format!("b{number}"), "1-1-aa", "1");
            assert_eq!(marker.advance(&event), Ok(Some(Seen::Later)));
        }
        let event = self::event("one more", "1-1-aa", "1");
        assert_eq!(marker.advance(&event), Err(InvalidMarker::TooManyBackends));
    }

    #[test]
    fn stored_marker_keeps_its_loss() {
        for loss in [None, Some(Loss::Pending), Some(Loss::Before(7))] {
            let mut marker = Marker::default();
            marker.advance(&event("b1", "12-1-aa", "1")).unwrap();
            marker.loss = loss;
            assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
        }
        assert_eq!(Marker::decode(&[0xff]), Err(InvalidMarker::Encoding));
    }
}
