//! `steadfast token`: tokens for a policy file.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use steadfast_access::NewToken;
use steadfast_files::private;

use crate::output;

/// Arguments of `token`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a random token, and the entry of a policy file that admits it
    New(NewArgs),
}

/// Arguments of `token new`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct NewArgs {
    /// Name of the peer that will send the token; `token:NAME` in the policy
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// File for the token, which must not exist; only you can read it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "The token is shown once: the entry has its hash only.

Examples:
  steadfast token new feeder --out feeder.token >> access.toml
  steadfast streamer publish --token-file feeder.token -d shop -c orders";

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::New(args) = args.command;
    let token = NewToken::generate().context("the system provides no randomness")?;
    match args.out {
        // The entry alone is on standard output, so that it can be appended to a policy.
        Some(path) => {
            let mut file = private()
                .write(true)
                .create_new(true)
                .open(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            writeln!(file, "{}", token.reveal())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => output::line(token.reveal())?,
    }
    output::line(&token.entry(&args.name))?;
    Ok(ExitCode::SUCCESS)
}
