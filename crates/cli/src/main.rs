//! The binary `steadfast`.

mod allocator;
mod cert;
mod chart;
mod child_process;
mod clients;
mod config;
mod credentials;
mod demo;
mod document;
mod feed;
mod fodc;
mod gateway;
mod http;
mod kill9;
mod listen;
mod load;
mod log_lines;
mod operations;
mod output;
mod server_process;
mod settings;
mod signals;
mod streamer;
mod token;
mod top;
mod tour;
mod units;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    settings::{Given, Setting, Settings},
    signals::Interrupts,
};

/// Streams that stay up: realtime subscriptions to document changes, without loss or duplicates.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// File with settings (TOML)
    #[arg(
        long,
        env = "STEADFAST_CONFIG",
        global = true,
        value_name = "FILE",
        display_order = 100
    )]
    config: Option<PathBuf>,
    /// Log level on stderr: error, warn, info, debug, or target=level [default: warn]
    #[arg(long, env, global = true, value_name = "FILTER", display_order = 101)]
    log: Option<Given<LogFilter>>,
}

#[derive(Subcommand)]
enum Command {
    /// Show it at work in half a minute: a server, a feed, a subscription, two cuts
    Tour(tour::Args),
    /// Run the server, or a client that subscribes or publishes
    Streamer(Box<streamer::Args>),
    /// Watch a server in the terminal: rates, lag, gaps, recovery, and what causes them
    Top(Box<top::Args>),
    /// Serve browsers: WebSocket, server-sent events and HTTP in front of servers
    Gateway(Box<gateway::Args>),
    /// Run the flight recorder of metrics: an agent, or the proxy of many agents
    Fodc(Box<fodc::Args>),
    /// Publish and subscribe under injected faults, and count losses and duplicates
    Demo(demo::Args),
    /// Kill a server under load again and again, and count losses and duplicates
    #[command(hide = true)]
    Kill9(kill9::Args),
    /// Make a token for a policy file
    Token(token::Args),
    /// Check a file of settings or a policy file
    Config(config::Args),
    /// Make certificates for trying TLS out
    Cert(cert::Args),
    /// Print or publish documents from a generator or from the package index
    Feed(Box<feed::command::Args>),
}

const EXAMPLES: &str = "Examples:
  steadfast tour
  steadfast streamer subscribe --database debian --collection packages 'section == games'";

fn main() -> ExitCode {
    let (args, settings) = settings::parse();
    match run(args, settings) {
        Ok(code) => code,
        Err(error) => output::fail(&error),
    }
}

fn run(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    let LogFilter(filter) = settings.get_or(args.log, LogFilter("warn".to_owned()));
    log_lines::to_stderr(&filter);
    // Before anything is opened or started.
    if let Command::Fodc(args) = &args.command
        && args.keeps_to_a_budget()
        && let Err(error) = allocator::return_pages_at_once()
    {
        tracing::warn!(%error, "freed memory is returned within ten seconds, and not at once");
    }
    use_all_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let interrupts = Interrupts::listen()?;
        let stop = interrupts.token.clone();
        match args.command {
            Command::Tour(args) => tour::run(args, settings, &stop).await,
            Command::Streamer(args) => streamer::run(*args, settings, &stop).await,
            Command::Top(args) => top::run(*args, settings, &stop).await,
            Command::Gateway(args) => gateway::run(*args, settings, &stop).await,
            Command::Fodc(args) => fodc::run(*args, settings, &stop).await,
            Command::Demo(args) => demo::run(args, settings, &stop).await,
            Command::Kill9(args) => kill9::run(args, settings, &stop).await,
            Command::Token(args) => token::run(args),
            Command::Config(args) => config::run::<Args>(args),
            Command::Cert(args) => cert::run(args),
            Command::Feed(args) => feed::command::run(*args, settings, &stop).await,
        }
    });
    // A thread may still be blocked in a system call, such as a write to a disk that does not
    // answer. The command has had its own timeout for that work, so the process does not wait for it
    // again.
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    ended
}

/// Raises the limit on open files to what the process may have. The usual one, 1,024, is a courtesy to
/// programs that call `select`, and too few for a server.
fn use_all_descriptors() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = maximum;
        // Without it the server accepts fewer connections, and says so when they are used up.
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).ok();
    }
}

/// The wait for blocked threads after a command has ended.
const THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// The text of an [`EnvFilter`], validated.
#[derive(Clone)]
struct LogFilter(String);

impl Setting for LogFilter {
    fn from_text(text: &str) -> Result<Self, String> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!(
                "{text:?} is not a log filter ({error}); write info, or debug,h2=warn"
            )),
        }
    }
}
