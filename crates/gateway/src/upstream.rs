//! The Streamers behind the gateway, reached through our own client.
//!
//! Each subscription of a client is one of the Streamer's. Nothing is shared between them but the
//! connections: positions, snapshots and credit are those of the layers below, and a subscription that
//! nobody reads costs an offset in the log.

mod handle;
mod view;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{join, join_all};
use steadfast::{
    CallCredentials, LinkOptions,
    dial::Dialer,
    grpc,
    session::{Config, ConfigFaults},
};
use steadfast_session::State;
use steadfast_streamer::{
    Client, LiveWindow, Publisher, Subscription,
    client::{BuildError, Limits, SubscribeError},
};
use tokio::time::timeout;

pub use self::handle::Handle;
use crate::{
    rights::Peer,
    subscription::{End, EndCode, Request},
};

/// The way to the Streamers.
#[derive(Clone)]
pub struct UpstreamOptions {
    /// The Streamers, which can stand in for each other: they serve one log.
    pub dialer: Dialer,
    /// The timeouts of the sessions with them.
    pub session: Config,
    /// The credentials of the gateway. They must allow everything that its clients may do.
    pub credentials: CallCredentials,
    /// Settings of the connections.
    pub grpc: grpc::Options,
    /// The number of connections for subscriptions. Default 4.
    pub connections: usize,
    /// The longest wait for the response to a subscription. Default 10 s.
    pub open_timeout: Duration,
    /// Connect when the first client needs it, and not at the start. Default false.
    pub connects_at_first_use: bool,
}

/// The Streamers. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connections: OnceLock<Connections>,
    next: AtomicUsize,
    options: UpstreamOptions,
}

#[derive(Debug)]
struct Connections {
    clients: Vec<Client>,
    publisher: Publisher,
}

/// The source of the items of one subscription.
#[derive(Debug)]
enum Source {
    Changes(Subscription),
    /// Boxed, because few subscriptions have an order.
    Window(Box<LiveWindow>),
}

/// Queued changes of all subscriptions on one connection. More than for an ordinary client, because here
/// they are divided among all sockets.
const QUEUED_CHANGES: u64 = 65_536;
/// Their bytes.
const QUEUED_BYTES: u64 = 32 << 20;

impl UpstreamOptions {
    /// Returns the default settings for these Streamers.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            session: Config::default(),
            credentials: CallCredentials::default(),
            grpc: grpc::Options::default(),
            connections: 4,
            open_timeout: Duration::from_secs(10),
            connects_at_first_use: false,
        }
    }

    fn link(&self, name: &str) -> LinkOptions {
        LinkOptions::from(self.session.clone())
            .name(name)
            .credentials(self.credentials.clone())
    }

    /// Returns a publisher. Entries that a producer of this name publishes again with the same sequences are
    /// stored once; `None` is a random name.
    ///
    /// # Errors
    ///
    /// If settings contradict each other.
    pub fn publisher(&self, producer: Option<&str>) -> Result<Publisher, BuildError> {
        let mut builder = Publisher::builder(self.dialer.clone())
            .link(self.link("gateway-publisher"))
            .transport_options(self.grpc.clone());
        if let Some(producer) = producer {
            builder = builder.producer(producer);
        }
        builder.build()
    }
}

impl fmt::Debug for UpstreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamOptions")
            .field("dialer", &self.dialer)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Upstream {
    /// Starts to connect.
    ///
    /// # Errors
    ///
    /// If settings contradict each other.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: UpstreamOptions) -> Result<Self, ConfigFaults> {
        options.session.clone().check()?;
        let upstream = Self(Arc::new(Inner {
            connections: OnceLock::new(),
            next: AtomicUsize::new(0),
            options,
        }));
        if !upstream.0.options.connects_at_first_use {
            upstream.connections();
        }
        Ok(upstream)
    }

    fn connections(&self) -> &Connections {
        self.0.connections.get_or_init(|| {
            let options = &self.0.options;
            let checked = "the settings were checked at the start";
            let mut limits = Limits::default();
            limits.messages = QUEUED_CHANGES;
            limits.bytes = QUEUED_BYTES;
            let client = |_| {
                let client = Client::builder(options.dialer.clone())
                    .client_id("steadfast-gateway")
                    .limits(limits)
                    .link(options.link("gateway"))
                    .transport_options(options.grpc.clone())
                    .build();
                client.expect(checked)
            };
            Connections {
                clients: (0..options.connections.max(1)).map(client).collect(),
                publisher: options.publisher(None).expect(checked),
            }
        })
    }

    /// Opens a subscription for a client, within its rights. The handle tells how it goes. Dropping it ends
    /// the subscription.
    #[must_use]
    pub fn open(&self, request: Request, peer: &Peer) -> Handle {
        Handle::new(self.clone(), request, peer)
    }

    /// Returns the publisher that all clients share. Whoever uses it has checked their rights.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.connections().publisher
    }

    /// Returns the settings, from which another publisher can be made.
    #[must_use]
    pub fn options(&self) -> &UpstreamOptions {
        &self.0.options
    }

    /// Returns the number of connections for subscriptions that are restored.
    #[must_use]
    pub fn connected(&self) -> usize {
        let clients = self.clients().iter();
        clients
            .filter(|client| client.status().state == State::Connected)
            .count()
    }

    /// Returns the reason of the state of the first connection that is not restored.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let mut clients = self.clients().iter().map(Client::status);
        let status = clients.find(|status| status.state != State::Connected)?;
        Some(status.cause.to_string())
    }

    /// Closes all connections, at most 2 s each, together.
    pub async fn close(&self) {
        let Some(connections) = self.0.connections.get() else {
            return;
        };
        let clients = connections.clients.iter().map(Client::close);
        join(join_all(clients), connections.publisher.close()).await;
    }

    /// Returns the clients that connect already.
    fn clients(&self) -> &[Client] {
        let connections = self.0.connections.get();
        connections.map_or(&[], |connections| &connections.clients)
    }

    fn client(&self) -> Client {
        let next = self.0.next.fetch_add(1, Relaxed);
        let clients = &self.connections().clients;
        clients[next % clients.len()].clone()
    }

    /// Subscribes at a Streamer, and waits for its response within the timeout.
    fn subscribe(
        &self,
        request: &Request,
        filter: steadfast_streamer::Filter,
    ) -> impl Future<Output = Result<Source, End>> + Send + 'static {
        let mut subscribe =
            self.client()
                .subscribe(&*request.database, &*request.collection, filter);
        if let Some(position) = request.from {
            subscribe = subscribe.after(position);
        }
        if request.left {
            subscribe = subscribe.with_left();
        }
        if request.snapshot {
            subscribe = subscribe.with_snapshot();
        }
        let order = request.window.clone();
        let limit = self.0.options.open_timeout;
        async move {
            let opened = async {
                match order {
                    None => subscribe.await.map(Source::Changes),
                    Some(order) => {
                        let ordered = subscribe.order_by(order.field, order.direction);
                        let window = ordered.limit(order.limit).await?;
                        Ok(Source::Window(Box::new(window)))
                    }
                }
            };
            let opened = timeout(limit, opened).await.map_err(|_| {
                let text = format!("no Streamer responded within {limit:?}");
                End::new(EndCode::Unavailable, text)
            })?;
            opened.map_err(|error| end_of(&error))
        }
    }
}

fn end_of(error: &SubscribeError) -> End {
    match error {
        SubscribeError::Refused(refusal) if refusal.permanent => {
            End::new(EndCode::Invalid, &*refusal.message)
        }
        SubscribeError::Refused(refusal) => End::new(EndCode::Unavailable, &*refusal.message),
        _ => End::new(EndCode::Unavailable, "the Streamer cannot be reached"),
    }
}
