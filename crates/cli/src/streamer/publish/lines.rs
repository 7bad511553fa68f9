//! Publishing line by line: reading, sending, and counting what became of each.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use indicatif::ProgressBar;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _},
    select,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::progress::{Progress, Settled};
use crate::{
    clients::{Dial, PublishOutcome, Publisher, RESPONSE_TIMEOUT},
    document::Document,
    output::{self, BAD, styled},
    streamer::{report_connection, with_progress},
    units::grouped,
};

/// Lines that may wait for a response.
const IN_FLIGHT: usize = 1_024;
/// Invalid lines that are reported one by one; more are only counted.
const FAULTS_REPORTED: u64 = 20;
/// Interval at which the progress is stored. What a kill leaves unnoted is sent again, and stored once.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// The lines of one input, on their way to a server.
pub(super) struct Lines<'a> {
    pub(super) dial: Dial,
    pub(super) producer: String,
    /// Database and collection.
    pub(super) to: (String, String),
    pub(super) stop: &'a CancellationToken,
    /// An invalid line ends the reading.
    pub(super) strict: bool,
    /// Opened for the first document: an input without one needs no server.
    pub(super) publisher: Option<Publisher>,
    /// Documents of this producer that the server had before.
    pub(super) known: u64,
    /// The lines whose fate is known, from the beginning of the input on.
    pub(super) settled: Settled,
    /// The lines that were read.
    pub(super) read: Settled,
    pub(super) progress: Option<Progress>,
    /// The fields of which was said that the server replaces them.
    pub(super) replaced: BTreeSet<&'static str>,
    /// The lines without a response at the end.
    pub(super) unanswered: u64,
    /// Some lines were not read, or some documents got no response.
    pub(super) partial: bool,
    pub(super) bar: ProgressBar,
}

/// The result of a line.
enum Fate {
    Empty,
    Faulty(String),
    Sent(PublishOutcome),
}

/// The lines that were read and are not settled, in order, each with what was read up to it.
type Waiting = FuturesOrdered<BoxFuture<'static, (Settled, anyhow::Result<Fate>)>>;

impl Lines<'_> {
    /// Publishes all lines, or those until stopped, and waits for the responses.
    pub(super) async fn publish(
        &mut self,
        reader: Box<dyn AsyncBufRead + Send + Unpin>,
    ) -> anyhow::Result<()> {
        // Not `lines`, which ends at the first byte that is not UTF-8.
        let mut lines = reader.split(b'\n');
        let mut waiting = Waiting::new();
        let mut store_at = Instant::now() + STORE_INTERVAL;
        let mut reading = true;
        let mut deadline = None;
        while reading || !waiting.is_empty() {
            select! {
                () = self.stop.cancelled(), if deadline.is_none() => {
                    // Without a connection no response comes soon.
                    let connected = self.publisher.as_ref().is_some_and(Publisher::is_connected);
                    let wait = if connected { RESPONSE_TIMEOUT } else { Duration::ZERO };
                    deadline = Some(Instant::now() + wait);
                    // At the end of the input only responses are missing, and those are awaited.
                    self.partial |= reading;
                    reading = false;
                }
                // `select!` evaluates the expression of a disabled branch, too.
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    break;
                }
                Some((upto, fate)) = waiting.next(), if !waiting.is_empty() => {
                    match fate {
                        Ok(fate) => self.settle(upto, fate),
                        Err(error) => {
                            // The document belongs to those without a response.
                            self.leave(waiting.len() as u64 + 1);
                            return Err(error);
                        }
                    }
                    if store_at <= Instant::now() {
                        self.store()?;
                        store_at = Instant::now() + STORE_INTERVAL;
                    }
                }
                // Cancel safe: a line that is read in part stays in the buffer of `lines`.
                line = lines.next_segment(), if reading && waiting.len() < IN_FLIGHT => {
                    let number = self.read.lines + 1;
                    reading = match line.with_context(|| format!("read line {number}"))? {
                        Some(line) => self.line(&line, &mut waiting).await?,
                        None => false,
                    };
                }
            }
        }
        self.leave(waiting.len() as u64);
        Ok(())
    }

    /// Closes the publisher and stores the progress, or removes it if nothing is left to do.
    pub(super) async fn finish(&mut self) -> anyhow::Result<()> {
        if let Some(publisher) = self.publisher.take() {
            publisher.close().await;
        }
        match &self.progress {
            // Either all is published, or no run has sent anything under the producer's name.
            Some(progress)
                if !self.partial || (self.read.sequence == 0 && !progress.is_resumed) =>
            {
                progress
                    .remove()
                    .with_context(|| format!("cannot remove {}", progress.path().display()))
            }
            Some(_) => self.store(),
            None => Ok(()),
        }
    }

    /// Notes the lines that stay without a response.
    fn leave(&mut self, lines: u64) {
        self.unanswered = lines;
        self.partial |= lines > 0;
    }

    /// Publishes a line. Returns false to end the reading.
    async fn line(&mut self, line: &[u8], waiting: &mut Waiting) -> anyhow::Result<bool> {
        self.read.lines += 1;
        self.read.bytes += line.len() as u64 + 1;
        self.bar.inc(line.len() as u64 + 1);
        let line = match self.read.lines {
            // Some editors begin a file with a byte order mark.
            1 => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
            _ => line,
        };
        let (goes_on, fate) = if line.trim_ascii().is_empty() {
            (true, Fate::Empty)
        } else {
            match parse(line) {
                Ok(document) => return self.document(document, waiting).await,
                Err(fault) => (!self.strict, Fate::Faulty(fault)),
            }
        };
        self.partial |= !goes_on;
        let upto = self.read;
        // Behind the documents before it: what is settled has no holes.
        waiting.push_back(Box::pin(async move { (upto, Ok(fate)) }));
        Ok(goes_on)
    }

    async fn document(
        &mut self,
        document: Document,
        waiting: &mut Waiting,
    ) -> anyhow::Result<bool> {
        self.note_system_fields(&document);
        let stopped = self.stop.clone();
        if self.publisher.is_none() && !self.connect().await? {
            return Ok(self.take_back());
        }
        let Some(publisher) = &self.publisher else {
            return Ok(self.take_back());
        };
        let (database, collection) = &self.to;
        let pending = select! {
            biased;
            // A document that fits into the queue is published, even if the interrupt came with it.
            pending = publisher.publish(database, collection, &document) => pending?,
            () = stopped.cancelled() => return Ok(self.take_back()),
        };
        self.read.sequence += 1;
        let upto = self.read;
        waiting.push_back(Box::pin(async move {
            (upto, pending.outcome().await.map(Fate::Sent))
        }));
        Ok(true)
    }

    /// Ends the reading before a document that was not sent.
    fn take_back(&mut self) -> bool {
        self.partial = true;
        false
    }

    /// Connects and waits for the greeting. Returns false if it is stopped before.
    async fn connect(&mut self) -> anyhow::Result<bool> {
        // Before anything is sent: whoever goes on after a kill needs the name of the producer.
        self.store()?;
        let first = self.settled.sequence + 1;
        let publisher = Publisher::open(&self.dial, &self.producer, first, report_connection())?;
        let greeted = with_progress(publisher.first_failure(), publisher.greeted());
        let known = select! {
            () = self.stop.cancelled() => None,
            known = greeted => Some(known),
        };
        self.publisher = Some(publisher);
        let Some(known) = known else {
            return Ok(false);
        };
        self.known = known?;
        if self.known < self.settled.sequence {
            bail!(
                "the server has {} documents of {:?}, and {} were acknowledged: it is another server, \
                 or has lost data or the name; remove the file of progress to publish all lines anew",
                self.known,
                self.producer,
                self.settled.sequence
            );
        }
        Ok(true)
    }

    fn settle(&mut self, upto: Settled, fate: Fate) {
        let counts = &mut self.settled.counts;
        match fate {
            Fate::Empty => counts.empty += 1,
            Fate::Faulty(fault) => {
                counts.faulty += 1;
                let count = counts.faulty;
                self.report(upto.lines, &fault, count);
            }
            // With a file of progress, what was there before was sent by an earlier run of the same
            // publication.
            Fate::Sent(PublishOutcome::Durable(published))
                if published.sequence <= self.known && self.progress.is_none() =>
            {
                counts.duplicates += 1;
            }
            Fate::Sent(PublishOutcome::Durable(_)) => counts.published += 1,
            Fate::Sent(PublishOutcome::Refused(reason)) => {
                counts.refused += 1;
                let count = counts.refused;
                self.report(upto.lines, &format!("refused: {reason}"), count);
            }
        }
        let counts = self.settled.counts;
        self.settled = Settled { counts, ..upto };
        self.bar
            .set_message(format!("{} acknowledged", grouped(counts.published)));
    }

    fn store(&mut self) -> anyhow::Result<()> {
        let Some(progress) = &mut self.progress else {
            return Ok(());
        };
        progress.state.settled = self.settled;
        progress.store().with_context(|| {
            let place = progress.path().display();
            format!("cannot write {place}; choose another place with --progress")
        })
    }

    /// Says once of each field that the server does not keep it.
    fn note_system_fields(&mut self, document: &Document) {
        for field in document.system_fields() {
            if self.replaced.insert(field) {
                let text = format!(
                    "{} line {}: the server sets {field:?} itself, so that yours is not stored; \
                     give it another name",
                    styled(BAD, "warning:"),
                    self.read.lines,
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

fn parse(line: &[u8]) -> Result<Document, String> {
    match std::str::from_utf8(line) {
        Ok(line) => Document::parse(line),
        Err(error) => {
            let column = error.valid_up_to() + 1;
            Err(format!("not UTF-8 (byte {column}); convert the file first"))
        }
    }
}
