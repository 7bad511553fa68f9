//! The stream of a source: queries are answered one at a time, each on the stream that asked.

use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use steadfast::{Backpressure, CallCredentials, transport::Connection};
use steadfast_session::{CheckedConfig, End, Generation, Reason, Status};
use tokio::{
    sync::mpsc,
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    counters::Counter,
    message_limit::{self, MessageLimit, RELEASE_LIMIT},
    query_stream::{self, Command, Inbox, SendError},
    registration::Registered,
    source::{Responses, Source, SourceKind},
    supervisor::{
        EndLog, OpenStream, StreamCall, StreamLink, StreamOpener, StreamStatus, UNIMPLEMENTED,
        is_too_long,
    },
};

/// Opens the stream of one source for each registration.
pub(crate) struct SourceStream<K: SourceKind> {
    pub(crate) config: CheckedConfig,
    pub(crate) credentials: CallCredentials,
    pub(crate) source: Arc<dyn Source<K>>,
    /// The longest message of a proxy that does not announce a limit, if configured.
    pub(crate) message_bytes: Option<usize>,
    pub(crate) counters: Arc<SourceCounters>,
}

/// The counters of one kind of stream.
#[derive(Debug, Default)]
pub(crate) struct SourceCounters {
    streams: Counter,
    unimplemented: Counter,
    queries: Counter,
    messages: Counter,
    failed: Counter,
}

/// The stream of one source, as the agent shows it.
#[derive(Debug)]
pub(crate) struct SourceStatus {
    pub(crate) name: &'static str,
    pub(crate) status: Arc<StreamStatus>,
    pub(crate) counters: Arc<SourceCounters>,
}

/// The task that responds on one stream.
struct SourceResponder<K: SourceKind, C: Connection> {
    link: StreamLink<C, K::Query>,
    inbox: Inbox<K::Query>,
    source: Arc<dyn Source<K>>,
    limit: Arc<MessageLimit>,
    probe: Option<BoxFuture<'static, Option<usize>>>,
    profile: bool,
    backpressure: Arc<Backpressure>,
    counters: Arc<SourceCounters>,
}

/// Queries that may wait; beyond that the stream is not read.
const QUERIES_WAITING: usize = 16;

/// Messages that are written ahead of what the connection has accepted.
const MESSAGES_AHEAD: usize = 1;

/// Longest wait for the proxy to accept one message.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

impl SourceCounters {
    /// Returns the name, the description and the value of each counter.
    pub(crate) fn all(&self) -> [(&'static str, &'static str, u64); 5] {
        [
            ("streams", "Streams opened", self.streams.get()),
            (
                "unimplemented",
                "Registrations whose proxy does not implement the stream",
                self.unimplemented.get(),
            ),
            ("queries", "Queries received", self.queries.get()),
            ("messages", "Messages sent", self.messages.get()),
            (
                "failures",
                "Queries whose response was not sent to its end",
                self.failed.get(),
            ),
        ]
    }
}

impl SourceStatus {
    /// Returns the status of the stream while the agent is registered.
    pub(crate) fn current(&self) -> Option<Status> {
        let stream = self.status.borrow().clone();
        stream.map(|stream| stream.borrow().clone())
    }
}

impl<K: SourceKind, C: Connection> StreamOpener<C> for SourceStream<K> {
    type Query = K::Query;

    fn open(&self, registered: &Registered, connection: C) -> OpenStream<C, K::Query> {
        let announced = registered.message_bytes().or(self.message_bytes);
        let limit = Arc::new(MessageLimit::new(announced.unwrap_or(RELEASE_LIMIT)));
        let probe = (K::MAY_BE_LONG && announced.is_none())
            .then(|| message_limit::probe(connection.clone(), self.credentials.clone()).boxed());
        let backpressure = Backpressure::new(QUERIES_WAITING);
        let (counters, halved) = (Arc::clone(&self.counters), Arc::clone(&limit));
        let mut log = EndLog::new(K::NAME);
        let (sink, inbox) =
            query_stream::channel(Arc::clone(&backpressure), move |end| match end {
                None => counters.streams.increment(),
                Some(end) => on_ended(end, &mut log, &counters, &halved),
            });
        let call = StreamCall {
            method: K::METHOD,
            name: K::NAME,
            config: &self.config,
            credentials: &self.credentials,
            backpressure: Arc::clone(&backpressure),
        };
        let profile = registered.profile.is_some();
        let (source, counters) = (Arc::clone(&self.source), Arc::clone(&self.counters));
        call.open(registered, connection, sink, |link, cancel| {
            let responder = SourceResponder {
                link,
                inbox,
                source,
                limit,
                probe,
                profile,
                backpressure,
                counters,
            };
            responder.run(cancel)
        })
    }
}

impl<K: SourceKind, C: Connection> SourceResponder<K, C> {
    /// Responds to queries until `cancel`, which abandons the response under way.
    async fn run(mut self, cancel: CancellationToken) {
        loop {
            let received = cancel.run_until_cancelled(self.inbox.queries.recv()).await;
            let Some((from, query)) = received.flatten() else {
                return;
            };
            self.counters.queries.increment();
            let responding = self.respond(from, query);
            if cancel.run_until_cancelled(responding).await.is_none() {
                return;
            }
            // Only now may the stream receive another query in its place.
            self.backpressure.dequeued();
        }
    }

    async fn respond(&mut self, from: Generation, query: K::Query) {
        // A query that waited behind a slow response may have lost its stream.
        if *self.inbox.stream.borrow_and_update() != Some(from) {
            return;
        }
        // Once for each registration, and only if somebody asks.
        if let Some(probe) = self.probe.take()
            && let Some(bytes) = probe.await
        {
            self.limit.raise(bytes);
        }
        let (stream, error) = (
            K::NAME,
            match self.forward(from, query).await {
                Ok(()) => return,
                Err(SendError::StreamGone) => {
                    debug!(
                        stream = K::NAME,
                        generation = from.0,
                        "stream of the query is gone"
                    );
                    return;
                }
                Err(SendError::TimedOut) => "proxy does not accept the response",
            },
        );
        warn!(stream, generation = from.0, error);
        self.counters.failed.increment();
        // A closed link has no stream to end.
        self.link.send_command(Command::Abandon(from)).await.ok();
    }

    /// Runs the source and sends what it responds.
    async fn forward(&mut self, from: Generation, query: K::Query) -> Result<(), SendError> {
        let (sender, mut messages) = mpsc::channel(MESSAGES_AHEAD);
        let responses = Responses::new(sender, self.limit.bytes(), self.profile);
        let source = Arc::clone(&self.source);
        // A panic of a source must not end the task, or its stream would be open and mute (O12).
        let responding = AssertUnwindSafe(source.respond(query, responses)).catch_unwind();
        // Dropped when it has ended, because it holds the sender of the messages.
        let mut responding = Some(Box::pin(timeout(K::TIME_LIMIT, responding)));
        loop {
            let ended = async {
                match &mut responding {
                    Some(responding) => responding.await,
                    None => pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                _ = self.inbox.stream.wait_for(|stream| *stream != Some(from)) => {
                    return Err(SendError::StreamGone);
                }
                message = messages.recv() => Ok(message),
                outcome = ended => Err(outcome),
            };
            match next {
                Ok(Some(message)) => self.send(from, message).await?,
                // The source has dropped the sender, and everything is sent.
                Ok(None) => return Ok(()),
                Err(outcome) => {
                    responding = None;
                    self.report(&outcome.map(|ended| ended.is_ok()));
                }
            }
        }
    }

    async fn send(&mut self, from: Generation, message: Bytes) -> Result<(), SendError> {
        query_stream::send(&self.link, &mut self.inbox, SEND_TIMEOUT, from, message).await?;
        self.counters.messages.increment();
        Ok(())
    }

    /// Reports a source that has failed: one that panicked, or that took too long.
    fn report(&self, outcome: &Result<bool, Elapsed>) {
        let error = match outcome {
            Ok(true) => return,
            Ok(false) => "source panicked",
            Err(_) => "source took too long",
        };
        warn!(stream = K::NAME, error);
        self.counters.failed.increment();
    }
}

/// Reacts to the end of a stream: switches it off quietly for a proxy that does not have it, and lowers
/// the limit after a message that was too long.
fn on_ended(end: &End, log: &mut EndLog, counters: &SourceCounters, limit: &MessageLimit) {
    if matches!(end.reason, Reason::Status { code, .. } if code == UNIMPLEMENTED) {
        // Every release lacks some of the streams, so this is nothing to warn of.
        debug!(%end, "proxy does not implement the stream; off until the next registration");
        counters.unimplemented.increment();
        return;
    }
    if is_too_long(&end.reason) {
        limit.halve();
    }
    log.log(end);
}

#[cfg(test)]
mod tests;
