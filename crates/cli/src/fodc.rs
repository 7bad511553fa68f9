//! `steadfast fodc`: the flight recorder's agent, its proxy, and reading a record afterwards.

mod agent;
mod http;
mod proxy;
mod replay;
mod tour;

use std::process::ExitCode;

use clap::Subcommand;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Arguments of `fodc`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record the metrics of endpoints, serve them, and answer a proxy
    Agent(Box<agent::Args>),
    /// Keep in touch with agents and serve what they recorded
    Proxy(Box<proxy::Args>),
    /// Read a record, also one whose agent was killed or is running
    Replay(replay::Args),
    /// See it work: real exporters, an incident on purpose, and its seconds read back
    Tour(tour::Args),
}

pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Agent(args) => agent::run(*args, settings, stop).await,
        Command::Proxy(args) => proxy::run(*args, settings, stop).await,
        Command::Replay(args) => replay::run(args, settings).await,
        Command::Tour(args) => tour::run(args, settings, stop).await,
    }
}
