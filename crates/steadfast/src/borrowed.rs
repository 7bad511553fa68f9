//! Streams on a connection that another link dialled.

use std::{future::Future, sync::Arc};

use steadfast_session::{End, Initiator, Reason};

use crate::{
    outbound::Outbound,
    transport::{Call, Connection, Tap, Transport},
};

/// A transport that never dials: each attempt is a stream on the one borrowed connection. When that
/// connection has ended the link stops, and whoever lent it decides what comes next.
#[derive(Clone, Debug)]
pub struct Borrowed<C>(C);

/// A connection that its borrower can not cut.
#[derive(Clone, Debug)]
pub struct Shared<C>(C);

impl<C: Connection> Borrowed<C> {
    /// Borrows streams on `connection`.
    #[must_use]
    pub fn new(connection: C) -> Self {
        Self(connection)
    }
}

impl<C: Connection> Transport for Borrowed<C> {
    type Connection = Shared<C>;

    fn connect(
        &self,
        _refresh: bool,
    ) -> impl Future<Output = Result<Shared<C>, End>> + Send + 'static {
        std::future::ready(if self.0.is_dead() {
            let why = "the connection it was borrowed from has ended";
            Err(End::stop(Initiator::Network, Reason::Lost(why.into())))
        } else {
            Ok(Shared(self.0.clone()))
        })
    }
}

impl<C: Connection> Connection for Shared<C> {
    type Inbound = C::Inbound;

    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        tap: Arc<Tap>,
    ) -> impl Future<Output = Result<Self::Inbound, End>> + Send + 'static {
        self.0.open(call, outbound, tap)
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        self.0.probe()
    }

    /// Leaves the connection alone; dropping both halves of the stream ends the stream.
    fn kill(&self) {}

    fn is_dead(&self) -> bool {
        self.0.is_dead()
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}
