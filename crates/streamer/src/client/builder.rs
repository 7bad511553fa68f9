//! The builder of a client.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use steadfast::{
    LinkOptions, RenewalRequests,
    dial::{InvalidAddress, Servers},
    grpc::{Grpc, Options},
    session::{Advice, ConfigFaults, End, Liveness, Ready, Reason},
    transport::{Call, Transport},
};
use uuid::Uuid;

use super::{
    Client,
    registry::{Registry, Sink},
};
use steadfast_streamer_core::client::{self, Core, Limits, SessionSecret};

/// Builds a [`Client`]. Every setting has a default; [`Builder::build`] checks them.
///
/// ```no_run
/// use steadfast::LinkOptions;
/// use steadfast_streamer::Client;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let link = LinkOptions::new().on_state_change(|event| println!("{event}"));
/// let client = Client::builder("127.0.0.1:9000")
///     .client_id("billing-7")
///     .max_message_bytes(16 << 20)
///     .link(link)
///     .build()?;
/// # client.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Builder {
    servers: Servers,
    client_id: String,
    limits: Limits,
    offer_profile: bool,
    options: Options,
    link: LinkOptions,
}

/// The error of invalid settings of a client or a publisher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address is invalid.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// Settings of the session are invalid; all of them are listed.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
}

impl Builder {
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            servers,
            client_id: format!("steadfast-{}", std::process::id()),
            limits: Limits::default(),
            offer_profile: true,
            options: Options::default(),
            link: LinkOptions::new(),
        }
    }

    /// Sets the name of this client for people, which is also the gateway id of its heartbeats.
    /// Default: `steadfast-` and the process id.
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

    /// Sets the bounds on queued changes, over all subscriptions. Default 16,384 changes and 8 MiB.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Offers the resume profile, or not. Default true; without it every server is a plain one.
    #[must_use]
    pub fn offer_profile(mut self, offer: bool) -> Self {
        self.offer_profile = offer;
        self
    }

    /// Sets the options of the connection.
    #[must_use]
    pub fn transport_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets the largest message to receive, in bytes. Default 4 MiB.
    ///
    /// A larger one ends the stream. A server without the resume profile then continues behind it,
    /// and each subscription yields a gap. A server with the profile would send it again, so that
    /// the client stops after the third time.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.options.max_message_bytes = bytes;
        self
    }

    /// Starts the client on the current tokio runtime; it connects in the background.
    ///
    /// # Errors
    ///
    /// Returns an error if the address or a setting is invalid.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn build(self) -> Result<Client, BuildError> {
        let transport =
            Grpc::with_dialer(self.servers.dialer()?).with_options(self.options.clone());
        Ok(self.build_on(transport)?)
    }

    /// Starts the client on another transport, without the address and the options of the connection.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is invalid.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn build_on<T: Transport>(
        self,
        transport: T,
    ) -> Result<Client<T::Connection>, ConfigFaults> {
        // Unguessable: whoever knows it can take over the subscriptions.
        let session_id = Uuid::new_v4().simple().to_string();
        let mut core = client::Config::new(session_id, self.client_id, unix_ms(SystemTime::now()));
        core.secret = SessionSecret(Uuid::new_v4().as_bytes().to_vec());
        core.limits = self.limits;
        core.offer_profile = self.offer_profile;
        let link = self.link.configure(|config| {
            config.ready = Ready::Restored;
            if config.heartbeat_interval.is_none() && config.activity_timeout.is_some() {
                // Without heartbeats a healthy server may be silent for longer than the timeout, and
                // a plain one always is, so that the session asks for a sign of life.
                config.liveness = Liveness::Probed;
            }
            core.heartbeat_interval = config.heartbeat_interval;
            core.activity_timeout = config.activity_timeout;
        });
        let registry = Registry::new();
        let (renewals, renewer) = RenewalRequests::new();
        let sink = Sink(Arc::clone(&registry), renewals);
        let credentials = link.call_credentials().clone();
        let link = link
            .default_name("streamer")
            // The application's own policy comes first.
            .default_retry_policy(retry_policy)
            .spawn(
                Call::new(METHOD),
                transport,
                Core::new(core),
                move |event| {
                    sink.on_event(event);
                },
            )?;
        tokio::spawn(link.renew_credentials(renewer, credentials, client::Command::Authenticate));
        let client = Client::new(link, registry);
        client.start();
        Ok(client)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("servers", &self.servers)
            .field("client_id", &self.client_id)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// Retries after a message that exceeded the limit: the core knows whether it is sent again.
fn retry_policy(end: &End) -> Option<Advice> {
    matches!(end.reason, Reason::MessageTooLarge(_)).then_some(Advice::Retry)
}

/// Returns a time in Unix milliseconds; 0 for one before 1970, when no event was committed. Heartbeats
/// carry the wall clock, and nothing depends on it.
pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

const METHOD: &str = "/syntrix.streamer.v1.StreamerService/Stream";
