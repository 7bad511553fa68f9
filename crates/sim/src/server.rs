//! The server process: a hub on a log that outlives it.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_session::{Advice, End, Initiator, Reason, Time};
use steadfast_streamer::log::{Log as _, LogReader, MemoryLog};
use steadfast_streamer_core::{
    Epoch,
    hub::{EndCode, EndStatus, Hub, InitialState, Limits, ReadId},
};

use crate::{payload::Payload, shape::Shape};

/// A server. Only its log survives a restart.
pub(crate) struct Server {
    pub(crate) incarnation: u64,
    pub(crate) hub: Option<Hub>,
    limits: Limits,
    restricted: bool,
    pub(crate) log: MemoryLog,
    pub(crate) reader: Arc<dyn LogReader>,
    /// The offset up to which the hub knows that the log was trimmed.
    pub(crate) known_first: u64,
    /// The newest offset that the hub was told of.
    pub(crate) known_head: u64,
    pub(crate) frozen_until: Option<Time>,
    pub(crate) thawed_at: Time,
    pub(crate) flapping: bool,
    pub(crate) draining: bool,
    /// The deadline of the hub that is scheduled.
    pub(crate) scheduled_deadline: Option<Time>,
    /// Reads in progress: offset, events, bytes.
    pub(crate) reads: BTreeMap<ReadId, (u64, usize, usize)>,
    pub(crate) document_reads: BTreeMap<ReadId, DocumentRead>,
    /// Submissions for the next commit, with their publishers.
    pub(crate) pending: Vec<(usize, Payload)>,
}

/// A read of documents in progress.
pub(crate) struct DocumentRead {
    pub(crate) collection: Arc<str>,
    /// The id to read after.
    pub(crate) after: Option<Arc<str>>,
    pub(crate) max_documents: usize,
    pub(crate) max_bytes: usize,
}

impl Server {
    pub(crate) fn new(seed: u64, shape: &Shape) -> Self {
        let log = MemoryLog::with_epoch(Epoch(seed ^ 0x5eed));
        let reader = log.reader();
        let mut server = Self {
            incarnation: 0,
            hub: None,
            limits: shape.hub.clone(),
            restricted: shape.restricted,
            log,
            reader,
            known_first: 0,
            known_head: 0,
            frozen_until: None,
            thawed_at: Time::ZERO,
            flapping: false,
            draining: false,
            scheduled_deadline: None,
            reads: BTreeMap::new(),
            document_reads: BTreeMap::new(),
            pending: Vec::new(),
        };
        server.start();
        server
    }

    /// Starts a process on the log.
    pub(crate) fn start(&mut self) {
        // Tasks of the old process carry the old number and are ignored when they run.
        self.incarnation += 1;
        // Begins a term, as a real start does: positions of the old one are resumed across it.
        self.log = self.log.reopen();
        self.reader = self.log.reader();
        let bounds = self.reader.bounds();
        (self.known_first, self.known_head) = (bounds.first, bounds.head);
        self.draining = false;
        self.scheduled_deadline = None;
        let mut seed = [0; 32];
        // Not drawn from the world's generator, so that a restart does not shift later draws.
        seed[..8].copy_from_slice(&self.incarnation.to_le_bytes());
        let initial = InitialState {
            server_id: format!("server-{}", self.incarnation),
            terms: self.reader.terms(),
            bounds: self.reader.bounds(),
            seed,
        };
        let hub = Hub::new(initial, self.limits.clone()).expect("the limits are valid");
        self.hub = Some(if self.restricted {
            hub.restricted()
        } else {
            hub
        });
    }

    /// Discards the process.
    pub(crate) fn stop(&mut self) {
        self.hub = None;
        self.frozen_until = None;
        self.draining = false;
        self.scheduled_deadline = None;
        self.reads.clear();
        self.document_reads.clear();
    }

    /// Returns true unless the process is stopped or frozen.
    pub(crate) fn is_running(&self) -> bool {
        self.hub.is_some() && self.frozen_until.is_none()
    }
}

/// Converts a status as the client's transport does.
pub(crate) fn to_end(status: EndStatus) -> End {
    let (code, advice) = match status.code {
        EndCode::Ok => return End::retry(Initiator::Peer, Reason::Finished),
        EndCode::InvalidArgument => (3, Advice::Stop),
        EndCode::Unauthenticated => (16, Advice::Refresh),
        EndCode::ResourceExhausted => (8, Advice::Wait(None)),
        EndCode::Aborted => (10, Advice::Retry),
        EndCode::Unavailable => (14, Advice::Retry),
        EndCode::DataLoss => (15, Advice::Stop),
    };
    End::status(code, status.text, advice)
}
