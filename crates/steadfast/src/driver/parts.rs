//! The parts of a driver, and the state it shares with the handles of its link.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use steadfast_session::{Endpoint, Protocol, Status};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    backpressure::Backpressure,
    counters::Counters,
    credentials::LinkCredentials,
    options::RetryPolicy,
    outage::Outages,
    outbound::Unsent,
    state_event::StateEvents,
    transport::{Call, Transport},
};

/// A message from a handle to the driver.
#[derive(Debug)]
pub(crate) enum Command<C> {
    /// A command of the protocol, with its permit of the queue.
    Protocol(C, OwnedSemaphorePermit),
    Connect,
    Reconnect,
    Leave,
}

/// The state that the driver writes and the handles read.
#[derive(Debug)]
pub(crate) struct SharedState<C> {
    pub(crate) status: watch::Sender<Status>,
    /// The connection of the live stream.
    pub(crate) connection: watch::Sender<Option<C>>,
    pub(crate) unsent: Arc<Unsent>,
    statistics: Mutex<Statistics>,
}

/// The measurements of a link.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) counters: Counters,
    pub(crate) outages: Outages,
}

/// The parts of a driver.
pub(crate) struct Parts<P: Protocol, T: Transport> {
    pub(crate) name: Arc<str>,
    pub(crate) endpoint: Endpoint<P>,
    pub(crate) transport: T,
    pub(crate) call: Call,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) credentials: LinkCredentials,
    pub(crate) outbox_bytes: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) backpressure: Option<Arc<Backpressure>>,
    pub(crate) state_events: Option<StateEvents>,
    pub(crate) sink: Box<dyn FnMut(P::Event) + Send>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command<P::Command>>,
    pub(crate) state: Arc<SharedState<T::Connection>>,
    pub(crate) cancel: CancellationToken,
    #[cfg(feature = "opentelemetry")]
    pub(crate) spans: Option<crate::spans::Spans>,
}

impl<C> SharedState<C> {
    pub(crate) fn new(status: Status) -> Self {
        Self {
            status: watch::Sender::new(status),
            connection: watch::Sender::new(None),
            unsent: Arc::default(),
            statistics: Mutex::default(),
        }
    }

    pub(crate) fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics
            .lock()
            .expect("nothing panics while it holds the statistics")
    }
}
