//! `steadfast streamer publish`.

mod lines;
mod progress;

use std::{
    collections::BTreeSet,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncSeekExt as _, BufReader, stdin},
};
use tokio_util::sync::CancellationToken;

use self::{
    lines::Lines,
    progress::{Identity, Progress, Settled, beside, new_producer},
};
use crate::{
    clients::{Dial, DialArgs},
    output::{self, FAINT, styled},
    settings::Settings,
    units::grouped,
};

/// Arguments of `streamer publish`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Lines like {"id":"a", …fields…}, with "op":"delete" to delete; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Database of the documents
    #[arg(long, short, value_parser = NonEmptyStringValueParser::new())]
    database: String,
    /// Collection of the documents
    #[arg(long, short, value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// Name of this input. Publishing it again adds only the missing documents. Stops at the first
    /// invalid line, because lines are counted [default: a new name each time]
    #[arg(long, value_name = "ID")]
    producer: Option<String>,
    /// File for the progress of a FILE [default: FILE.progress; with --producer none is needed]
    #[arg(long, value_name = "FILE", conflicts_with = "producer")]
    progress: Option<PathBuf>,
    #[command(flatten)]
    dial: DialArgs,
}

const EXAMPLES: &str =
    "Invalid lines are reported with their number and skipped; the exit status is then 1.
The server sets createdAt, updatedAt, version and collection itself; fields of these names are not stored.

A FILE that was published in part, because the command was killed or interrupted, is continued by the
same command: each line is stored exactly once. Its progress is removed at the end.

Exit status: 0 if every line was published, 1 if not, 2 if a flag or setting is wrong.

Examples:
  steadfast feed packages | steadfast streamer publish -d debian -c packages
  steadfast streamer publish changes.ndjson -d shop -c articles
  steadfast streamer publish - -d shop -c articles --producer changes-2026-11-22 < changes.ndjson";

/// The results of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Counts {
    published: u64,
    duplicates: u64,
    refused: u64,
    /// Invalid lines.
    faulty: u64,
    /// Lines without a document.
    empty: u64,
}

/// The lines to publish.
struct Input {
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// The size of the file; 0 if it is not known.
    bytes: u64,
}

/// Publishes every line, waits for the acknowledgements, and prints the counts.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let dial = Dial::from_settings(args.dial.clone(), &mut settings);
    let is_stdin = args.file.as_os_str() == "-";
    if is_stdin && args.progress.is_some() {
        let what = "standard input cannot be read again; name a file of lines";
        settings.fault("--progress", what.to_owned());
    }
    settings.finish()?;
    let (input, progress) = if is_stdin {
        let reader = Box::new(BufReader::new(stdin()));
        (Input { reader, bytes: 0 }, None)
    } else {
        open(&args).await.with_context(|| {
            let file = args.file.display();
            format!("cannot publish {file}; name a file of lines, or `-`")
        })?
    };
    let settled = progress
        .as_ref()
        .map_or(Settled::default(), |it| it.state.settled);
    if settled.lines > 0 {
        let after = grouped(settled.lines);
        output::note(&styled(FAINT, &format!("continuing after line {after}")));
    }
    // Documents are numbered in order: without a progress, which excludes a name and is only that of an
    // unchanged file, a line that is mended later would shift all numbers behind it.
    let strict = args.producer.is_some();
    let producer = match (&progress, args.producer) {
        (Some(progress), _) => progress.state.producer.clone(),
        (None, Some(producer)) => producer,
        (None, None) => new_producer(),
    };
    let mut lines = Lines {
        dial,
        to: (args.database, args.collection),
        strict,
        producer,
        stop,
        publisher: None,
        known: 0,
        settled,
        progress,
        replaced: BTreeSet::new(),
        read: settled,
        unanswered: 0,
        partial: false,
        bar: bar(input.bytes, settled.bytes),
    };
    let outcome = lines.publish(input.reader).await;
    // Whatever failed, lines are left: the progress must stay.
    lines.partial |= outcome.is_err();
    let stored = lines.finish().await;
    lines.bar.finish_and_clear();
    // Also after an error: whoever repairs its cause needs to know what is published.
    summarize(&lines);
    outcome?;
    stored?;
    let counts = lines.settled.counts;
    let clean = !lines.partial && counts.refused == 0 && counts.faulty == 0;
    Ok(output::status(clean))
}

/// Opens the file behind the lines that are settled.
async fn open(args: &Args) -> anyhow::Result<(Input, Option<Progress>)> {
    let mut file = File::open(&args.file).await?;
    let about = file.metadata().await?;
    // Opening a directory succeeds; reading it fails later, when a server was already found.
    if about.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
    }
    let path = match (&args.progress, &args.producer) {
        (Some(path), _) => Some(path.clone()),
        // Pipes and devices cannot be read again. Whoever names the input continues it by its name.
        (None, None) if about.is_file() => Some(beside(&args.file)),
        (None, _) => None,
    };
    let progress = path.map(|path| {
        let to = (&*args.database, &*args.collection);
        Progress::open(path, Identity::of(&about), to)
    });
    let progress = progress.transpose()?;
    if let Some(progress) = &progress {
        let settled = SeekFrom::Start(progress.state.settled.bytes);
        file.seek(settled).await?;
    }
    let input = Input {
        reader: Box::new(BufReader::new(file)),
        bytes: about.len(),
    };
    Ok((input, progress))
}

fn summarize(lines: &Lines<'_>) {
    let Settled { counts, .. } = lines.settled;
    let mut text = format!(
        "{} lines: {} published, {} duplicates, {} refused, {} faulty lines",
        grouped(lines.settled.lines + lines.unanswered),
        grouped(counts.published),
        grouped(counts.duplicates),
        grouped(counts.refused),
        grouped(counts.faulty),
    );
    if counts.empty > 0 {
        text = format!("{text}, {} empty", grouped(counts.empty));
    }
    output::note(&text);
    if lines.unanswered > 0 {
        let unanswered = grouped(lines.unanswered);
        output::note(&format!(
            "{unanswered} got no response; they may be published or not"
        ));
    }
    if lines.partial {
        let remedy = lines.progress.as_ref().map_or(String::new(), |progress| {
            let place: &Path = progress.path();
            format!("; the same command goes on from {}", place.display())
        });
        output::note(&format!(
            "stopped early: not everything was published{remedy}"
        ));
    }
}

/// Returns a progress bar for a file, a counter for standard input, and nothing without a terminal.
fn bar(bytes: u64, done: u64) -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = if bytes > 0 {
        (
            ProgressBar::new(bytes).with_position(done),
            "{bar:24} {percent:>3} %  {msg}  {eta} left",
        )
    } else {
        (ProgressBar::new_spinner(), "{spinner} {msg}")
    };
    bar.set_style(ProgressStyle::with_template(template).expect("both templates are well formed"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
