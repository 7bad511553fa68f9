//! `steadfast fodc`: the flight recorder's agent, its proxy, and reading a record afterwards.

mod proxy;
mod replay;

use std::process::ExitCode;

use clap::Subcommand;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;

/// Arguments of `fodc`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep in touch with agents and serve what they recorded
    Proxy(Box<proxy::Args>),
    /// Read a record, also one whose agent was killed or is running
    Replay(replay::Args),
}

pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Proxy(args) => proxy::run(*args, settings, stop).await,
        Command::Replay(args) => replay::run(args, settings).await,
    }
}
