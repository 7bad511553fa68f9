//! The binary `steadfast`.

mod config;
mod demo;
mod document;
mod feed;
mod fodc;
mod output;
mod own_process;
mod server_process;
mod signals;
mod streamer;
mod tour;
mod units;
mod wiring;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Setting, Settings, keys},
    signals::Interrupts,
};

/// Streams that stay up: realtime subscriptions to document changes, without loss and without doubles.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// File with settings (TOML); `STEADFAST_CONFIG` names one too
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    config: Option<PathBuf>,
    /// What is logged to stderr: error, warn, info, debug, or target=level [default: warn]
    #[arg(long, global = true, value_name = "FILTER", display_order = 101)]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// See it work: a server, a feed, a subscription, two cuts, and equal counts; half a minute
    Tour(tour::Args),
    /// The server, and clients that subscribe and publish
    Streamer(Box<streamer::Args>),
    /// The flight recorder of metrics: its agent and the proxy of many agents
    Fodc(Box<fodc::Args>),
    /// Publish and subscribe while connections break and the server is killed, and count what came
    Demo(demo::Args),
    /// Give documents from a generator or from the package index of this machine
    Feed(Box<feed::command::Args>),
}

const EXAMPLES: &str = "Examples:
  steadfast tour
  steadfast streamer subscribe --database debian --collection packages 'section == games'";

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::load(args.config.as_deref());
    let filter: Option<EnvFilter> = settings.get(keys::LOG, args.log.as_deref());
    log_to_stderr(filter.unwrap_or_else(|| EnvFilter::new("warn")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let interrupts = Interrupts::listen()?;
        let stop = interrupts.token.clone();
        match args.command {
            Command::Tour(args) => tour::run(args, settings, &stop).await,
            Command::Streamer(args) => streamer::run(*args, settings, &stop).await,
            Command::Fodc(args) => fodc::run(*args, settings, &stop).await,
            Command::Demo(args) => demo::run(args, settings, &stop).await,
            Command::Feed(args) => feed::command::run(*args, settings, &stop).await,
        }
    });
    // What still hangs in a call of the system, like writing to a disk that does not answer, shall
    // not keep the process: it was given its time by the command.
    runtime.shutdown_timeout(LEAVE);
    ended
}

/// How long threads may take to be gone when a command has ended.
const LEAVE: Duration = Duration::from_millis(500);

impl Setting for EnvFilter {
    fn from_text(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text).map_err(|error| {
            format!("{text:?} is not a log filter ({error}); write info, or debug,h2=warn")
        })
    }
}

fn log_to_stderr(filter: EnvFilter) {
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}
