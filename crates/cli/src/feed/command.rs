//! `steadfast feed`: documents as NDJSON on stdout, or straight to a server.

use std::{num::NonZeroU32, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    select,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Feed, Pace, generator::Generator, packages::Packages};
use crate::{
    clients::{Dial, DialArgs, PublishOutcome, Publisher, RESPONSE_TIMEOUT},
    output,
    settings::Settings,
    streamer::{report_connection, with_progress},
    units::{at_least_one, grouped},
};

/// Arguments of `feed`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    source: Source,
}

#[derive(Subcommand)]
enum Source {
    /// Changes of a made-up shop; endless without --count
    Generator {
        /// Seed of the documents
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        limits: Limits,
    },
    /// The package index of apt, or the installed packages of dpkg
    Packages {
        #[command(flatten)]
        limits: Limits,
    },
}

/// Number, rate and destination of the documents.
#[derive(clap::Args)]
struct Limits {
    /// Stop after this number of documents
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Documents per second [default: unlimited]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    rate: Option<NonZeroU32>,
    /// Publish to a server instead of writing lines
    #[arg(long, value_name = "DATABASE/COLLECTION", value_parser = target)]
    publish: Option<Target>,
    #[command(flatten)]
    dial: DialArgs,
}

/// The destination of published documents.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    database: String,
    collection: String,
}

const EXAMPLES: &str = "Examples:
  steadfast feed packages --rate 500 --publish debian/packages
  steadfast feed generator --seed 7 --count 3 > articles.ndjson";

/// Documents that may wait for their acknowledgement.
const IN_FLIGHT: usize = 1_024;

/// The database ends at the first slash; a collection may have more of them.
fn target(text: &str) -> Result<Target, String> {
    match text.split_once('/') {
        Some((database, collection)) if !database.is_empty() && !collection.is_empty() => {
            Ok(Target {
                database: database.to_owned(),
                collection: collection.to_owned(),
            })
        }
        _ => Err("write DATABASE/COLLECTION, like debian/packages".to_owned()),
    }
}

/// Runs `feed` until its end, its count, or an interrupt.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let (seed, limits) = match args.source {
        Source::Generator { seed, limits } => (Some(seed), limits),
        Source::Packages { limits } => (None, limits),
    };
    let dial = Dial::from_settings(limits.dial.clone(), &mut settings);
    settings.finish()?;
    let mut feed = if let Some(seed) = seed {
        Feed::Generator(Generator::new(seed))
    } else {
        let packages = Packages::open().await?;
        output::note(&format!("packages from {}", packages.origin()));
        Feed::Packages(packages)
    };
    let complete = match &limits.publish {
        None => write(&mut feed, &limits, stop).await.map(|()| true)?,
        Some(target) => publish(&mut feed, &limits, target, &dial, stop).await?,
    };
    let skipped = match &feed {
        Feed::Generator(_) => 0,
        Feed::Packages(packages) => packages.skipped(),
    };
    if skipped > 0 {
        output::note(&format!(
            "{} invalid paragraphs were skipped",
            grouped(skipped)
        ));
    }
    Ok(output::status(complete))
}

async fn write(feed: &mut Feed, limits: &Limits, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut pace = Pace::new(limits.rate);
    let mut given = 0;
    while limits.count.is_none_or(|count| given < count) {
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
    Ok(())
}

/// Publishes the feed. Returns false if the server did not respond to everything.
async fn publish(
    feed: &mut Feed,
    limits: &Limits,
    target: &Target,
    dial: &Dial,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    // A new name each time: the entries of an earlier run are not repeated by this one.
    let producer = format!("feed-{}", uuid::Uuid::new_v4());
    let publisher = Publisher::open(dial, &producer, 1, report_connection())?;
    select! {
        // Nothing was published, although it was asked for.
        () = stop.cancelled() => return Ok(false),
        greeted = with_progress(publisher.first_failure(), publisher.greeted()) => greeted?,
    };
    let mut pace = Pace::new(limits.rate);
    let mut waiting = FuturesUnordered::new();
    let (mut given, mut durable) = (0_u64, 0_u64);
    let mut feeding = true;
    let mut deadline = None;
    while feeding || !waiting.is_empty() {
        feeding = feeding && limits.count.is_none_or(|count| given < count);
        select! {
            // Responses are still awaited, so that the count printed below is exact.
            () = stop.cancelled(), if deadline.is_none() => {
                deadline = Some(Instant::now() + RESPONSE_TIMEOUT);
                feeding = false;
            }
            // `select!` evaluates the expression of a disabled branch, too.
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
            Some(taken) = waiting.next(), if !waiting.is_empty() => match taken? {
                PublishOutcome::Durable(_) => durable += 1,
                PublishOutcome::Refused(reason) => bail!("a document was refused: {reason}"),
            },
            () = pace.wait(), if feeding && waiting.len() < IN_FLIGHT => {
                match feed.next().await.context("read the feed")? {
                    None => feeding = false,
                    Some(document) => {
                        given += 1;
                        let Target { database, collection } = target;
                        let pending = publisher.publish(database, collection, &document).await?;
                        waiting.push(pending.outcome());
                    }
                }
            }
            else => break,
        }
    }
    let unanswered = waiting.len() as u64;
    drop(waiting);
    publisher.close().await;
    output::note(&format!("{} published", grouped(durable)));
    if unanswered > 0 {
        let unanswered = grouped(unanswered);
        output::note(&format!(
            "{unanswered} got no response; they may be published or not"
        ));
    }
    Ok(unanswered == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_database_and_a_collection_with_any_slashes() {
        let read = target("db/rooms/r1").unwrap();
        assert_eq!(
            (read.database.as_str(), read.collection.as_str()),
            ("db", "rooms/r1")
        );
        for wrong in ["", "db", "/c", "db/"] {
            assert!(
                target(wrong).unwrap_err().contains("debian/packages"),
                "{wrong}"
            );
        }
    }
}
