//! `steadfast streamer serve`.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use steadfast_gateway::{Gateway, GatewayOptions, UpstreamOptions};
use steadfast_streamer::{
    Epoch,
    log::{OpenError, SegmentLog, StoreOptions},
    server::{PullerOptions, Server, ServerOptions, operations::Operations},
};
use tokio::{net::TcpListener, select};
use tokio_util::sync::CancellationToken;

use crate::{
    child_process::{READY, parent_gone},
    clients::{ServerAddress, TlsArgs},
    config::policy_file,
    credentials::CredentialArgs,
    gateway,
    listen::{self, ListenTlsArgs},
    output,
    settings::{Given, Listen, Setting, Settings, Several, Size},
    signals::ignore_hangups,
};

/// Arguments of `streamer serve`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory of the log; created if missing
    #[arg(long, env, value_name = "DIR")]
    data: Option<Given<String>>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:9000]
    #[arg(long, env)]
    listen: Option<Given<Listen>>,
    /// Remove events that are older, like 7d [default: keep all]
    #[arg(long, env)]
    retain_age: Option<Given<Duration>>,
    /// Remove the oldest events beyond this size, like 4GiB [default: keep all]
    #[arg(long, env)]
    retain_size: Option<Given<Size>>,
    /// When a document is acknowledged: after its commit is synced (commit), or before, with a sync at
    /// an interval (every=100ms). A power failure then loses what was acknowledged in about that time
    /// [default: commit]
    #[arg(long, env, value_name = "MODE")]
    sync: Option<Given<Sync>>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Address of the listener for metrics, status and readiness, over HTTP; `off` for none [default:
    /// loopback, 80 ports above --listen]
    #[arg(long, env, value_name = "IP:PORT")]
    operations: Option<Given<AddressOrOff>>,
    /// Policy file: who may connect, and what they may do; read again when it changes [default: everybody
    /// may do everything]
    #[arg(long, env, value_name = "FILE")]
    access: Option<Given<String>>,
    /// Address of the listener for browsers: console, WebSocket, server-sent events and HTTP; `off` for none
    /// [default: loopback, 180 ports above --listen]
    #[arg(long, env, value_name = "IP:PORT")]
    gateway: Option<Given<AddressOrOff>>,
    /// Origin of pages that may connect to --gateway, beside its own; comma-separated or repeated
    #[arg(long, env, value_name = "ORIGIN")]
    allow_origin: Vec<Given<Several<String>>>,
    /// Take the changes of the Puller at this address
    #[arg(long, env, value_name = "ADDR")]
    puller: Option<Given<ServerAddress>>,
    /// Longest orderly stop [default: 10s]
    #[arg(long, env)]
    drain: Option<Given<Duration>>,
    /// Stop when standard input ends, so that a server does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    // The last ones, because the heading of a group also holds for what follows it.
    #[command(flatten, next_help_heading = "TLS of the listeners")]
    listeners: ListenTlsArgs,
    #[command(flatten, next_help_heading = "Connection to the Puller")]
    tls: TlsArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// Limits of the listener.
#[derive(clap::Args)]
struct LimitArgs {
    /// Open connections at most; further ones are closed at once [default: 65536]
    #[arg(long, env)]
    max_connections: Option<Given<usize>>,
    /// Open connections of one address, or of one /64 network of IPv6, at most [default: 32768]
    #[arg(long, env)]
    max_client_connections: Option<Given<usize>>,
    /// Time from the accept of a connection to its first call [default: 10s]
    #[arg(long, env)]
    first_request_timeout: Option<Given<Duration>>,
    /// Time without a call after which a connection is ended [default: 10m]
    #[arg(long, env)]
    idle_timeout: Option<Given<Duration>>,
    /// Time from the first byte of a message to its last [default: 30s]
    #[arg(long, env)]
    message_timeout: Option<Given<Duration>>,
    /// Open calls of one principal at most, with a policy [default: 5000]
    #[arg(long, env)]
    max_principal_calls: Option<Given<usize>>,
    /// Subscriptions of one principal at most, with a policy [default: 500000]
    #[arg(long, env)]
    max_principal_subscriptions: Option<Given<usize>>,
    /// Offer gRPC reflection to everyone who can connect
    #[arg(long, env)]
    reflection: Option<Given<bool>>,
}

impl LimitArgs {
    fn apply(self, options: &mut ServerOptions, settings: &mut Settings) {
        settings.set(&mut options.max_connections, self.max_connections);
        let per_client = self.max_client_connections;
        settings.set(&mut options.max_client_connections, per_client);
        let principals = &mut options.principals;
        settings.set(&mut principals.calls, self.max_principal_calls);
        let subscriptions = &mut options.limits.subscriptions_per_principal;
        settings.set(subscriptions, self.max_principal_subscriptions);
        for (setting, limit) in [
            ("max_connections", options.max_connections),
            ("max_client_connections", options.max_client_connections),
            ("max_principal_calls", options.principals.calls),
            (
                "max_principal_subscriptions",
                options.limits.subscriptions_per_principal,
            ),
        ] {
            if limit == 0 {
                let what = "it is 0, so that nobody could use the server; write a larger number";
                settings.unusable(setting, what.to_owned());
            }
        }
        let first = self.first_request_timeout;
        settings.set(&mut options.first_request_timeout, first);
        settings.set(&mut options.idle_timeout, self.idle_timeout);
        settings.set(&mut options.unfinished.timeout, self.message_timeout);
        settings.set(&mut options.reflection, self.reflection);
    }
}

/// The interval of syncs; with `None` each commit is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sync(Option<Duration>);

/// The longest interval that a person can mean.
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(60);

impl Setting for Sync {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "commit" {
            return Ok(Self(None));
        }
        let wanted = || format!("{text:?} is not a mode; write commit, or every=100ms");
        let interval = Duration::from_text(text.strip_prefix("every=").ok_or_else(wanted)?)?;
        if interval.is_zero() || interval > SYNC_INTERVAL_MAX {
            return Err(format!(
                "{text:?} is not from 1ns to 60s; write commit, or every=100ms"
            ));
        }
        Ok(Self(Some(interval)))
    }
}

/// The address of a listener beside that of the server; `None` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddressOrOff(Option<SocketAddr>);

impl Setting for AddressOrOff {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let listen = Listen::from_text(text).map_err(|what| format!("{what}; or write off"))?;
        Ok(Self(Some(listen.0)))
    }
}

/// The distance of the default port of the listener for operations from that of the server: 9080 for
/// 9000.
const OPERATIONS_DISTANCE: u16 = 80;
/// That of the listener for browsers: 9180.
const GATEWAY_DISTANCE: u16 = 180;

/// Exit statuses of a start that fails, beside 1 for all else and 2 for settings. A supervisor need not
/// restart the server after 2, 3 and 4 (docs/operations.md).
mod exit {
    /// The log is damaged.
    pub(super) const DAMAGED: u8 = 3;
    /// Another version wrote the log.
    pub(super) const FORMAT: u8 = 4;
    /// The directory cannot be used.
    pub(super) const DIRECTORY: u8 = 5;
    /// The address cannot be listened on.
    pub(super) const ADDRESS: u8 = 6;
}

const EXAMPLES: &str =
    "Prints `ready IP:PORT` when it accepts connections, then `operations IP:PORT`, and `open URL` for a
browser. SIGTERM and ctrl-c drain it.

Exit status: 0 after a drain, 1 if the server failed, 2 if a flag or setting is wrong, 3 if the log is
damaged, 4 if another version wrote it, 5 if its directory cannot be used, 6 if an address cannot be
listened on.

Examples:
  steadfast streamer serve --data ./data
  steadfast streamer serve --data /var/lib/steadfast --listen 0.0.0.0:9000 --retain-age 7d \\
      --tls-cert server.pem --tls-key server.key
  steadfast streamer serve --data ./data --access access.toml
  steadfast streamer serve --data ./copy --listen 127.0.0.1:9001 --puller 127.0.0.1:9000";

/// Serves until interrupted; then drains.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let data = settings.require("data", args.data);
    let here = Listen((Ipv4Addr::LOCALHOST, 9000).into());
    let Listen(listen) = settings.get_or(args.listen, here);
    let drain = settings.get_or(args.drain, Duration::from_secs(10));
    let mut store = StoreOptions::new(Epoch(uuid::Uuid::new_v4().as_u64_pair().0));
    store.retention_age = settings.get(args.retain_age);
    store.sync_interval = settings.get(args.sync).and_then(|Sync(interval)| interval);
    store.retention_bytes = settings.get(args.retain_size).map(|Size(bytes)| bytes);
    let mut options = ServerOptions::default();
    args.limits.apply(&mut options, &mut settings);
    options.access = policy_file(args.access, &mut settings);
    options.security = args.listeners.security(&mut settings);
    let operations = settings.get(args.operations);
    let gateway = settings.get(args.gateway);
    let mut listeners = vec![("listen", listen)];
    for (id, given) in [("operations", operations), ("gateway", gateway)] {
        if let Some(AddressOrOff(Some(address))) = given {
            listeners.push((id, address));
        }
    }
    let allow_origins = settings.several(args.allow_origin).unwrap_or_default();
    listen::check(&options.security, &listeners, &mut settings);
    // Read without a Puller as well, so that an invalid setting is a fault in any case.
    let credentials = args.credentials.into_credentials(&mut settings);
    if let Some(puller) = settings.get(args.puller) {
        let dialer = args
            .tls
            .apply(puller, b"h2", "puller", &credentials, &mut settings);
        let mut puller = PullerOptions::new(dialer);
        puller.credentials = credentials;
        options.puller = Some(puller);
    }
    settings.finish()?;
    ignore_hangups()?;
    let data = PathBuf::from(data.expect("a missing directory is among the faults"));

    // A taken port is found before the log is opened, which takes long after a crash.
    let listener = bind(listen, "--listen").await?;
    let operations = beside(operations, listen, OPERATIONS_DISTANCE, "--operations").await?;
    let operations = operations.map(|tcp| Operations::start(tcp, options.security.clone()));
    let operations = operations.transpose()?;
    let gateway = beside(gateway, listen, GATEWAY_DISTANCE, "--gateway").await?;
    options.local = gateway.is_some();
    let log = tokio::task::spawn_blocking(move || SegmentLog::open(&data, &store))
        .await
        .context("open the log")?
        .map_err(unusable_log)?;
    let (access, security) = (options.access.clone(), options.security.clone());
    let mut server = Server::start(listener, Box::new(log), options)?;
    let status = operations.as_ref().map(Operations::status_reader);
    let gateway = gateway.map(|listener| {
        start_gateway(listener, &server, |options| {
            options.access = access;
            options.allow_origins = allow_origins;
            options.streamer_status = status.map(Into::into);
            options.security = security.clone();
        })
    });
    let gateway = gateway.transpose()?;
    if let Some(operations) = &operations {
        operations.show(&server);
    }
    // Only now: a parent process connects as soon as it reads this line.
    output::line(&format!("{READY}{}", server.address()))?;
    if let Some(operations) = &operations {
        // Whoever waits for the first line may read no other one.
        output::line(&format!("operations {}", operations.address())).ok();
    }
    if let Some(gateway) = &gateway {
        let url = gateway::url(gateway.address(), security.tls.is_some());
        output::line(&format!("open {url}")).ok();
    }
    let reason = select! {
        () = stop.cancelled() => "the operator stops the server",
        () = parent_gone(args.stop_with_stdin) => "the parent process ended",
        failure = server.failed() => bail!("the server stopped: {failure}"),
    };
    output::note(&format!("draining: {reason}"));
    // First its clients, which are told when to come back; then there are fewer streams to serve.
    if let Some(gateway) = gateway {
        gateway.drain(drain).await;
    }
    // The listener for operations stays until the end: `/readyz` says that the server drains.
    server.drain(drain, reason).await.context("close the log")?;
    if let Some(operations) = operations {
        operations.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a gateway in front of a server of this process.
fn start_gateway(
    listener: TcpListener,
    server: &Server,
    change: impl FnOnce(&mut GatewayOptions),
) -> anyhow::Result<Gateway> {
    let local = server.local().context("the server has no local listener")?;
    let mut upstream = UpstreamOptions::new(local.dialer());
    upstream.credentials = local.credentials();
    // Most servers of this kind have no browser.
    upstream.connects_at_first_use = true;
    let mut options = GatewayOptions::new(upstream);
    change(&mut options);
    Ok(Gateway::start(listener, options)?)
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = gateway::bind(address, flag).await;
    bound.map_err(|error| output::with_status(exit::ADDRESS, error))
}

/// Returns a listener beside that of the server, before the log is opened. A default address that is taken is
/// only a warning: nobody asked for it.
async fn beside(
    given: Option<AddressOrOff>,
    listen: SocketAddr,
    distance: u16,
    flag: &str,
) -> anyhow::Result<Option<TcpListener>> {
    match given {
        Some(AddressOrOff(None)) => Ok(None),
        Some(AddressOrOff(Some(address))) => bind(address, flag).await.map(Some),
        None => {
            let port = match listen.port() {
                0 => 0,
                port => port.checked_add(distance).unwrap_or(0),
            };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let listener = TcpListener::bind(address).await;
            if let Err(error) = &listener {
                tracing::warn!(%address, %error, "no second listener; choose its address with {flag}");
            }
            Ok(listener.ok())
        }
    }
}

/// Returns the error of a log that cannot be opened, with what to do and its exit status.
fn unusable_log(error: OpenError) -> anyhow::Error {
    let status = match &error {
        OpenError::Damaged { .. } => exit::DAMAGED,
        OpenError::Format { .. } | OpenError::Unconverted { .. } => exit::FORMAT,
        _ => exit::DIRECTORY,
    };
    let error = match error {
        OpenError::Directory { ref source, .. } if source.kind() == ErrorKind::StorageFull => {
            anyhow::Error::new(error).context("the disk is full; free space on it")
        }
        OpenError::Directory { .. } => output::advised(&error.into(), "--data"),
        OpenError::Damaged { .. } => anyhow::Error::new(error).context(
            "the log cannot be opened; `steadfast streamer log verify` shows what is damaged",
        ),
        error => error.into(),
    };
    output::with_status(status, error)
}
