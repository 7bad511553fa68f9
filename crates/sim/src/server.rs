//! The server's process: a hub on a log that outlives it.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_session::{Advice, End, Initiator, Reason, Time};
use steadfast_streamer::log::{Log as _, LogReader, MemoryLog};
use steadfast_streamer_core::{
    Epoch,
    hub::{EndCode, EndStatus, Hub, Limits, Origin, Ticket},
};

use crate::subscription::Payload;

/// The server. Its log survives it, the rest does not.
pub(crate) struct Server {
    pub(crate) incarnation: u64,
    pub(crate) hub: Option<Hub>,
    pub(crate) log: MemoryLog,
    pub(crate) reader: Arc<dyn LogReader>,
    pub(crate) frozen_until: Option<Time>,
    pub(crate) flapping: bool,
    pub(crate) draining: bool,
    /// The agenda has this deadline of the hub.
    pub(crate) due: Option<Time>,
    pub(crate) reads: BTreeMap<Ticket, (u64, usize, usize)>,
    /// Submissions that wait for the next commit, with their publishers.
    pub(crate) pending: Vec<(usize, Payload)>,
}

impl Server {
    pub(crate) fn new(seed: u64) -> Self {
        let log = MemoryLog::with_epoch(Epoch(seed ^ 0x5eed));
        let reader = log.reader();
        let mut server = Self {
            incarnation: 0,
            hub: None,
            log,
            reader,
            frozen_until: None,
            flapping: false,
            draining: false,
            due: None,
            reads: BTreeMap::new(),
            pending: Vec::new(),
        };
        server.start();
        server
    }

    /// Starts a process on the log.
    pub(crate) fn start(&mut self) {
        self.incarnation += 1;
        self.log = self.log.reopen();
        self.reader = self.log.reader();
        self.draining = false;
        self.due = None;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.incarnation.to_le_bytes());
        let origin = Origin {
            server_id: format!("server-{}", self.incarnation),
            epoch: self.reader.epoch(),
            bounds: self.reader.bounds(),
            seed,
        };
        self.hub = Some(Hub::new(origin, limits()).expect("the limits fit together"));
    }

    /// The process is gone.
    pub(crate) fn stop(&mut self) {
        self.hub = None;
        self.frozen_until = None;
        self.draining = false;
        self.due = None;
        self.reads.clear();
    }

    /// Whether it does anything now.
    pub(crate) fn runs(&self) -> bool {
        self.hub.is_some() && self.frozen_until.is_none()
    }
}

/// Small enough that every way of being slow is walked.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.queue_messages = 16;
    limits.page_events = 8;
    limits.tail_events = 4;
    limits.reads = 2;
    limits.progress_interval = std::time::Duration::from_millis(700);
    limits
}

/// What the client's transport makes of a status.
pub(crate) fn to_end(status: EndStatus) -> End {
    let (code, advice) = match status.code {
        EndCode::Ok => return End::retry(Initiator::Peer, Reason::Finished),
        EndCode::InvalidArgument => (3, Advice::Stop),
        EndCode::ResourceExhausted => (8, Advice::Wait(None)),
        EndCode::Aborted => (10, Advice::Retry),
        EndCode::Unavailable => (14, Advice::Retry),
        EndCode::DataLoss => (15, Advice::Stop),
    };
    End {
        initiator: Initiator::Peer,
        reason: Reason::Status {
            code,
            message: status.text,
        },
        advice,
    }
}
