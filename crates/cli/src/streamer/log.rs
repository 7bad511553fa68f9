//! `steadfast streamer log`: checks and mends the log of a server that is stopped.

use std::{
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::value::RawValue;
use steadfast::session::OneLine;
use steadfast_streamer::{
    Epoch, Event,
    log::{
        Defect, Log as _, LogEnd, LogError, LogReader, OpenError, SegmentLog, StoreOptions,
        Verified,
    },
};

use crate::{
    output,
    settings::{Given, Settings},
};

/// Arguments of `streamer log`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str =
    "The server must be stopped, or the directory be a copy. `verify` and `dump` write nothing; `repair`
and `trim` open the log as a server does.

Exit status: 0 if all is sound or done, 1 if something is damaged or the command failed, 2 if a flag
or setting is wrong.

Examples:
  steadfast streamer log verify --data ./data
  steadfast streamer log dump --data ./data --after 1000 > events.jsonl
  steadfast streamer log trim --data ./data --upto 5000";

#[derive(Subcommand)]
enum Command {
    /// Read everything, and print what is damaged, where, and what to do
    Verify(Directory),
    /// Rebuild a damaged index from the events; the old one is kept beside it
    Repair(Directory),
    /// Print the events, one JSON object per line
    Dump {
        #[command(flatten)]
        directory: Directory,
        /// Begin after this offset [default: the beginning]
        #[arg(long, value_name = "OFFSET")]
        after: Option<u64>,
    },
    /// Remove the events up to an offset; documents stay
    Trim {
        #[command(flatten)]
        directory: Directory,
        /// The last offset to remove
        #[arg(long, value_name = "OFFSET")]
        upto: u64,
    },
}

#[derive(clap::Args)]
struct Directory {
    /// Directory of the log
    #[arg(long, env, value_name = "DIR")]
    data: Option<Given<String>>,
}

/// One event in the output of `dump`.
#[derive(serde::Serialize)]
struct Line<'a> {
    offset: u64,
    database: &'a str,
    collection: &'a str,
    id: &'a str,
    op: &'static str,
    timestamp: i64,
    /// As it is stored: numbers keep their text.
    data: &'a RawValue,
}

/// The index in the log's directory.
const INDEX: &str = "log.redb";
/// Number of events that are read at once.
const PAGE: usize = 1_000;
/// Size of the events that are read at once, in bytes.
const PAGE_BYTES: usize = 4 << 20;

/// Runs the command.
pub(crate) fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Verify(directory) => verify(&directory.path(settings)?),
        Command::Repair(directory) => repair(&directory.path(settings)?),
        Command::Dump { directory, after } => dump(&directory.path(settings)?, after),
        Command::Trim { directory, upto } => {
            let mut log = open(&directory.path(settings)?)?;
            log.trim(upto).context("trim the log")?;
            let bounds = log.reader().bounds();
            let (first, head) = (bounds.first, bounds.head);
            output::line(&format!(
                "the log holds the events after {first} up to {head}"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Directory {
    fn path(self, mut settings: Settings) -> anyhow::Result<PathBuf> {
        let data = settings.require("data", self.data);
        settings.finish()?;
        Ok(data
            .expect("a missing directory is among the faults")
            .into())
    }
}

/// Opens the log in a directory that holds one.
fn open(data: &Path) -> anyhow::Result<SegmentLog> {
    // Opening would create a log.
    holds_log(data)?;
    SegmentLog::open(data, &options()).map_err(advised)
}

fn options() -> StoreOptions {
    StoreOptions::new(Epoch(uuid::Uuid::new_v4().as_u64_pair().0))
}

fn advised(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Damaged { .. } => anyhow::Error::new(error)
            .context("the index cannot be read; `steadfast streamer log repair` rebuilds it"),
        error => error.into(),
    }
}

fn holds_log(data: &Path) -> anyhow::Result<()> {
    let mut files = fs::read_dir(data)
        .with_context(|| format!("cannot read {}", data.display()))?
        .filter_map(|file| Some(file.ok()?.path()));
    if !files.any(|file| file.ends_with(INDEX) || file.extension() == Some("seg".as_ref())) {
        bail!(
            "{} holds no log; name the directory of one with --data",
            data.display()
        );
    }
    Ok(())
}

/// Calls `each` with the events after `after`, and with the first and last offset of each damaged run.
fn read(
    reader: &dyn LogReader,
    mut after: u64,
    mut each: impl FnMut(Result<&Event, (u64, u64)>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while after < reader.bounds().head {
        match reader.read(after, PAGE, PAGE_BYTES) {
            Ok(events) => {
                for event in events {
                    each(Ok(&event))?;
                    after = event.offset;
                }
            }
            Err(LogError::Damaged { offset, .. }) => {
                // The events behind a damaged run are read all the same.
                each(Err((after + 1, offset)))?;
                after = offset;
            }
            Err(error) => return Err(error).context("read the log"),
        }
    }
    Ok(())
}

fn verify(data: &Path) -> anyhow::Result<ExitCode> {
    holds_log(data)?;
    let mut printed = Ok(());
    let verified = SegmentLog::verify(data, &options(), |defect| {
        let Defect {
            place,
            problem,
            remedy,
            ..
        } = defect;
        if printed.is_ok() {
            printed = output::line(&format!("{place}: {problem}; {remedy}"));
        }
    });
    printed?;
    let Verified {
        sound,
        damaged,
        documents,
        defects,
        end,
        ..
    } = verified?;
    if documents > 0 {
        output::line(&format!(
            "the last change of {documents} documents is damaged; publish them again"
        ))?;
    }
    output::line(&format!(
        "{sound} events are sound, {damaged} are damaged or missing"
    ))?;
    match end {
        LogEnd::Closed => {}
        LogEnd::Open => output::note(
            "the log was not closed: the loss of events of its last 0.1 s (10 s after a power cut) \
             cannot be noticed",
        ),
        _ => output::note(
            "the file `head` is missing or damaged: the loss of events of the last 10 s cannot be \
             noticed",
        ),
    }
    Ok(output::status(defects == 0))
}

fn repair(data: &Path) -> anyhow::Result<ExitCode> {
    let error = match open(data) {
        Ok(log) => {
            output::line("the index is sound")?;
            drop(log);
            return verify(data);
        }
        Err(error) => error,
    };
    let damaged = error.downcast_ref::<OpenError>();
    if !matches!(damaged, Some(OpenError::Damaged { .. })) {
        return Err(error);
    }
    let index = data.join(INDEX);
    let kept = data.join("log.redb.damaged");
    if kept.exists() {
        bail!("{} exists already; move it elsewhere first", kept.display());
    }
    fs::rename(&index, &kept).with_context(|| format!("cannot rename {}", index.display()))?;
    let log = open(data)?;
    let first = log.reader().bounds().first;
    output::line(&format!(
        "the index is rebuilt; the old one is {}",
        kept.display()
    ))?;
    output::line("lost with it: documents whose last event was trimmed; subscribers get a resync")?;
    if first > 0 {
        output::line(&format!("the log begins after {first}"))?;
    }
    drop(log);
    verify(data)
}

fn dump(data: &Path, after: Option<u64>) -> anyhow::Result<ExitCode> {
    holds_log(data)?;
    let reader = SegmentLog::open_read_only(data, &options()).map_err(advised)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut damaged = false;
    read(
        &*reader,
        // To read before the beginning of the log is an error.
        after.unwrap_or(0).max(reader.bounds().first),
        |item| {
            match item {
                Ok(event) => {
                    let text = OneLine(&serde_json::to_string(&line(event)?)?).to_json();
                    output::written(writeln!(out, "{text}"))?;
                }
                Err((from, upto)) => {
                    damaged = true;
                    output::note(&format!("damaged or missing: {from} to {upto}"));
                }
            }
            Ok(())
        },
    )?;
    // A buffered writer that is dropped ignores the error of its last write.
    output::written(out.flush())?;
    Ok(ExitCode::from(u8::from(damaged)))
}

fn line(event: &Event) -> anyhow::Result<Line<'_>> {
    Ok(Line {
        offset: event.offset,
        database: &event.database,
        collection: &event.collection,
        id: &event.document_id,
        op: event.operation.as_str(),
        timestamp: event.timestamp,
        data: serde_json::from_slice(&event.data)?,
    })
}
