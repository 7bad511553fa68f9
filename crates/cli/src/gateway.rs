//! `steadfast gateway`: WebSocket, server-sent events and HTTP in front of Streamers.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use steadfast_gateway::{Gateway, GatewayOptions, Operations, StreamerStatus, UpstreamOptions};
use tokio::{net::TcpListener, select};
use tokio_util::sync::CancellationToken;

use crate::{
    child_process::{READY, parent_gone},
    clients::{ServerAddress, TlsArgs},
    config::policy_file,
    credentials::CredentialArgs,
    listen::{self, ListenTlsArgs},
    operations::{self, HttpAddress},
    output,
    settings::{Given, Listen, Settings, Several},
    signals::ignore_hangups,
};

/// Arguments of `gateway`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[arg(long, env, help = STREAMER_HELP, value_name = "HOST:PORT")]
    streamer: Option<Given<ServerAddress>>,
    /// Address of the Streamer's listener for operations, whose figures the console shows [default: none]
    #[arg(long, env, value_name = "HOST:PORT")]
    streamer_operations: Option<Given<HttpAddress>>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env)]
    listen: Option<Given<Listen>>,
    /// Address of the listener for metrics and readiness, over HTTP [default: none]
    #[arg(long, env)]
    operations: Option<Given<Listen>>,
    /// Policy file: who clients are, and what they may see; read again when it changes [default: everybody
    /// may do everything]
    #[arg(long, env, value_name = "FILE")]
    access: Option<Given<String>>,
    /// Origin of pages that may connect, beside that of the gateway; comma-separated or repeated. Ports are
    /// not compared
    #[arg(long, env, value_name = "ORIGIN")]
    allow_origin: Vec<Given<Several<String>>>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Compress what is sent to clients of the protocol steadfast.v1 that offer it
    #[arg(long, env)]
    compress: Option<Given<bool>>,
    /// Serve the console and the JavaScript client [default: true]
    #[arg(long, env)]
    console: Option<Given<bool>>,
    /// Time after which a silent socket is looked at [default: 25s]
    #[arg(long, env)]
    socket_heartbeat: Option<Given<Duration>>,
    /// Longest orderly stop [default: 10s]
    #[arg(long, env)]
    drain: Option<Given<Duration>>,
    /// Stop when standard input ends, so that a gateway does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    // The last ones, because the heading of a group also holds for what follows it.
    #[command(flatten, next_help_heading = "TLS of the listeners")]
    listeners: ListenTlsArgs,
    #[command(flatten, next_help_heading = "Connection to the Streamer")]
    tls: TlsArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// Limits on clients.
#[derive(clap::Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
struct LimitArgs {
    /// Open connections at most; further ones are closed at once [default: 65536]
    #[arg(long, env)]
    max_connections: Option<Given<usize>>,
    /// Open connections of one address, or of one /64 network of IPv6, at most [default: 32768]
    #[arg(long, env)]
    max_client_connections: Option<Given<usize>>,
    /// Sockets of one principal at most [default: 16384]
    #[arg(long, env)]
    max_principal_sockets: Option<Given<usize>>,
    /// Subscriptions of one socket at most [default: 256]
    #[arg(long, env)]
    max_socket_subscriptions: Option<Given<usize>>,
    /// Subscriptions of one principal at most, or of one address without a policy [default: 65536]
    #[arg(long, env)]
    max_principal_subscriptions: Option<Given<usize>>,
}

const STREAMER_HELP: &str = "Address of the Streamer, also as https://HOST or unix:/PATH; several with \
                             commas between them stand in for each other [default: 127.0.0.1:9000]";
const EXAMPLES: &str = "Prints `ready IP:PORT` when it accepts connections, then `open URL`. SIGTERM and ctrl-c drain it.

Examples:
  steadfast gateway --streamer 127.0.0.1:9000
  steadfast gateway --streamer a:9000,b:9000 --listen 0.0.0.0:443 --access access.toml \\
      --allow-origin https://app.example --tls-cert server.pem --tls-key server.key";

impl LimitArgs {
    fn apply(self, options: &mut GatewayOptions, settings: &mut Settings) {
        let limits = &mut options.limits;
        for (id, field, given) in [
            (
                "max_connections",
                &mut limits.connections,
                self.max_connections,
            ),
            (
                "max_client_connections",
                &mut limits.client_connections,
                self.max_client_connections,
            ),
            (
                "max_principal_sockets",
                &mut limits.sockets_per_principal,
                self.max_principal_sockets,
            ),
            (
                "max_socket_subscriptions",
                &mut limits.subscriptions_per_socket,
                self.max_socket_subscriptions,
            ),
            (
                "max_principal_subscriptions",
                &mut limits.subscriptions_per_principal,
                self.max_principal_subscriptions,
            ),
        ] {
            settings.set(field, given);
            if *field == 0 {
                let what = "it is 0, so that nobody could connect; write a larger number";
                settings.unusable(id, what.to_owned());
            }
        }
    }
}

/// Serves until interrupted; then drains.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let streamer = settings.get(args.streamer);
    let streamer = streamer.unwrap_or_else(|| ServerAddress::local("127.0.0.1:9000"));
    let here = Listen((Ipv4Addr::LOCALHOST, 8080).into());
    let Listen(listen) = settings.get_or(args.listen, here);
    let operations = settings.get(args.operations).map(|Listen(address)| address);
    let drain = settings.get_or(args.drain, Duration::from_secs(10));
    let credentials = args.credentials.into_credentials(&mut settings);
    let status = settings.get(args.streamer_operations).map(|address| {
        let (tls, credentials) = (args.tls.clone(), credentials.clone());
        let id = "streamer_operations";
        operations::Operations::new(address, id, tls, credentials, &mut settings)
    });
    let dialer = args
        .tls
        .apply(streamer, b"h2", "streamer", &credentials, &mut settings);
    let mut upstream = UpstreamOptions::new(dialer);
    upstream.credentials = credentials;
    let mut options = GatewayOptions::new(upstream);
    options.streamer_status = status.map(streamer_status);
    args.limits.apply(&mut options, &mut settings);
    options.access = policy_file(args.access, &mut settings);
    options.allow_origins = settings.several(args.allow_origin).unwrap_or_default();
    settings.set(&mut options.compress, args.compress);
    settings.set(&mut options.console, args.console);
    settings.set(&mut options.heartbeat, args.socket_heartbeat);
    if options.heartbeat < SHORTEST_HEARTBEAT {
        let what = format!("it is shorter than {SHORTEST_HEARTBEAT:?}; write a longer time");
        settings.unusable("socket_heartbeat", what);
    }
    options.security = args.listeners.security(&mut settings);
    let mut listeners = vec![("listen", listen)];
    listeners.extend(operations.map(|address| ("operations", address)));
    listen::check(&options.security, &listeners, &mut settings);
    settings.finish()?;
    ignore_hangups()?;

    let security = options.security.clone();
    let mut gateway = Gateway::start(bind(listen, "--listen").await?, options)?;
    let operations = match operations {
        Some(address) => {
            let listener = bind(address, "--operations").await?;
            Some(Operations::start(listener, &gateway, security.clone())?)
        }
        None => None,
    };
    // Only now: a parent process connects as soon as it reads this line.
    output::line(&format!("{READY}{}", gateway.address()))?;
    // Whoever waits for the first line may read no other one.
    output::line(&format!(
        "open {}",
        url(gateway.address(), security.tls.is_some())
    ))
    .ok();
    if let Some(operations) = &operations {
        output::line(&format!("operations {}", operations.address())).ok();
    }
    let reason = select! {
        () = stop.cancelled() => "the operator stops the gateway",
        () = parent_gone(args.stop_with_stdin) => "the parent process ended",
        failure = gateway.failed() => bail!("the gateway stopped: {failure}"),
    };
    output::note(&format!("draining: {reason}"));
    gateway.drain(drain).await;
    if let Some(operations) = operations {
        operations.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the source of the Streamer's status.
fn streamer_status(source: operations::Operations) -> StreamerStatus {
    let source = Arc::new(source);
    StreamerStatus::new(move || {
        let source = Arc::clone(&source);
        async move {
            let read = source.status(STATUS_TIMEOUT).await;
            let body = read.and_then(|(body, _)| Ok(serde_json::from_slice(&body)?));
            body.map_err(|error| output::causes(&error).join(": "))
        }
    })
}

/// Longest wait for the status of the Streamer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest heartbeat that a network can carry for each of many sockets.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

/// Returns the URL to open in a browser.
pub(crate) fn url(address: SocketAddr, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    // A browser cannot open all addresses of a machine at once.
    if address.ip().is_unspecified() {
        return format!("{scheme}://localhost:{}/", address.port());
    }
    format!("{scheme}://{address}/")
}

pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}; choose another address with {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_can_be_opened_on_this_machine() {
        for (address, is_tls, expected) in [
            ("127.0.0.1:8080", false, "http://127.0.0.1:8080/"),
            ("[::1]:8080", false, "http://[::1]:8080/"),
            ("0.0.0.0:443", true, "https://localhost:443/"),
        ] {
            assert_eq!(url(address.parse().unwrap(), is_tls), expected);
        }
    }
}
