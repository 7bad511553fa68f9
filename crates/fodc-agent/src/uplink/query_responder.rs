//! Responds to the queries of one metrics stream, one at a time.
//!
//! ```text
//!   Inbox ── query ──> QueryResponder ── spawn ──> reading thread: response::write
//!                        │     ^                             │
//!                        │     └─────── parts (channel) <────┘
//!                        └── one message at a time ──> link
//! ```
//!
//! Reading the store blocks, so it runs on a thread of its own. Its parts come over a channel, no
//! faster than the proxy accepts them. The registration has a link of its own and is never delayed
//! by a response.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use steadfast::{Backpressure, Link, transport::Connection};
use steadfast_fodc_model::identity::Identity;
use steadfast_session::Generation;
use steadfast_wire::fodc::StreamMetricsResponse;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    counters::AtomicCounters,
    message_limit::MessageLimit,
    query::Query,
    query_stream::{self, Command, Inbox, QueryProtocol, SendError},
    response::{self, ResponseContext, ResponseSink, ResponseSummary},
    sample_store::SampleStore,
};
use crate::{clock::Clock, scrape::error_chain};

/// Time limits of one response, counted from the moment at which its query is taken up.
///
/// A Go proxy drops a response after 5 s; the limits on reading and sending stay below that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// The reader stops measuring what fits and sends what it has.
    pub(crate) stop_reading: Duration,
    /// The reader adds no further samples.
    pub(crate) stop_sending: Duration,
    /// An empty response is sent if the store has not answered.
    pub(crate) give_up: Duration,
    /// The longest wait for the proxy to accept one message.
    pub(crate) send: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            stop_reading: Duration::from_secs(2),
            stop_sending: Duration::from_secs(4),
            give_up: Duration::from_millis(4_500),
            send: Duration::from_secs(30),
        }
    }
}

/// Parts that are written ahead of what the connection has accepted.
const PARTS_AHEAD: usize = 1;

/// The settings of responses, and what responding shares with the uplink.
#[derive(Clone)]
pub(crate) struct Responding {
    pub(crate) store: Arc<dyn SampleStore>,
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// The longest message of a proxy that does not announce a limit, if configured.
    pub(crate) message_bytes: Option<usize>,
    pub(crate) timeouts: Timeouts,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<AtomicCounters>,
}

/// The task that responds to queries.
pub(crate) struct QueryResponder<C: Connection> {
    pub(crate) link: Link<QueryProtocol<StreamMetricsResponse>, C>,
    pub(crate) inbox: Inbox<StreamMetricsResponse>,
    pub(crate) responding: Responding,
    pub(crate) message_limit: Arc<MessageLimit>,
    /// Probes whether the proxy accepts longer messages. It runs at most once, when a response is
    /// truncated.
    pub(crate) probe: Option<BoxFuture<'static, Option<usize>>>,
    /// The proxy has the profile.
    pub(crate) profile: bool,
    /// Stops the stream from receiving more queries than may wait.
    pub(crate) backpressure: Arc<Backpressure>,
    /// The thread that reads for the newest response.
    pub(crate) reader: Option<JoinHandle<ResponseSummary>>,
}

/// The newest response as its reading thread writes it.
struct Reading {
    parts: mpsc::Receiver<Part>,
    cutoff: Arc<Cutoff>,
}

/// A part of a response.
enum Part {
    Earlier(Bytes),
    Last { message: Bytes, truncated: bool },
}

/// The reason why a reading ended without an error.
enum Forwarded {
    /// Every part was queued, up to the last.
    Whole,
    /// The response was truncated, and the proxy turned out to accept longer messages.
    LimitRaised,
}

impl<C: Connection> QueryResponder<C> {
    /// Responds to queries until `cancel`, which abandons the response under way.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let received = cancel.run_until_cancelled(self.inbox.queries.recv()).await;
            let Some((from, query)) = received.flatten() else {
                return;
            };
            self.responding.counters.queries.increment();
            let responding = self.respond(from, &query);
            if cancel.run_until_cancelled(responding).await.is_none() {
                return;
            }
            // Only now may the stream receive another query in its place.
            self.backpressure.dequeued();
        }
    }

    async fn respond(&mut self, from: Generation, message: &StreamMetricsResponse) {
        // A query that waited behind a slow response may have lost its stream.
        if *self.inbox.stream.borrow_and_update() != Some(from) {
            return;
        }
        // Not from its arrival: a query has all of its time, however slow the one before was.
        let began = Instant::now();
        let (query, invalid) = Query::new(message);
        let mut context = ResponseContext {
            query: Arc::new(query),
            identity: self.responding.identity.borrow().clone(),
            message_bytes: self.message_limit.bytes(),
            profile: self.profile,
            now: self.responding.clock.now_ms(),
        };
        let sent = match invalid {
            Some(error) => {
                warn!(%error, "query is invalid; the response is empty");
                self.send(from, response::empty(&context)).await
            }
            None => self.read_and_send(from, &mut context, began).await,
        };
        match sent {
            Ok(()) => {
                self.responding.counters.responses.increment();
                // Usually the thread has ended with the last part; this counts its samples now.
                self.reader_is_free(began).await;
            }
            Err(SendError::StreamGone) => {
                debug!(generation = from.0, "stream of the query is gone");
            }
            Err(SendError::TimedOut) => {
                warn!(generation = from.0, "proxy does not accept the response");
                // A closed link has no stream to end.
                self.link.send_command(Command::Abandon(from)).await.ok();
            }
        }
    }

    /// Reads the store and sends the response, again if a longer message turns out to be possible.
    async fn read_and_send(
        &mut self,
        from: Generation,
        context: &mut ResponseContext,
        began: Instant,
    ) -> Result<(), SendError> {
        while self.reader_is_free(began).await {
            let reading = self.read(context);
            match self.forward(from, context, began, reading).await? {
                Forwarded::Whole => return Ok(()),
                Forwarded::LimitRaised => context.message_bytes = self.message_limit.bytes(),
            }
        }
        self.send(from, response::empty(context)).await
    }

    /// Waits for the thread of the last response, and returns false if the store is stuck: another
    /// thread would only get stuck as well.
    async fn reader_is_free(&mut self, began: Instant) -> bool {
        let Some(reader) = &mut self.reader else {
            return true;
        };
        let Ok(ended) = timeout_at(began + self.responding.timeouts.stop_sending, reader).await
        else {
            warn!("record still does not answer an earlier query");
            self.responding.counters.failed.increment();
            return false;
        };
        self.reader = None;
        self.count(ended);
        true
    }

    /// Starts a thread that reads the store and writes the response.
    fn read(&mut self, context: &ResponseContext) -> Reading {
        let (sender, parts) = mpsc::channel(PARTS_AHEAD);
        let cutoff = Arc::new(Cutoff::default());
        let (context, store) = (context.clone(), Arc::clone(&self.responding.store));
        let mut sink = PartSender {
            parts: sender,
            cutoff: Arc::clone(&cutoff),
        };
        self.reader = Some(spawn_blocking(move || {
            response::write(&context, store.as_ref(), &mut sink)
        }));
        Reading { parts, cutoff }
    }

    /// Sends the parts as they come. A last part is always sent, also if the reading is late or
    /// panics.
    async fn forward(
        &mut self,
        from: Generation,
        context: &ResponseContext,
        began: Instant,
        mut reading: Reading,
    ) -> Result<Forwarded, SendError> {
        let Timeouts {
            stop_reading,
            stop_sending,
            give_up,
            ..
        } = self.responding.timeouts;
        let cutoff = &reading.cutoff;
        loop {
            let part = tokio::select! {
                // A response to a stream that is gone is not worth another part.
                biased;
                _ = self.inbox.stream.wait_for(|stream| *stream != Some(from)) => {
                    return Err(SendError::StreamGone);
                }
                part = reading.parts.recv() => part,
                () = sleep_until(began + stop_reading), if !cutoff.must_stop_reading() => {
                    cutoff.stop_reading();
                    continue;
                }
                () = sleep_until(began + stop_sending), if !cutoff.must_stop_sending() => {
                    cutoff.stop_sending();
                    continue;
                }
                // The receiver goes with `reading`, and the thread stops at its next check.
                () = sleep_until(began + give_up) => None,
            };
            match part {
                // The store is late, or the reading thread panicked.
                None => break,
                Some(Part::Earlier(message)) => self.send(from, message).await?,
                // Only while everything can be read again in time.
                Some(Part::Last {
                    truncated: true, ..
                }) if began.elapsed() < stop_reading && self.raise_limit().await => {
                    return Ok(Forwarded::LimitRaised);
                }
                Some(Part::Last { message, .. }) => {
                    self.send(from, message).await?;
                    return Ok(Forwarded::Whole);
                }
            }
        }
        // Earlier parts may have gone out. This last one is complete at no time, so that they do
        // not count.
        self.send(from, response::empty(context)).await?;
        Ok(Forwarded::Whole)
    }

    /// Probes the proxy's limit on messages, once, and returns true if it is higher than was known.
    async fn raise_limit(&mut self) -> bool {
        // One probe per stream: its result does not change, and a query waits for it.
        let Some(probe) = self.probe.take() else {
            return false;
        };
        let found = probe.await;
        found.is_some_and(|bytes| self.message_limit.raise(bytes))
    }

    /// Adds the result of a reading thread to the counters.
    fn count(&self, ended: Result<ResponseSummary, JoinError>) {
        match ended {
            Ok(summary) => {
                self.responding.counters.samples.add(summary.samples);
                self.responding.counters.not_finite.add(summary.not_finite);
                if summary.truncated {
                    self.responding.counters.truncated.increment();
                }
                if let Some(error) = summary.error {
                    warn!(error = error_chain(&error), "response is incomplete");
                    self.responding.counters.failed.increment();
                }
            }
            Err(error) => {
                warn!(%error, "reading the record panicked");
                self.responding.counters.failed.increment();
            }
        }
    }

    /// Waits until the link can take a message and queues it.
    async fn send(&mut self, from: Generation, message: Bytes) -> Result<(), SendError> {
        let limit = self.responding.timeouts.send;
        query_stream::send(&self.link, &mut self.inbox, limit, from, message).await
    }
}

/// Tells the reading thread which time limits have passed.
#[derive(Debug, Default)]
struct Cutoff {
    reading: AtomicBool,
    sending: AtomicBool,
}

impl Cutoff {
    fn stop_reading(&self) {
        self.reading.store(true, Ordering::Release);
    }

    /// Stops sending, and reading with it.
    fn stop_sending(&self) {
        self.stop_reading();
        self.sending.store(true, Ordering::Release);
    }

    fn must_stop_reading(&self) -> bool {
        self.reading.load(Ordering::Acquire)
    }

    fn must_stop_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire)
    }
}

/// The reading thread's end of a [`Reading`].
struct PartSender {
    parts: mpsc::Sender<Part>,
    cutoff: Arc<Cutoff>,
}

impl ResponseSink for PartSender {
    fn part(&mut self, message: Bytes) -> ControlFlow<()> {
        match self.parts.blocking_send(Part::Earlier(message)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn last(&mut self, message: Bytes, truncated: bool) {
        // The receiver is gone if the response was given up or its stream has ended.
        let last = Part::Last { message, truncated };
        self.parts.blocking_send(last).ok();
    }

    fn must_stop_reading(&self) -> bool {
        self.cutoff.must_stop_reading() || self.must_stop_sending()
    }

    fn must_stop_sending(&self) -> bool {
        // Nobody waits for the rest once the receiver is gone.
        self.cutoff.must_stop_sending() || self.parts.is_closed()
    }
}
