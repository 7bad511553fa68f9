//! `steadfast streamer`: the server and its two kinds of clients.

mod publish;
mod serve;
mod subscribe;

use std::{pin::pin, process::ExitCode};

use clap::Subcommand;
use steadfast_streamer::Operation;
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    output::{self, FAINT, styled},
    wiring::Turn,
};

/// Arguments of `streamer`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve subscriptions and take documents
    Serve(serve::Args),
    /// Print the changes of a collection as they happen
    Subscribe(subscribe::Args),
    /// Publish documents, one JSON object per line
    Publish(publish::Args),
}

pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Serve(args) => serve::run(args, settings, stop).await,
        Command::Subscribe(args) => subscribe::run(args, settings, stop).await,
        Command::Publish(args) => publish::run(args, settings, stop).await,
    }
}

/// Tells on stderr what becomes of the connection.
pub(crate) fn tell_turns() -> impl FnMut(Turn) + Send + 'static {
    let mut before = false;
    move |turn| match turn {
        Turn::Connected if before => {
            output::note(&styled(FAINT, "connected again"));
        }
        Turn::Connected => {
            before = true;
            output::note(&styled(FAINT, "connected"));
        }
        Turn::Lost { reason } => {
            output::note(&styled(FAINT, &format!("connection lost: {reason}")));
        }
    }
}

/// Waits for what needs a connection, and tells once when there is none yet.
pub(crate) async fn patiently<T>(
    trouble: impl Future<Output = String>,
    wanted: impl Future<Output = T>,
) -> T {
    let mut wanted = pin!(wanted);
    select! {
        done = &mut wanted => return done,
        reason = trouble => output::note(&format!("not connected yet, still trying: {reason}")),
    }
    wanted.await
}

/// The word for an operation, as a line that is published spells it.
pub(crate) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    }
}
