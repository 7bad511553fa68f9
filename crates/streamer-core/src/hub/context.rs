//! The state that every part of the hub works with.

use steadfast_session::Time;
use steadfast_wire::streamer::{self as wire, ResyncReason};

use super::{Action, Counters, Limits, StreamId, log_state::LogState};
use crate::matcher::CostProfile;

/// The time, the limits, the log, the counters, and the actions of the current step.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) now: Time,
    pub(super) limits: Limits,
    /// The start of the drain.
    pub(super) drain_start: Option<Time>,
    pub(super) log: LogState,
    pub(super) counters: Counters,
    /// The filters that use the cost of matching.
    pub(super) profile: CostProfile,
    /// The actions of the current step; empty between steps.
    pub(super) actions: Vec<Action>,
    /// The streams with messages of the current step.
    pub(super) unflushed: Vec<StreamId>,
    pub(super) scratch: Scratch,
}

/// The parts of the message that is being written. The buffers are kept to save allocations.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The fields with the ids.
    pub(super) ids: Vec<u8>,
    /// The previous offset of each id.
    pub(super) previous: Vec<u64>,
    /// The message tells that the document may have left the filters.
    pub(super) left: bool,
}

impl Context {
    pub(super) fn wire_position(&self, offset: u64) -> wire::Position {
        self.log.position(offset).into()
    }

    /// Returns the resync of a subscription that continues at the head although it wanted earlier
    /// events.
    pub(super) fn resync(&mut self, reason: ResyncReason) -> wire::Resync {
        self.counters.resyncs += 1;
        wire::Resync {
            reason: reason.into(),
            resumes_at: Some(self.wire_position(self.log.head())),
        }
    }
}
