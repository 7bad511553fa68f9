//! The Streamer's clients as the commands use them: settings in, connection events and items out.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use steadfast::{
    CallCredentials, LinkOptions,
    dial::{Dialer, InvalidAddress, Proxies},
    grpc,
    session::{Cause, Config, State, Status},
    tls::TlsOptions,
};
pub(crate) use steadfast_streamer::client::{Change, Item, LiveWindow, Subscription};
use steadfast_streamer::{
    Direction, Operation,
    client::Client,
    filter::{FieldPath, Filter},
    publisher::{self, Entry, PublishError, Published},
};

use tokio::{select, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    credentials::CredentialArgs,
    document::Document,
    settings::{Given, Setting, Settings, Size},
    streamer::start::Start,
};

/// The way to a server, and the timeouts of a session with it.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    dialer: Dialer,
    config: Config,
    grpc: grpc::Options,
    credentials: CallCredentials,
}

/// The addresses of a server, or of several that can stand in for each other.
#[derive(Clone)]
pub(crate) struct ServerAddress(pub(crate) Dialer);

/// Arguments of the commands that connect to a server: TLS, and the proxy on the way.
#[derive(Clone, clap::Args)]
pub(crate) struct TlsArgs {
    /// CA certificates, PEM, that the server's certificate must come from; asks for TLS [default: those
    /// of the system]
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    ca: Option<Given<String>>,
    /// Certificate of this client, PEM; asks for TLS, requires --key. Changed files are read again
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    cert: Option<Given<String>>,
    /// Private key of --cert, PEM
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    key: Option<Given<String>>,
    /// Revocation lists of the authorities, PEM; asks for TLS. Every certificate below the root must be
    /// covered by one that has not expired. A changed file is read again
    #[arg(long, env, value_name = "FILE", hide_short_help = true)]
    crl: Option<Given<String>>,
    /// Name that the server's certificate must have; asks for TLS [default: the host of the address]
    #[arg(long, env, value_name = "NAME", hide_short_help = true)]
    server_name: Option<Given<String>>,
    #[arg(long, env, help = DIRECT_HELP, hide_short_help = true)]
    direct: Option<Given<bool>>,
}

const DIRECT_HELP: &str = "Connect directly, whatever HTTPS_PROXY, ALL_PROXY and NO_PROXY say";
const ADDR_HELP: &str = "Address of the server, also as https://HOST or unix:/PATH; several with commas \
                         between them stand in for each other [default: 127.0.0.1:9000]";

/// Arguments of the commands that connect to a server.
#[derive(Clone, clap::Args)]
pub(crate) struct DialArgs {
    #[arg(long, env, help = ADDR_HELP, value_name = "HOST:PORT")]
    addr: Option<Given<ServerAddress>>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Heartbeat interval; 0s sends none [default: 30s]
    #[arg(long, env, hide_short_help = true)]
    heartbeat: Option<Given<Duration>>,
    /// Time without a message after which the connection is replaced; 0s is never [default: 90s]
    #[arg(long, env, hide_short_help = true)]
    activity_timeout: Option<Given<Duration>>,
    /// Delay before the first attempt after a loss [default: 1s]
    #[arg(long, env, hide_short_help = true)]
    initial_backoff: Option<Given<Duration>>,
    /// Longest delay between attempts [default: 30s]
    #[arg(long, env, hide_short_help = true)]
    max_backoff: Option<Given<Duration>>,
    /// Give up after this number of failed attempts in a row; 0 is never [default: 0]
    #[arg(long, env, hide_short_help = true)]
    max_retries: Option<Given<u32>>,
    /// Largest message to receive; a larger one ends the stream [default: 4MiB]
    #[arg(long, env, hide_short_help = true)]
    max_message_bytes: Option<Given<Size>>,
}

/// Longest wait for outstanding responses after an interrupt.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A change of a session's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionEvent {
    Connected,
    Lost { reason: String },
}

/// The server's response to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishOutcome {
    /// The entry is durable.
    Durable(Published),
    /// The entry is not in the log and never will be.
    Refused(String),
}

impl Setting for ServerAddress {
    fn from_text(text: &str) -> Result<Self, String> {
        let parsed = text.parse();
        parsed
            .map(Self)
            .map_err(|invalid: InvalidAddress| invalid.to_string())
    }
}

impl ServerAddress {
    /// Returns the address of a server on this machine, written in the program.
    pub(crate) fn local(text: &str) -> Self {
        Self(text.parse().expect("a default is an address"))
    }
}

impl TlsArgs {
    /// Returns the way to servers that speak `protocol` (ALPN), with TLS if a setting asks for it. The
    /// setting `id` has the addresses. Warns if they receive a token of `credentials` that others can read.
    pub(crate) fn apply(
        self,
        address: ServerAddress,
        protocol: &[u8],
        id: &str,
        credentials: &CallCredentials,
        settings: &mut Settings,
    ) -> Dialer {
        let dialer = self.dialer(address, protocol, id, settings);
        if let Some(warning) = warning(&dialer, credentials) {
            tracing::warn!("{warning}");
        }
        dialer
    }

    fn dialer(
        self,
        ServerAddress(mut dialer): ServerAddress,
        protocol: &[u8],
        id: &str,
        settings: &mut Settings,
    ) -> Dialer {
        let mut tls = TlsOptions::default();
        tls.ca_file = settings.get(self.ca).map(Into::into);
        tls.cert_file = settings.get(self.cert).map(Into::into);
        tls.key_file = settings.get(self.key).map(Into::into);
        tls.crl_file = settings.get(self.crl).map(Into::into);
        tls.server_name = settings.get(self.server_name);
        if settings.get_or(self.direct, false) {
            dialer = dialer.proxies(Proxies::none());
        }
        if tls == TlsOptions::default() {
            return dialer;
        }
        let plain = dialer.fixed_servers().iter();
        if let Some(plain) = plain.clone().find(|server| server.is_plain_text()) {
            let what =
                format!("{plain} is plain text, and other settings ask for TLS; write https://");
            settings.unusable(id, what);
        }
        match tls.load(&[protocol]) {
            Ok(tls) => dialer.tls(tls),
            Err(error) => {
                settings.fault("settings of TLS", error.to_string());
                dialer
            }
        }
    }
}

/// Returns the warning of a token that is sent in plain text to another machine.
fn warning(dialer: &Dialer, credentials: &CallCredentials) -> Option<String> {
    let server = dialer.unencrypted_server()?;
    credentials.has_token().then(|| {
        format!("credentials are sent to {server} without encryption; write https:// or give --ca")
    })
}

impl Dial {
    pub(crate) fn from_settings(args: DialArgs, settings: &mut Settings) -> Self {
        let mut config = Config::default();
        // Zero is how a person writes "never".
        let unless_zero = |duration: Duration| Some(duration).filter(|d| !d.is_zero());
        if let Some(interval) = settings.get(args.heartbeat) {
            config.heartbeat_interval = unless_zero(interval);
        }
        if let Some(timeout) = settings.get(args.activity_timeout) {
            config.activity_timeout = unless_zero(timeout);
        }
        settings.set(&mut config.initial_backoff, args.initial_backoff);
        settings.set(&mut config.max_backoff, args.max_backoff);
        config.max_retries = settings.get_or(args.max_retries, 0);
        // The checks compare settings with each other, so that they come after all of them.
        if let Err(faults) = config.clone().check() {
            for fault in faults.faults() {
                settings.fault("settings of the connection", fault.to_string());
            }
        }
        let addr = settings.get(args.addr);
        let addr = addr.unwrap_or_else(|| ServerAddress::local("127.0.0.1:9000"));
        let credentials = args.credentials.into_credentials(settings);
        let dialer = args.tls.apply(addr, b"h2", "addr", &credentials, settings);
        let mut grpc = grpc::Options::default();
        if let Some(Size(bytes)) = settings.get(args.max_message_bytes) {
            grpc.max_message_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        Self {
            dialer,
            config,
            grpc,
            credentials,
        }
    }

    /// Returns settings for demonstrations: a dead connection is noticed after 1 s, not after 90 s.
    pub(crate) fn with_short_timeouts(addr: SocketAddr) -> Self {
        let mut config = Config::default();
        config.heartbeat_interval = Some(Duration::from_millis(300));
        config.activity_timeout = Some(Duration::from_secs(1));
        config.initial_backoff = Duration::from_millis(100);
        config.max_backoff = Duration::from_secs(1);
        config.stable_after = Duration::from_secs(1);
        Self {
            dialer: Dialer::new([addr.into()]),
            config,
            grpc: grpc::Options::default(),
            credentials: CallCredentials::default(),
        }
    }

    fn link(&self) -> LinkOptions {
        LinkOptions::from(self.config.clone()).credentials(self.credentials.clone())
    }

    /// Sets the delay before the first attempt after a loss, and the longest one.
    pub(crate) fn with_backoff(mut self, initial: Duration, max: Duration) -> Self {
        (self.config.initial_backoff, self.config.max_backoff) = (initial, max);
        self
    }
}

/// A client that subscribes.
#[derive(Debug)]
pub(crate) struct Subscriber {
    client: Client,
    _events: AbortOnDropHandle<()>,
}

/// The beginning of a subscription, and what it tells beside changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begin {
    /// Where it begins.
    pub(crate) start: Start,
    /// The documents that exist, first.
    pub(crate) snapshot: bool,
    /// The documents that leave the filter.
    pub(crate) left: bool,
}

/// A client that publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    publisher: publisher::Publisher,
    _events: AbortOnDropHandle<()>,
}

/// An entry on its way to the server.
#[derive(Debug)]
pub(crate) struct Pending(publisher::Pending);

impl Subscriber {
    /// Starts to connect. The observer sees each change of the connection.
    pub(crate) fn open(
        dial: &Dial,
        observer: impl FnMut(ConnectionEvent) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let client = Client::builder(dial.dialer.clone())
            .link(dial.link())
            .transport_options(dial.grpc.clone())
            .build()?;
        let events = follow(client.watch(), observer);
        Ok(Self {
            client,
            _events: events,
        })
    }

    /// Resolves when a server has acknowledged the subscription, however long that takes.
    pub(crate) async fn subscribe(
        &self,
        database: &str,
        collection: &str,
        filter: Filter,
        begin: Begin,
    ) -> anyhow::Result<Subscription> {
        let mut subscribe = self.client.subscribe(database, collection, filter);
        subscribe = match begin.start {
            Start::Now => subscribe,
            Start::Oldest => subscribe.since_oldest(),
            Start::After(position) => subscribe.after(position),
            Start::Since(time) => subscribe.since(time),
        };
        if begin.left {
            subscribe = subscribe.with_left();
        }
        if begin.snapshot {
            subscribe = subscribe.with_snapshot();
        }
        let subscription = subscribe.await;
        subscription.with_context(|| format!("cannot subscribe to {database}/{collection}"))
    }

    /// Resolves when a server has acknowledged a window onto the first documents, however long that takes.
    pub(crate) async fn window(
        &self,
        (database, collection): (&str, &str),
        filter: Filter,
        (field, direction): (FieldPath, Direction),
        limit: u32,
    ) -> anyhow::Result<LiveWindow> {
        let subscribe = self.client.subscribe(database, collection, filter);
        let window = subscribe.order_by(field, direction).limit(limit).await;
        window.with_context(|| format!("cannot subscribe to {database}/{collection}"))
    }

    /// Resolves with the reason when an attempt fails.
    pub(crate) fn first_failure(&self) -> impl Future<Output = String> + use<> {
        first_failure(self.client.watch())
    }

    pub(crate) async fn close(self) {
        self.client.close().await;
    }
}

impl Publisher {
    /// Starts to connect. The observer sees each change of the connection. Entries are numbered from
    /// `first` on, so a producer that publishes the same entries again adds nothing to the log.
    pub(crate) fn open(
        dial: &Dial,
        producer: &str,
        first: u64,
        observer: impl FnMut(ConnectionEvent) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let builder = publisher::Publisher::builder(dial.dialer.clone()).producer(producer);
        let publisher = builder
            .first_sequence(first)
            .link(dial.link())
            .transport_options(dial.grpc.clone())
            .build()?;
        let events = follow(publisher.watch(), observer);
        Ok(Self {
            publisher,
            _events: events,
        })
    }

    /// Waits for the server's greeting and returns the number of this producer's entries in the log.
    pub(crate) async fn greeted(&self) -> anyhow::Result<u64> {
        let mut status = self.publisher.watch();
        // Reached by a refusal for good or after `--max-retries`; otherwise a late server is waited
        // for.
        let gave_up = status.wait_for(|status| {
            status.state == State::Disconnected && matches!(status.cause, Cause::Ended(_))
        });
        select! {
            known = self.publisher.last_sequence() => Ok(known.unwrap_or_default()),
            status = gave_up => match status {
                Ok(status) => bail!("cannot connect: {}", status.cause),
                Err(_closed) => bail!("the publisher is closed"),
            },
        }
    }

    /// Returns true while a server is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.publisher.status().state == State::Connected
    }

    /// Subscribes to the state of its stream.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.publisher.watch()
    }

    /// Enqueues a document; waits only while the queue is full. Cancel safe: if dropped before it is
    /// ready, the document is not published.
    pub(crate) async fn publish(
        &self,
        database: &str,
        collection: &str,
        document: &Document,
    ) -> anyhow::Result<Pending> {
        let id = document.id.as_str();
        let mut entry = match document.op {
            Some(Operation::Delete) => Entry::delete(database, collection, id),
            None | Some(Operation::Insert | Operation::Update) => {
                Entry::upsert(database, collection, id, document.data.clone())
            }
        };
        entry.operation = document.op;
        Ok(Pending(self.publisher.enqueue(entry).await?))
    }

    /// Resolves with the reason when an attempt fails.
    pub(crate) fn first_failure(&self) -> impl Future<Output = String> + use<> {
        first_failure(self.publisher.watch())
    }

    pub(crate) async fn close(self) {
        self.publisher.close().await;
    }
}

impl Pending {
    /// Resolves when the server has responded.
    pub(crate) async fn outcome(self) -> anyhow::Result<PublishOutcome> {
        match self.0.await {
            Ok(published) => Ok(PublishOutcome::Durable(published)),
            Err(PublishError::Refused { message, .. }) => Ok(PublishOutcome::Refused(message)),
            Err(error) => Err(error.into()),
        }
    }
}

async fn first_failure(mut status: watch::Receiver<Status>) -> String {
    match status.wait_for(|status| status.failed_attempts > 0).await {
        Ok(status) => status.cause.to_string(),
        // A closed client fails no more. Whoever closed it waits for something else.
        Err(_closed) => std::future::pending().await,
    }
}

/// Reports each change of the connection once.
fn follow(
    mut status: watch::Receiver<Status>,
    mut observer: impl FnMut(ConnectionEvent) + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        // A status carries the newest 64 transitions, far more than happen between two wake-ups.
        let mut reported = 0;
        loop {
            // Cloned: a borrow held while the observer runs would block the session.
            let recent = status.borrow_and_update().recent.clone();
            for transition in recent.iter() {
                if transition.number <= reported {
                    continue;
                }
                reported = transition.number;
                if transition.to == State::Connected {
                    observer(ConnectionEvent::Connected);
                } else if transition.from == State::Connected
                    && transition.cause != Cause::Requested
                {
                    observer(ConnectionEvent::Lost {
                        reason: transition.cause.to_string(),
                    });
                }
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use steadfast::{BearerFile, Metadata};

    use super::*;

    #[test]
    fn token_in_plain_text_to_another_machine_causes_a_warning() {
        let plain: Dialer = "db:9000".parse().unwrap();
        let local: Dialer = "localhost:9000".parse().unwrap();
        let token = CallCredentials::from(BearerFile::new("token"));
        let metadata = |name| CallCredentials::from(Metadata::new().with(name, "x").unwrap());
        let text =
            "credentials are sent to db:9000 without encryption; write https:// or give --ca";
        assert_eq!(warning(&plain, &token).unwrap(), text);
        assert_eq!(warning(&plain, &metadata("authorization")).unwrap(), text);
        assert_eq!(warning(&plain, &metadata("tenant")), None);
        assert_eq!(warning(&local, &token), None);
    }
}
