//! How a client is made.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use steadfast::{
    LinkOptions,
    grpc::{Address, Grpc, InvalidAddress, Options},
    session::{ConfigFaults, Ready},
    transport::{Call, Transport},
};
use uuid::Uuid;

use super::{
    Client,
    registry::{Registry, Sink},
};
use steadfast_streamer_core::client::{self, Core, Limits};

/// How a client is made. Every setting has a default; what is wrong is told by [`Builder::build`].
pub struct Builder {
    address: String,
    client_id: String,
    limits: Limits,
    offer_profile: bool,
    options: Options,
    link: LinkOptions,
}

/// What is wrong with the settings of a client, or of a publisher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The session's settings; all faults at once.
    #[error("settings of the session: {0}")]
    Config(#[from] ConfigFaults),
}

impl Builder {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            client_id: format!("steadfast-{}", std::process::id()),
            limits: Limits::default(),
            offer_profile: true,
            options: Options::default(),
            link: LinkOptions::new(),
        }
    }

    /// Names this client to people; the gateway id of heartbeats. Default: `steadfast-` and the
    /// number of the process.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// Sets the options of the link: backoff, heartbeats, timeouts, the observer of its state. The
    /// ready level is always [`Ready::Restored`].
    #[must_use]
    pub fn link(mut self, options: impl Into<LinkOptions>) -> Self {
        self.link = options.into();
        self
    }

    /// Bounds on what waits for the application, over all subscriptions. Default 16,384 changes and
    /// 8 MiB.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the resume profile is offered. Default true; without it every server is a plain one.
    #[must_use]
    pub fn offer_profile(mut self, offer: bool) -> Self {
        self.offer_profile = offer;
        self
    }

    /// Settings of the connection.
    #[must_use]
    pub fn transport_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Starts the client on the current tokio runtime; it connects in the background.
    ///
    /// # Errors
    ///
    /// What is wrong with the address or the settings.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build(self) -> Result<Client, BuildError> {
        let address: Address = self.address.parse()?;
        let transport = Grpc::new(address).with_options(self.options.clone());
        Ok(self.build_on(transport)?)
    }

    /// As [`Builder::build`], on another transport; the address and the transport's options are not
    /// used.
    ///
    /// # Errors
    ///
    /// What is wrong with the settings.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn build_on<T: Transport>(
        self,
        transport: T,
    ) -> Result<Client<T::Connection>, ConfigFaults> {
        let session_id = Uuid::new_v4().simple().to_string();
        let core = Core::new(client::Config {
            heartbeat_interval: self.link.session_config().heartbeat_interval,
            activity_timeout: self.link.session_config().activity_timeout,
            limits: self.limits,
            offer_profile: self.offer_profile,
            ..client::Config::new(session_id, self.client_id, unix_ms())
        });
        let registry = Registry::new();
        let sink = Sink(std::sync::Arc::clone(&registry));
        let link = self.link.ready(Ready::Restored).spawn(
            Call::new(METHOD),
            transport,
            core,
            move |event| sink.on_event(event),
        )?;
        let client = Client::new(link, registry);
        client.start();
        Ok(client)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("address", &self.address)
            .field("client_id", &self.client_id)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// The wall clock, Unix milliseconds; only ever sent, for people and for round trips.
fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

const METHOD: &str = "/syntrix.streamer.v1.StreamerService/Stream";
