//! `steadfast streamer`: the server and its two kinds of clients.

mod log;
mod publish;
mod serve;
pub(crate) mod start;
pub(crate) mod status;
mod subscribe;
mod window;

use std::{pin::pin, process::ExitCode};

use clap::Subcommand;
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::ConnectionEvent,
    output::{self, FAINT, styled},
    settings::Settings,
};

/// Arguments of `streamer`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve subscriptions and store documents
    Serve(Box<serve::Args>),
    /// Print the changes of a collection as they happen
    Subscribe(subscribe::Args),
    /// Publish documents, one JSON object per line
    Publish(publish::Args),
    /// Print what a server does, its slowest subscribers and its most expensive filters
    Status(status::Args),
    /// Check and mend the log of a server that is stopped
    Log(log::Args),
}

pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Serve(args) => serve::run(*args, settings, stop).await,
        Command::Subscribe(args) => subscribe::run(args, settings, stop).await,
        Command::Publish(args) => publish::run(args, settings, stop).await,
        Command::Status(args) => status::run(args, settings).await,
        Command::Log(args) => log::run(args, settings),
    }
}

/// Returns an observer that prints changes of the connection to stderr.
pub(crate) fn report_connection() -> impl FnMut(ConnectionEvent) + Send + 'static {
    let mut before = false;
    move |event| match event {
        ConnectionEvent::Connected if before => {
            output::note(&styled(FAINT, "connected again"));
        }
        ConnectionEvent::Connected => {
            before = true;
            output::note(&styled(FAINT, "connected"));
        }
        ConnectionEvent::Lost { reason } => {
            output::note(&styled(FAINT, &format!("connection lost: {reason}")));
        }
    }
}

/// Waits for a result that needs a connection. Prints the reason once if the first attempt fails.
pub(crate) async fn with_progress<T>(
    first_failure: impl Future<Output = String>,
    wanted: impl Future<Output = T>,
) -> T {
    // Pinned, because it goes on after the first failure.
    let mut wanted = pin!(wanted);
    select! {
        done = &mut wanted => return done,
        // Said once: later attempts are silent until the connection is there.
        reason = first_failure => output::note(&format!("not connected yet, still trying: {reason}")),
    }
    wanted.await
}
