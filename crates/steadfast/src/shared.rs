//! Streams on a connection that another link dialled.

use std::{future::Future, sync::Arc};

use steadfast_session::{End, Initiator, Reason};

use crate::{
    outbound::Outbound,
    transport::{Call, Connection, StreamActivity, Transport},
};

/// A transport that never dials: each attempt opens a stream on one existing connection.
///
/// When that connection has ended the link stops; the link that dialled it reconnects, and a new
/// `SharedTransport` is made from its next connection ([`crate::Link::connection`]).
///
/// ```no_run
/// # use steadfast::{LinkOptions, Link, SharedTransport, session::Protocol, grpc::Grpc};
/// # use steadfast::transport::Call;
/// # async fn example<P>(main: Link<P, steadfast::grpc::Connection>, metrics: P)
/// # -> Result<(), Box<dyn std::error::Error>>
/// # where P: Protocol<Command = (), Event = ()> + Send + 'static,
/// #       P::Send: prost::Message + 'static, P::Receive: prost::Message + Default {
/// let mut connection = main.connection();
/// let live = connection.wait_for(Option::is_some).await?.clone();
/// if let Some(connection) = live {
///     let call = Call::new("/example.v1.Agent/Metrics");
///     let transport = SharedTransport::new(connection);
///     let second = LinkOptions::new().spawn(call, transport, metrics, |()| {})?;
///     second.start()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SharedTransport<C>(C);

/// A connection that its user cannot kill.
#[derive(Clone, Debug)]
pub struct SharedConnection<C>(C);

impl<C: Connection> SharedTransport<C> {
    /// Opens streams on `connection`.
    #[must_use]
    pub fn new(connection: C) -> Self {
        Self(connection)
    }
}

impl<C: Connection> Transport for SharedTransport<C> {
    type Connection = SharedConnection<C>;

    fn connect(&self) -> impl Future<Output = Result<SharedConnection<C>, End>> + Send + 'static {
        // Stop and not retry: only the link that dialled the connection can replace it.
        std::future::ready(if self.0.is_closed() {
            let why = "the shared connection has ended";
            Err(End::stop(Initiator::Network, Reason::Lost(why.into())))
        } else {
            Ok(SharedConnection(self.0.clone()))
        })
    }
}

impl<C: Connection> Connection for SharedConnection<C> {
    type Inbound = C::Inbound;

    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        activity: Arc<StreamActivity>,
    ) -> impl Future<Output = Result<Self::Inbound, End>> + Send + 'static {
        self.0.open(call, outbound, activity)
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        self.0.probe()
    }

    // The connection carries the streams of other links. Dropping both halves of a stream ends it.
    fn kill(&self) {}

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}
