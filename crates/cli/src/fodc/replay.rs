//! `steadfast fodc replay`: reads a record without its agent.

mod contents;
mod export;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use jiff::{Span, Timestamp};
use steadfast_recorder::{Damage, DamageKind, OpenReport, Recorders, Selector};
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    output::{self, BAD, styled},
    settings::{Fault, Faults, Settings},
    signals,
};

/// Arguments of `fodc replay`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory of the record
    #[arg(value_name = "DIR")]
    record: PathBuf,
    /// Start of the window: a time like 2026-03-01T08:00:00Z, or -5m relative to the newest data
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End of the window, inclusive
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Only series of this metric
    #[arg(long, value_name = "METRIC")]
    name: Option<String>,
    /// Only series with this label; repeat it to require several
    #[arg(long, value_name = "LABEL=VALUE")]
    label: Vec<String>,
    /// List the series instead of the samples
    #[arg(long, conflicts_with_all = ["from", "to"])]
    series: bool,
    /// Print JSON instead of the text format or a table
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str =
    "Without a time it prints the sources of the record. With one it prints the samples of the window, in
the text format with timestamps, or as JSON in the form of the proxy's /metrics-windows. The agent may
be running or killed. If a part is damaged, the other parts are printed, standard error names the
damage, and the exit status is 3.

Examples:
  steadfast fodc replay ./record
  steadfast fodc replay ./record --series --name up
  steadfast fodc replay ./record --from -5m
  steadfast fodc replay ./record --from 2026-03-01T08:00:00Z --to 2026-03-01T08:01:00Z --json";

/// Exit status of a record of which a part is damaged.
const DAMAGED: u8 = 3;

/// Reads the record.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let replayed = tokio::task::spawn_blocking(move || replay(&args));
    select! {
        // Nothing is written, so that there is nothing to wait for.
        () = stop.cancelled() => Ok(ExitCode::from(signals::INTERRUPTED)),
        replayed = replayed => replayed.context("read the record")?,
    }
}

fn replay(args: &Args) -> anyhow::Result<ExitCode> {
    let missing = || {
        let path = args.record.display();
        format!("cannot read a record in {path}; name the directory given to `fodc agent --data`")
    };
    let (reader, opened) = Recorders::open_read_only(&args.record).with_context(missing)?;
    // An empty directory is more often a mistyped path than an empty record.
    if opened.parts == 0 {
        bail!("{}; it has none, or nothing in it yet", missing());
    }
    let wanted = Request::from_args(args, &opened)?;
    // Reads every block, also those outside the window.
    let damage = reader.check();
    match &wanted.range {
        _ if args.series => contents::series(&reader, &wanted.selector, args.json)?,
        None => contents::overview(&reader, &opened, &damage, (&wanted.selector, args.json))?,
        Some(range) => export::window(&reader, &wanted.selector, range.clone(), args.json)?,
    }
    if reader.series(&wanted.selector).is_empty() {
        output::note("no series matches; --series lists all");
    }
    for damage in &damage {
        let word = styled(BAD, "damage:");
        output::note(&format!("{word} {damage}"));
    }
    let is_restored = |damage: &Damage| matches!(damage.kind, DamageKind::Restored(_));
    if !damage.iter().all(is_restored) {
        output::note("what is damaged is left out; everything else is printed");
    }
    if damage.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(DAMAGED))
}

/// The requested part of the record.
struct Request {
    selector: Selector,
    /// Unix, milliseconds.
    range: Option<std::ops::RangeInclusive<i64>>,
}

impl Request {
    fn from_args(args: &Args, opened: &OpenReport) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        // Relative times refer to the data, not to now: a record is often read much later.
        let newest = opened.newest.unwrap_or_default();
        let mut time = |flag: &str, text: &Option<String>, default| match text {
            None => default,
            Some(text) => moment(text, newest).unwrap_or_else(|what| {
                let location = flag.to_owned();
                faults.push(Fault { location, what });
                default
            }),
        };
        let from = time("--from", &args.from, i64::MIN);
        let to = time("--to", &args.to, i64::MAX);
        if from > to {
            let what = "ends before it begins; exchange the two".to_owned();
            let location = "--to".to_owned();
            faults.push(Fault { location, what });
        }
        let mut selector = Selector::all();
        if let Some(name) = &args.name {
            selector = selector.name(name);
        }
        for label in &args.label {
            match label.split_once('=') {
                Some((name, value)) => selector = selector.label(name, value),
                None => faults.push(Fault {
                    location: "--label".to_owned(),
                    what: format!(
                        "{label:?} is not a label; write it like instance=localhost:9100"
                    ),
                }),
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let asked = args.from.is_some() || args.to.is_some();
        Ok(Self {
            selector,
            range: asked.then_some(from..=to),
        })
    }
}

/// Parses a time, absolute or relative to the newest data. Unix, milliseconds.
fn moment(text: &str, newest: i64) -> Result<i64, String> {
    let wanted = || {
        format!(
            "{text:?} is not a time; write one like 2026-03-01T08:00:00Z, or -5m for the last five minutes"
        )
    };
    if let Some(before) = text.strip_prefix('-') {
        let span: Span = before.parse().map_err(|_| wanted())?;
        let newest = Timestamp::from_millisecond(newest).map_err(|_| wanted())?;
        let from = newest.checked_sub(span).map_err(|_| wanted())?;
        return Ok(from.as_millisecond());
    }
    let time: Timestamp = text.parse().map_err(|_| wanted())?;
    Ok(time.as_millisecond())
}

/// Returns a time of the record as text.
fn timestamp(time_ms: i64) -> String {
    Timestamp::from_millisecond(time_ms)
        .map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_before_the_newest_data() {
        let newest = 1_767_225_660_500;
        assert_eq!(
            moment("2026-01-01T00:00:00Z", newest),
            Ok(1_767_225_600_000)
        );
        assert_eq!(
            moment("2026-01-01T01:00:00.25+01:00", newest),
            Ok(1_767_225_600_250)
        );
        assert_eq!(moment("-1m", newest), Ok(1_767_225_600_500));
        assert!(
            moment("yesterday", newest)
                .unwrap_err()
                .contains("yesterday")
        );
        assert!(
            moment("-1month", newest).is_err(),
            "a month has no fixed length"
        );
        assert_eq!(timestamp(1_767_225_600_250), "2026-01-01T00:00:00.25Z");
    }
}
