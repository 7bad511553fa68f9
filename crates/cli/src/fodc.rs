//! `steadfast fodc`: the flight recorder's agent, its proxy, and reading a record afterwards.

mod agent;
mod proxy;
mod replay;
mod tour;
mod unused_flags;

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
    /// Record the metrics of endpoints and serve them, also to a proxy
    Agent(Box<agent::Args>),
    /// Serve the records of many agents
    Proxy(Box<proxy::Args>),
    /// Read a record from disk, even while its agent runs or after it was killed
    Replay(replay::Args),
    /// Show it at work: real exporters, an incident, and its record
    Tour(tour::Args),
}

impl Args {
    /// Returns true for a process that promises how much memory it takes.
    pub(crate) fn keeps_to_a_budget(&self) -> bool {
        matches!(self.command, Command::Agent(_))
    }
}

pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Agent(args) => agent::run(*args, settings, stop).await,
        Command::Proxy(args) => proxy::run(*args, settings, stop).await,
        Command::Replay(args) => replay::run(args, settings, stop).await,
        Command::Tour(args) => tour::run(args, settings, stop).await,
    }
}
