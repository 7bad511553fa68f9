//! `steadfast streamer serve`.

use std::{net::Ipv4Addr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use steadfast_streamer::{
    Epoch,
    log::{OpenError, SegmentLog, StoreOptions},
    server::{PullerOptions, Server, ServerOptions},
};
use tokio::{net::TcpListener, select};
use tokio_util::sync::CancellationToken;

use crate::{
    child_process::{READY, parent_gone},
    clients::ServerAddress,
    output,
    settings::{Given, Listen, Settings, Size},
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
    /// Open connections at most; further ones are closed at once [default: 65536]
    #[arg(long, env)]
    max_connections: Option<Given<usize>>,
    /// Take the changes of the Puller at this address
    #[arg(long, env, value_name = "ADDR")]
    puller: Option<Given<ServerAddress>>,
    /// Longest orderly stop [default: 10s]
    #[arg(long, env)]
    drain: Option<Given<Duration>>,
    /// Stop when standard input ends, so that a server does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

const EXAMPLES: &str =
    "Prints `ready IP:PORT` when it accepts connections. SIGTERM and ctrl-c drain it.

Examples:
  steadfast streamer serve --data ./data
  steadfast streamer serve --data /var/lib/steadfast --listen 0.0.0.0:9000 --retain-age 7d
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
    store.retention_bytes = settings.get(args.retain_size).map(|Size(bytes)| bytes);
    let mut options = ServerOptions::default();
    settings.set(&mut options.max_connections, args.max_connections);
    if options.max_connections == 0 {
        let what = "it is 0, so that nobody could connect; write a larger number";
        settings.unusable("max_connections", what.to_owned());
    }
    if let Some(ServerAddress(address)) = settings.get(args.puller) {
        let address = address
            .parse()
            .expect("an address is validated when it is read");
        options.puller = Some(PullerOptions::new(address));
    }
    settings.finish()?;
    let data = PathBuf::from(data.expect("a missing directory is among the faults"));

    // A taken port is found before the log is opened, which takes long after a crash.
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; choose another address with --listen")
    })?;
    let log = tokio::task::spawn_blocking(move || SegmentLog::open(&data, &store))
        .await
        .context("open the log")?
        .map_err(|error| match error {
            OpenError::Directory { .. } => output::advised(&error.into(), "--data"),
            error => error.into(),
        })?;
    let mut server = Server::start(listener, Box::new(log), options)?;
    // Only now: a parent process connects as soon as it reads this line.
    output::line(&format!("{READY}{}", server.address()))?;
    let reason = select! {
        () = stop.cancelled() => "the operator stops the server",
        () = parent_gone(args.stop_with_stdin) => "the parent process ended",
        failure = server.failed() => bail!("the server stopped: {failure}"),
    };
    output::note(&format!("draining: {reason}"));
    server.drain(drain, reason).await.context("close the log")?;
    Ok(ExitCode::SUCCESS)
}
