//! The publisher service: receives entries, and acknowledges each when it is durable.

use std::{
    collections::VecDeque,
    future::ready,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use steadfast_wire::publisher::{
    Ack, Authenticated, Entry, PublishRequest, PublishResponse, PublisherWelcome, Refused,
    RefusedCode, publish_request, publish_response, publisher_service_server::PublisherService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    access::{Admission, CallRights},
    puller_intake::RESERVED_PREFIX,
};
use crate::{
    Epoch, Operation,
    log::{
        KnownNames, LogReader, LogWriter, Outcome, PendingCommit, RefusedEntry, Submission,
        WriteError, with_sources,
    },
};

/// Maximum number of responses queued for the transport. Beyond it, no more entries are received.
const RESPONSES: usize = 64;

/// Maximum number of received entries that are queued for the log together.
const BATCH: usize = 256;

/// Interval at which the log learns that a producer is connected. A clock that jumps ages a producer by
/// at most ten minutes per second: less than its lifetime in this interval.
const TOUCH_INTERVAL: Duration = Duration::from_secs(300);

/// Maximum length of a producer's name, in bytes.
const PRODUCER_BYTES: usize = 256;

/// The totals of all publishers.
#[derive(Debug, Default)]
pub(super) struct PublishCounters {
    /// Open streams.
    pub(super) streams: AtomicU64,
    /// Entries that were received.
    pub(super) received: AtomicU64,
    /// Entries that were appended to the log.
    pub(super) appended: AtomicU64,
    /// Entries that the log had before.
    pub(super) duplicates: AtomicU64,
    /// Entries that the log refused.
    pub(super) refused: AtomicU64,
}

/// Counts an open stream until it is dropped.
struct OpenStream(Arc<PublishCounters>);

impl OpenStream {
    fn new(counters: &Arc<PublishCounters>) -> Self {
        counters.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts publishers' streams.
#[derive(Clone)]
pub(super) struct PublishService {
    writer: LogWriter,
    reader: Arc<dyn LogReader>,
    epoch: Epoch,
    max_in_flight: u32,
    /// Cancelled when the server drains.
    drain: CancellationToken,
    counters: Arc<PublishCounters>,
    admission: Admission,
}

/// One publisher's stream.
struct PublisherStream {
    service: PublishService,
    /// Set by the greeting.
    producer: Arc<str>,
    names: KnownNames,
    /// The commits in progress, oldest first, with the sequences of their entries.
    pending: VecDeque<(Vec<u64>, PendingCommit)>,
    /// The number of entries in `pending`.
    in_flight: usize,
    responses: mpsc::Sender<Result<PublishResponse, Status>>,
    /// `None` if everybody may publish everything.
    rights: Option<CallRights>,
}

impl PublishService {
    pub(super) fn new(
        writer: LogWriter,
        reader: Arc<dyn LogReader>,
        max_in_flight: u32,
        drain: CancellationToken,
        counters: Arc<PublishCounters>,
        admission: Admission,
    ) -> Self {
        Self {
            writer,
            epoch: reader.epoch(),
            reader,
            max_in_flight: max_in_flight.max(1),
            drain,
            counters,
            admission,
        }
    }
}

#[tonic::async_trait]
impl PublisherService for PublishService {
    type PublishStream = Pin<Box<dyn Stream<Item = Result<PublishResponse, Status>> + Send>>;

    /// Opens a stream and returns before any message is received, so that the headers are sent at
    /// once.
    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        // A connection that is draining may still open calls until its peer has seen the GOAWAY.
        if self.drain.is_cancelled() {
            return Err(stopping());
        }
        let headers = request.metadata().as_ref();
        let rights = self.admission.call_rights(headers, request.extensions())?;
        let mut followed = rights.clone();
        let (sender, responses) = mpsc::channel(RESPONSES);
        let stream = PublisherStream {
            service: self.clone(),
            producer: Arc::from(""),
            names: KnownNames::default(),
            pending: VecDeque::new(),
            in_flight: 0,
            responses: sender.clone(),
            rights,
        };
        let (requests, drain) = (request.into_inner(), self.drain.clone());
        let open = OpenStream::new(&self.counters);
        let call = async move {
            let _open = open;
            let ended = tokio::select! {
                ended = stream.run(requests) => ended,
                // The publisher resends what is not acknowledged, so pending commits need no wait.
                () = drain.cancelled() => Err(stopping()),
                // An idle publisher loses its stream as well.
                status = credentials_end(&mut followed) => Err(status),
            };
            if let Err(status) = ended {
                sender.send(Err(status)).await.ok();
            }
        };
        // Not a task of its own: the task of the connection would wake it for each entry, and it the
        // connection for each acknowledgement.
        let call = stream::once(call).filter_map(|()| ready(None));
        let responses = stream::select(ReceiverStream::new(responses), call);
        Ok(Response::new(Box::pin(responses)))
    }
}

impl PublisherStream {
    /// Runs until the publisher has ended its half and all its entries are acknowledged.
    async fn run(mut self, requests: Streaming<PublishRequest>) -> Result<(), Status> {
        // What has arrived together is queued together: one commit then carries many entries.
        let mut requests = requests.ready_chunks(BATCH);
        self.greet(&mut requests).await?;
        let mut open = true;
        // The first tick is immediate, so that a producer is noted when it connects.
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        while open || !self.pending.is_empty() {
            // A chunk may exceed the limit by its length less one. A peer that keeps to the welcome
            // never does.
            let accepts = open && self.in_flight < self.service.max_in_flight as usize;
            tokio::select! {
                // Acknowledgements first: each makes room for more entries.
                biased;
                Some((sequences, outcomes)) = next_commit(&mut self.pending) => {
                    self.acknowledge(sequences, outcomes).await?;
                }
                chunk = requests.next(), if accepts => match chunk {
                    Some(chunk) => self.receive(chunk).await?,
                    None => open = false,
                },
                // Last, because commits also note the producer: only one that is idle needs it.
                _ = touch.tick() => self.service.writer.touch(Arc::clone(&self.producer)),
            }
        }
        Ok(())
    }

    /// Receives the hello, and sends the welcome.
    async fn greet(
        &mut self,
        requests: &mut (impl Stream<Item = Vec<Result<PublishRequest, Status>>> + Unpin),
    ) -> Result<(), Status> {
        let Some(chunk) = requests.next().await else {
            return Ok(());
        };
        let mut messages = chunk.into_iter();
        let first = messages
            .next()
            .transpose()?
            .and_then(|request| request.payload);
        let Some(publish_request::Payload::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        if hello.producer_id.is_empty() || hello.producer_id.len() > PRODUCER_BYTES {
            let length = hello.producer_id.len();
            return Err(Status::invalid_argument(format!(
                "producer_id has {length} bytes, it must have 1 to {PRODUCER_BYTES}"
            )));
        }
        // On a server with a policy, one of them separates the principal from the id.
        if hello.producer_id.contains(char::is_control) {
            return Err(Status::invalid_argument(
                "producer_id has control characters; choose one without",
            ));
        }
        if hello.producer_id.starts_with(RESERVED_PREFIX) {
            return Err(Status::invalid_argument(format!(
                "producer ids that begin with {RESERVED_PREFIX:?} are reserved; choose another"
            )));
        }
        self.producer = match &self.rights {
            None => hello.producer_id.into(),
            Some(rights) => rights.own_producer(&hello.producer_id).into(),
        };
        // The log's readers block. Here one could hold up every call of its worker thread.
        let (reader, producer) = (Arc::clone(&self.service.reader), Arc::clone(&self.producer));
        let state = tokio::task::spawn_blocking(move || reader.producer(&producer)).await;
        let state = state.map_err(|_| Status::internal("the log's reader panicked"))?;
        let state = state.map_err(|error| Status::unavailable(error.to_string()))?;
        let welcome = PublisherWelcome {
            last_sequence: state.last_sequence,
            max_in_flight: self.service.max_in_flight,
            expires_in_ms: self.rights.as_ref().map_or(0, CallRights::expires_in_ms),
        };
        self.send(publish_response::Payload::Welcome(welcome))
            .await?;
        // Entries that arrived together with the hello are already taken from the stream.
        self.receive(messages.collect()).await
    }

    /// Handles received messages, and queues their entries for the log.
    async fn receive(&mut self, chunk: Vec<Result<PublishRequest, Status>>) -> Result<(), Status> {
        if let Some(rights) = &mut self.rights {
            rights.update()?;
        }
        let mut batch = Vec::new();
        for request in chunk {
            match request?.payload {
                Some(publish_request::Payload::Entry(entry)) => {
                    // On an error, the entries before it are not queued either; the publisher sends
                    // them again.
                    batch.push(self.submission(entry)?);
                }
                Some(publish_request::Payload::Ping(ping)) => {
                    self.send(publish_response::Payload::Pong(ping)).await?;
                }
                Some(publish_request::Payload::Authenticate(newer)) => {
                    self.renew(&newer.authorization).await?;
                }
                Some(publish_request::Payload::Hello(_)) => {
                    return Err(Status::invalid_argument(
                        "hello must be the first message only",
                    ));
                }
                None => {}
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let sequences: Vec<u64> = batch.iter().map(|entry| entry.sequence).collect();
        self.in_flight += sequences.len();
        let received = &self.service.counters.received;
        received.fetch_add(sequences.len() as u64, Ordering::Relaxed);
        let commit = self.service.writer.enqueue(batch).await;
        let commit = commit.map_err(unavailable)?;
        self.pending.push_back((sequences, commit));
        Ok(())
    }

    /// Takes newer credentials. The entries behind them are published with their rights.
    async fn renew(&mut self, newer: &str) -> Result<(), Status> {
        // Without a policy nothing expires.
        let Some(rights) = &mut self.rights else {
            return Ok(());
        };
        rights.renew(self.service.admission.access(), newer)?;
        let expires_in_ms = rights.expires_in_ms();
        let accepted = Authenticated { expires_in_ms };
        self.send(publish_response::Payload::Authenticated(accepted))
            .await
    }

    /// Sends one acknowledgement for a commit, after one message for each refused entry.
    async fn acknowledge(
        &mut self,
        sequences: Vec<u64>,
        outcomes: Result<Vec<Outcome>, WriteError>,
    ) -> Result<(), Status> {
        self.in_flight -= sequences.len();
        let outcomes = outcomes.map_err(unavailable)?;
        self.count(&outcomes);
        let mut ack = Ack {
            epoch: self.service.epoch.0,
            ..Ack::default()
        };
        let mut jump = None;
        for (sequence, outcome) in sequences.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Appended(event) => ack.offset = event.offset,
                Outcome::Duplicate => ack.duplicates += 1,
                // Before the acknowledgement, which covers all sequences up to its own.
                Outcome::Refused(reason) => {
                    let refused = refused(sequence, &reason);
                    self.send(publish_response::Payload::Refused(refused))
                        .await?;
                }
                Outcome::Jump { last } => {
                    // The first one says where the gap begins. The ones after it skip numbers for
                    // the same reason.
                    jump.get_or_insert((sequence, last));
                    continue;
                }
            }
            ack.sequence = ack.sequence.max(sequence);
        }
        // Sequences begin at 1, so that 0 means that every entry of the commit was a jump.
        if ack.sequence > 0 {
            self.send(publish_response::Payload::Ack(ack)).await?;
        }
        match jump {
            None => Ok(()),
            // Ends the stream: the publisher has lost entries, and only it can tell which.
            Some((sequence, last)) => Err(Status::failed_precondition(format!(
                "sequence {sequence} does not follow {last}, the last one of producer {:?}: begin \
                 again with {}",
                self.producer,
                last + 1
            ))),
        }
    }

    fn count(&self, outcomes: &[Outcome]) {
        let counters = &self.service.counters;
        for outcome in outcomes {
            let counter = match outcome {
                Outcome::Appended(_) => &counters.appended,
                Outcome::Duplicate => &counters.duplicates,
                Outcome::Refused(_) => &counters.refused,
                Outcome::Jump { .. } => continue,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn submission(&mut self, entry: Entry) -> Result<Submission, Status> {
        let operation = Operation::from_wire(entry.operation)
            .map_err(|unknown| Status::invalid_argument(unknown.to_string()))?;
        if let Some(rights) = &mut self.rights {
            rights.check_publish(&entry.database, &entry.collection)?;
        }
        let names = &mut self.names;
        let document = names.key(&entry.database, &entry.collection, &entry.document_id);
        let producer = Arc::clone(&self.producer);
        Ok(Submission {
            operation,
            ..Submission::new(producer, entry.sequence, document, entry.data)
        })
    }

    async fn send(&self, payload: publish_response::Payload) -> Result<(), Status> {
        let response = PublishResponse {
            payload: Some(payload),
        };
        self.responses
            .send(Ok(response))
            .await
            .map_err(|_| Status::cancelled("the publisher has closed the stream"))
    }
}

/// Returns the status that ends a call when the credentials of its peer are not valid any more.
async fn credentials_end(rights: &mut Option<CallRights>) -> Status {
    let Some(rights) = rights else {
        return std::future::pending().await;
    };
    loop {
        if let Err(status) = rights.changed().await {
            return status;
        }
    }
}

/// Returns the outcomes of the oldest commit when it is done, or `None` if there is no commit.
async fn next_commit(
    pending: &mut VecDeque<(Vec<u64>, PendingCommit)>,
) -> Option<(Vec<u64>, Result<Vec<Outcome>, WriteError>)> {
    // Popped only after the wait: the future is dropped when another branch of the select is ready.
    let (_, commit) = pending.front_mut()?;
    let outcomes = commit.await;
    let (sequences, _) = pending.pop_front()?;
    Some((sequences, outcomes))
}

fn refused(sequence: u64, reason: &RefusedEntry) -> Refused {
    let code = match reason {
        RefusedEntry::TooLarge { .. } => RefusedCode::TooLarge,
        RefusedEntry::NotAnObject(_)
        | RefusedEntry::Empty(_)
        | RefusedEntry::NameTooLong { .. } => RefusedCode::Invalid,
    };
    Refused {
        sequence,
        code: code.into(),
        message: reason.to_string(),
    }
}

fn stopping() -> Status {
    Status::unavailable("the server is stopping")
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn unavailable(error: WriteError) -> Status {
    Status::unavailable(with_sources(&error))
}
