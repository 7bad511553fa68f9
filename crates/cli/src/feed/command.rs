//! `steadfast feed`: documents as NDJSON on stdout.

use std::{num::NonZeroU32, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use tokio::select;
use tokio_util::sync::CancellationToken;

use super::{Feed, Pace, generator::Generator, packages::Packages};
use crate::{config::Settings, output, units};

/// Arguments of `feed`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    source: Source,
}

#[derive(Subcommand)]
enum Source {
    /// Changes of a small shop, made up from a seed; endless without --count
    Generator {
        /// The same seed gives the same documents
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        amount: Amount,
    },
    /// The packages apt knows, or else those dpkg has installed
    Packages {
        #[command(flatten)]
        amount: Amount,
    },
}

/// How much of a feed is wanted, and how fast.
#[derive(clap::Args)]
struct Amount {
    /// End after so many documents
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Documents per second [default: as fast as they are taken]
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
}

const EXAMPLES: &str = "Examples:
  steadfast feed packages | steadfast streamer publish --database debian --collection packages
  steadfast feed generator --seed 7 --rate 100 | head -3";

/// Runs `feed` until its end, its count, or an interrupt.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let (mut feed, amount) = match args.source {
        Source::Generator { seed, amount } => (Feed::Generator(Generator::new(seed)), amount),
        Source::Packages { amount } => {
            let packages = Packages::open().await?;
            output::note(&format!("packages from {}", packages.origin()));
            (Feed::Packages(packages), amount)
        }
    };
    let mut pace = Pace::new(amount.rate);
    let mut given = 0;
    while amount.count.is_none_or(|count| given < count) {
        select! {
            () = stop.cancelled() => break,
            () = pace.wait() => {}
        }
        let Some(document) = feed.next().await.context("read the feed")? else {
            break;
        };
        output::line(&document.to_line())?;
        given += 1;
    }
    let skipped = match &feed {
        Feed::Generator(_) => 0,
        Feed::Packages(packages) => packages.skipped(),
    };
    if skipped > 0 {
        output::note(&format!(
            "{} faulty paragraphs were passed over",
            units::grouped(skipped)
        ));
    }
    Ok(ExitCode::SUCCESS)
}
