//! `steadfast streamer publish`.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt as _, BufReader, stdin},
    select,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clients::{Dial, DialArgs, PublishOutcome, Publisher, RESPONSE_TIMEOUT},
    document::Document,
    output::{self, BAD, styled},
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
    #[command(flatten)]
    dial: DialArgs,
}

const EXAMPLES: &str =
    "Invalid lines are reported with their number and skipped; the exit status is then 1.
The server sets createdAt, updatedAt, version and collection itself; fields of these names are not stored.

Examples:
  steadfast feed packages | steadfast streamer publish -d debian -c packages
  steadfast streamer publish changes.ndjson -d shop -c articles --producer changes-2026-11-22";

/// Entries that may wait for their acknowledgement.
const IN_FLIGHT: usize = 1_024;
/// Invalid lines that are reported one by one; more are only counted.
const FAULTS_REPORTED: u64 = 20;

/// The results of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    published: u64,
    duplicates: u64,
    refused: u64,
    /// Invalid lines.
    faulty: u64,
    /// Documents without a response at the end.
    unanswered: u64,
}

/// Publishes every line, waits for the acknowledgements, and prints the counts.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let dial = Dial::from_settings(args.dial, &mut settings);
    settings.finish()?;
    let (reader, bytes): (Box<dyn AsyncBufRead + Send + Unpin>, u64) =
        if args.file.as_os_str() == "-" {
            (Box::new(BufReader::new(stdin())), 0)
        } else {
            let (file, length) = open(&args.file).await.with_context(|| {
                format!(
                    "cannot read {}; name a file of lines, or `-`",
                    args.file.display()
                )
            })?;
            (Box::new(BufReader::new(file)), length)
        };
    // Documents are numbered in order: a line that is mended later would shift all numbers behind
    // it.
    let strict = args.producer.is_some();
    let producer = args
        .producer
        .unwrap_or_else(|| format!("cli-{}", uuid::Uuid::new_v4()));
    let publisher = Publisher::open(&dial, &producer, super::report_connection())?;
    let known = select! {
        // Nothing was published, although it was asked for.
        () = stop.cancelled() => return Ok(ExitCode::FAILURE),
        known = super::with_progress(publisher.first_failure(), publisher.greeted()) => known?,
    };
    let mut session = Session {
        publisher: &publisher,
        database: &args.database,
        collection: &args.collection,
        counts: Counts::default(),
        stop,
        known,
        strict,
        replaced: BTreeSet::new(),
        partial: false,
        bar: bar(bytes),
    };
    let outcome = session.publish(reader).await;
    session.bar.finish_and_clear();
    let Session {
        counts, partial, ..
    } = session;
    publisher.close().await;
    outcome?;
    output::note(&format!(
        "{} published, {} duplicates, {} refused, {} faulty lines",
        grouped(counts.published),
        grouped(counts.duplicates),
        grouped(counts.refused),
        grouped(counts.faulty),
    ));
    if counts.unanswered > 0 {
        let unanswered = grouped(counts.unanswered);
        output::note(&format!(
            "{unanswered} got no response; they may be published or not"
        ));
    }
    if partial {
        output::note("stopped early: not everything was published");
    }
    let clean = !partial && counts.refused == 0 && counts.faulty == 0;
    Ok(output::status(clean))
}

/// Opens the file and returns its length.
async fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path).await?;
    let about = file.metadata().await?;
    // Opening a directory succeeds; reading it fails later, when a server was already found.
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((file, about.len()))
}

struct Session<'a> {
    publisher: &'a Publisher,
    database: &'a str,
    collection: &'a str,
    stop: &'a CancellationToken,
    counts: Counts,
    bar: ProgressBar,
    /// Documents of this producer that the server had before.
    known: u64,
    /// An invalid line ends the reading.
    strict: bool,
    /// The fields of which was said that the server replaces them.
    replaced: BTreeSet<&'static str>,
    /// Some lines were not read, or some documents got no response.
    partial: bool,
}

/// The line of each document, and the server's response.
type Responses<'a> = FuturesOrdered<BoxFuture<'a, (u64, anyhow::Result<PublishOutcome>)>>;

impl Session<'_> {
    /// Publishes all lines, or those until stopped, and waits for the responses.
    async fn publish(
        &mut self,
        reader: Box<dyn AsyncBufRead + Send + Unpin>,
    ) -> anyhow::Result<()> {
        // Not `lines`, which ends at the first byte that is not UTF-8.
        let mut lines = reader.split(b'\n');
        let mut waiting = Responses::new();
        let mut number = 0;
        let mut reading = true;
        let mut deadline = None;
        while reading || !waiting.is_empty() {
            select! {
                () = self.stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + RESPONSE_TIMEOUT);
                    // At the end of the input only responses are missing, and those are awaited.
                    self.partial |= reading;
                    reading = false;
                }
                // `select!` evaluates the expression of a disabled branch, too.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.counts.unanswered = waiting.len() as u64;
                    self.partial = true;
                    return Ok(());
                }
                Some((line, taken)) = waiting.next(), if !waiting.is_empty() => {
                    self.on_outcome(line, taken?);
                }
                // Cancel safe: a line that is read in part stays in the buffer of `lines`.
                line = lines.next_segment(), if reading && waiting.len() < IN_FLIGHT => {
                    number += 1;
                    reading = match line.with_context(|| format!("read line {number}"))? {
                        Some(line) => self.line(number, &line, &mut waiting).await?,
                        None => false,
                    };
                }
            }
        }
        Ok(())
    }

    /// Publishes a line. Returns false to end the reading.
    async fn line(
        &mut self,
        number: u64,
        line: &[u8],
        waiting: &mut Responses<'_>,
    ) -> anyhow::Result<bool> {
        self.bar.inc(line.len() as u64 + 1);
        let line = match number {
            // Some editors begin a file with a byte order mark.
            1 => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
            _ => line,
        };
        if line.trim_ascii().is_empty() {
            return Ok(true);
        }
        let parsed = match std::str::from_utf8(line) {
            Ok(line) => Document::parse(line),
            Err(error) => {
                let column = error.valid_up_to() + 1;
                Err(format!("not UTF-8 (byte {column}); convert the file first"))
            }
        };
        let document = match parsed {
            Ok(document) => document,
            Err(fault) => {
                self.counts.faulty += 1;
                self.report(number, &fault, self.counts.faulty);
                self.partial |= self.strict;
                return Ok(!self.strict);
            }
        };
        self.note_system_fields(number, &document);
        let pending = select! {
            biased;
            // A document that fits into the queue is published, even if the interrupt came with it.
            pending = self.publisher.publish(self.database, self.collection, &document) => pending?,
            () = self.stop.cancelled() => {
                self.partial = true;
                return Ok(false);
            }
        };
        waiting.push_back(Box::pin(async move { (number, pending.outcome().await) }));
        Ok(true)
    }

    fn on_outcome(&mut self, line: u64, taken: PublishOutcome) {
        match taken {
            PublishOutcome::Durable(sequence) if sequence <= self.known => {
                self.counts.duplicates += 1;
            }
            PublishOutcome::Durable(_) => self.counts.published += 1,
            PublishOutcome::Refused(reason) => {
                self.counts.refused += 1;
                self.report(line, &format!("refused: {reason}"), self.counts.refused);
            }
        }
        self.bar
            .set_message(format!("{} acknowledged", grouped(self.counts.published)));
    }

    /// Says once of each field that the server does not keep it.
    fn note_system_fields(&mut self, line: u64, document: &Document) {
        for field in document.system_fields() {
            if self.replaced.insert(field) {
                let text = format!(
                    "{} line {line}: the server sets {field:?} itself, so that yours is not stored; \
                     give it another name",
                    styled(BAD, "warning:"),
                );
                self.bar.suspend(|| output::note(&text));
            }
        }
    }

    fn report(&self, line: u64, what: &str, count: u64) {
        if count <= FAULTS_REPORTED {
            let text = format!("{} line {line}: {what}", styled(BAD, "error:"));
            self.bar.suspend(|| output::note(&text));
        } else if count == FAULTS_REPORTED + 1 {
            let text = "more such lines are only counted";
            self.bar.suspend(|| output::note(text));
        }
    }
}

/// Returns a progress bar for a file, a counter for standard input, and nothing without a terminal.
fn bar(bytes: u64) -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = if bytes > 0 {
        (
            ProgressBar::new(bytes),
            "{bar:24} {percent:>3} %  {msg}  {eta} left",
        )
    } else {
        (ProgressBar::new_spinner(), "{spinner} {msg}")
    };
    bar.set_style(ProgressStyle::with_template(template).expect("both templates are well formed"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
