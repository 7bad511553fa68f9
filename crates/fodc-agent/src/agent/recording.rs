//! The thread that owns the record.
//!
//! ```text
//!   poller ── pieces ──┐
//!   poller ── pieces ──┼──> mailbox (bounded in bytes) ──> parser and record, per endpoint
//!   every few seconds: sync ──┘
//! ```
//!
//! Each endpoint has a record of its own, and all of them one budget: what one brings does not push
//! out the whole history of another.
//!
//! Parsing is done here too: the parser remembers the ids that the record gave its series, and
//! nothing has to be handed over but the bytes of a page, piece by piece.

mod desk;
mod health;
mod late;
mod mailbox;
mod page;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use steadfast_recorder::{OpenError, Recorders, WriteError};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub(crate) use self::mailbox::{Mailbox, Snapshot, Window};
use self::{
    desk::Desk,
    mailbox::{Message, mailboxes},
};
use super::{
    Config,
    board::{Board, State},
};

/// Bytes of a line with a sample, when it is guessed how many a piece may have.
const LINE_BYTES: usize = 32;

/// Samples of what the agent says about one reading, about.
const HEALTH_SAMPLES: usize = 32;

/// The name of the source in which the agent says how it reads another.
pub(super) fn health_source(source: &str) -> String {
    format!("health:{source}")
}

/// The recording thread. It ends when it is told to and the last mailbox is gone; what stands in the
/// mailboxes then is recorded, and everything is made durable.
#[derive(Debug)]
pub(super) struct Recording {
    ended: mpsc::Sender<()>,
    window: Window,
    /// Keeps the thread, so that the record can be seen when nothing is read any more.
    open: Option<Mailbox>,
}

impl Recording {
    /// Starts it. The mailbox is to be cloned for each endpoint with [`Mailbox::of`].
    pub(super) fn start(
        mut recorders: Recorders,
        config: &Config,
        board: Arc<Board>,
    ) -> Result<(Self, Vec<Mailbox>), RecordingError> {
        let mut desks = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            let url = endpoint.source();
            let member = recorders.recorder(&url)?;
            let mut turn = recorders.reserve(member, 0);
            let sources = (turn.source(&url)?, turn.source(&health_source(&url))?);
            desks.push(Desk::new(
                url,
                member,
                sources,
                config.page,
                config.honor_timestamps,
            ));
        }
        let (mailbox, messages) = mailboxes();
        let (ended, end) = mpsc::channel(1);
        let thread = Thread {
            recorders,
            desks,
            board,
        };
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || {
                thread.run(messages);
                drop(end);
            })?;
        let mailboxes = (0..config.endpoints.len()).map(|endpoint| mailbox.of(endpoint));
        let window = mailbox.window();
        let mailboxes = mailboxes.collect();
        let open = Some(mailbox);
        let recording = Self {
            ended,
            window,
            open,
        };
        Ok((recording, mailboxes))
    }

    /// Where the record can be seen.
    pub(super) fn window(&self) -> Window {
        self.window.clone()
    }

    /// Ends it, and resolves when everything is recorded and durable.
    pub(super) async fn end(&mut self) {
        self.open = None;
        self.ended().await;
    }

    /// Resolves when the thread has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent: the receiver goes when the thread does.
        self.ended.closed().await;
    }
}

/// Why recording did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Refused(#[from] steadfast_recorder::LimitError),
    #[error("can not start the recording thread: {0}")]
    Thread(#[from] io::Error),
}

/// Has the record made durable every so often. What is begun when it is stopped is brought to its
/// end.
pub(super) async fn sync_regularly(mailbox: Mailbox, every: Duration, stop: CancellationToken) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        mailbox.sync().await;
    }
}

struct Thread {
    recorders: Recorders,
    desks: Vec<Desk>,
    board: Arc<Board>,
}

impl Thread {
    fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let board = Arc::clone(&self.board);
        let _told = TellEnd(&board);
        while let Some(message) = messages.blocking_recv() {
            self.take(message);
        }
        let synced = self.recorders.sync(Instant::now());
        self.judge(synced.map_err(|error| error.to_string()));
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Begin { endpoint, format } => self.desks[endpoint].begin(format),
            Message::Piece {
                endpoint, bytes, ..
            } => {
                let desk = &mut self.desks[endpoint];
                let series = bytes.len() / LINE_BYTES;
                desk.piece(&mut self.recorders.reserve(desk.member, series), &bytes);
            }
            Message::End {
                endpoint,
                reading,
                done,
            } => {
                let desk = &mut self.desks[endpoint];
                let samples = desk.samples() + HEALTH_SAMPLES;
                let written = desk.end(&mut self.recorders.reserve(desk.member, samples), reading);
                self.publish(endpoint, written);
                done.send(()).ok();
            }
            Message::Show { to } => {
                let snapshot = Snapshot {
                    reader: self.recorders.reader(),
                    stats: self.recorders.stats(),
                    shares: (self.desks.iter())
                        .map(|desk| self.recorders.stats_of(desk.member))
                        .collect(),
                    state: self.board.read(),
                };
                to.send(snapshot).ok();
            }
            Message::SyncJob { to } => {
                to.send(self.recorders.begin_sync(Instant::now())).ok();
            }
            Message::Synced { synced } => {
                let synced = self.recorders.finish_sync(synced);
                self.judge(synced.map_err(|error| error.to_string()));
            }
        }
    }

    fn publish(&mut self, endpoint: usize, written: Result<(), WriteError>) {
        let now = self.desks[endpoint].state().clone();
        self.board.write(|state| state.endpoints[endpoint] = now);
        self.judge(written.map_err(|error| error.to_string()));
    }

    /// Tells once that the record can not be written, and once that it can again.
    fn judge(&self, done: Result<(), String>) {
        let failure = done.err();
        self.board.write(|State { record, .. }| {
            match (&record.failing, &failure) {
                (None, Some(failure)) => error!(%failure, "the record can not be written"),
                (Some(_), None) => warn!("the record is written again"),
                (Some(_), Some(_)) | (None, None) => {}
            }
            record.write_errors += u64::from(failure.is_some());
            record.failing = failure;
        });
    }
}

/// Tells the board that the thread has ended, also by a panic.
struct TellEnd<'a>(&'a Board);

impl Drop for TellEnd<'_> {
    fn drop(&mut self) {
        self.0.write(|state| state.ended = true);
    }
}
