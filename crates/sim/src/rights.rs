//! The rights of the simulated peers, with a naive reading of them.

use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use steadfast_streamer_core::hub::{Grant, Rights};
use steadfast_wire::streamer::{StreamerMessage, streamer_message::Payload as Sent};

use crate::payload::{COLLECTIONS, Condition, Payload};

/// The right of a peer to a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum MaySee {
    #[default]
    Everything,
    Nothing,
    /// The documents that at least one condition admits, each of a role of the peer.
    Any(Vec<Condition>),
}

/// The rights of a peer, by collection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PeerRights([MaySee; COLLECTIONS.len()]);

impl MaySee {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..8) {
            0 => Self::Nothing,
            1 | 2 => Self::Everything,
            // A peer of no role has no condition.
            _ => Self::Any(
                (0..rng.random_range(0..4))
                    .map(|_| Condition::draw(rng))
                    .collect(),
            ),
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Everything => false,
            Self::Nothing => true,
            Self::Any(conditions) => conditions.is_empty(),
        }
    }

    pub(crate) fn admits(&self, payload: Payload) -> bool {
        match self {
            Self::Everything => true,
            Self::Nothing => false,
            Self::Any(conditions) => conditions.iter().any(|it| it.holds(payload)),
        }
    }

    fn grant(&self) -> Grant {
        match self {
            Self::Everything => Grant::Everything,
            Self::Nothing => Grant::Nothing,
            Self::Any(conditions) => Grant::Any(conditions.iter().map(|it| it.filter()).collect()),
        }
    }
}

impl PeerRights {
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Arc<Self> {
        Arc::new(Self(std::array::from_fn(|_| MaySee::draw(rng))))
    }

    /// Returns the rights, or others if a collection is denied: a plain peer asks for it for ever.
    pub(crate) fn lasting(self: &Arc<Self>, rng: &mut ChaCha8Rng) -> Arc<Self> {
        let mut rights = Arc::clone(self);
        while rights.0.iter().any(MaySee::is_nothing) {
            rights = Self::draw(rng);
        }
        rights
    }

    pub(crate) fn of(&self, collection: &str) -> &MaySee {
        let index = COLLECTIONS.iter().position(|it| *it == collection);
        &self.0[index.expect("the collections are ours")]
    }

    /// Checks that a message has no document that the peer may not see.
    pub(crate) fn check(&self, message: &StreamerMessage) -> Result<(), String> {
        let events = match &message.payload {
            Some(Sent::Delivery(delivery)) => delivery.event.as_slice(),
            Some(Sent::Snapshot(snapshot)) => &snapshot.documents,
            _ => return Ok(()),
        };
        // A document that leaves has no data.
        for event in events.iter().filter(|it| !it.document_data.is_empty()) {
            let payload = Payload::from_json(&event.document_data);
            let is_admitted = payload.is_some_and(|it| self.of(it.collection()).admits(it));
            if !is_admitted {
                return Err(format!("{payload:?} was sent to a peer with {self:?}"));
            }
        }
        Ok(())
    }
}

impl Rights for PeerRights {
    fn grant(&self, _database: &str, collection: &str) -> Grant {
        self.of(collection).grant()
    }
}
