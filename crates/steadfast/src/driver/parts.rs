//! What a driver is made of, and what it shares with the handles.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_session::{Advice, End, Endpoint, Protocol, Status};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    counters::Counters,
    gate::Gate,
    notice::Notices,
    outage::Outages,
    outbound::Unsent,
    transport::{Call, Transport},
};

/// What handles ask of a driver.
#[derive(Debug)]
pub(crate) enum Command<C> {
    Protocol(C),
    Connect,
    Reconnect,
    Leave,
}

/// Decides again what is to be done after an end; `None` leaves it as the transport advised.
pub(crate) type Policy = Box<dyn Fn(&End) -> Option<Advice> + Send>;

/// What the driver shows to its handles.
#[derive(Debug)]
pub(crate) struct Shown<C> {
    pub(crate) status: watch::Sender<Status>,
    pub(crate) connection: watch::Sender<Option<C>>,
    pub(crate) record: Mutex<Record>,
    pub(crate) unsent: Arc<Unsent>,
}

/// What the driver writes down.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) counters: Counters,
    pub(crate) outages: Outages,
}

/// What a driver is made of.
pub(crate) struct Parts<P: Protocol, T: Transport> {
    pub(crate) name: Arc<str>,
    pub(crate) endpoint: Endpoint<P>,
    pub(crate) transport: T,
    pub(crate) call: Call,
    pub(crate) policy: Policy,
    pub(crate) outbox_bytes: usize,
    pub(crate) close_timeout: Duration,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) notices: Option<Notices>,
    pub(crate) sink: Box<dyn FnMut(P::Event) + Send>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command<P::Command>>,
    pub(crate) shown: Arc<Shown<T::Connection>>,
    pub(crate) cancel: CancellationToken,
}
