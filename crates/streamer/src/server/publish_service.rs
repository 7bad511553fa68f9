//! Publishing: entries in, acknowledgements out, each after its entry is durable.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_core::Stream;
use futures_util::StreamExt as _;
use steadfast_wire::publisher::{
    Ack, Entry, Operation as WireOperation, PublishRequest, PublishResponse, PublisherWelcome,
    Refused, RefusedCode, publish_request, publish_response,
    publisher_service_server::PublisherService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Epoch, Operation,
    log::{LogReader, LogWriter, Outcome, PendingCommit, RefusedEntry, Submission, WriteError},
};

pub(super) struct PublishService {
    writer: LogWriter,
    reader: Arc<dyn LogReader>,
    epoch: Epoch,
    max_in_flight: u32,
    refuse: CancellationToken,
}

/// One publisher's stream.
struct Publisher {
    producer: Arc<str>,
    writer: LogWriter,
    reader: Arc<dyn LogReader>,
    epoch: Epoch,
    max_in_flight: usize,
    /// Commits under way, oldest first, each with the sequences it is about.
    pending: VecDeque<(Vec<u64>, PendingCommit)>,
    in_flight: usize,
    answers: mpsc::Sender<Result<PublishResponse, Status>>,
}

/// Answers that may wait for the transport before entries wait for them.
const ANSWERS: usize = 64;

/// Entries that are put into the log's queue together, when that many have arrived.
const TOGETHER: usize = 256;

/// Length of a producer's name, bytes.
const PRODUCER_BYTES: usize = 256;

impl PublishService {
    pub(super) fn new(
        writer: LogWriter,
        reader: Arc<dyn LogReader>,
        max_in_flight: u32,
        refuse: CancellationToken,
    ) -> Self {
        Self {
            writer,
            epoch: reader.epoch(),
            reader,
            max_in_flight: max_in_flight.max(1),
            refuse,
        }
    }
}

#[tonic::async_trait]
impl PublisherService for PublishService {
    type PublishStream = Pin<Box<dyn Stream<Item = Result<PublishResponse, Status>> + Send>>;

    /// Returns before anything was received, so that the headers go out at once.
    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        if self.refuse.is_cancelled() {
            return Err(Status::unavailable("the server is stopping"));
        }
        let (answers, responses) = mpsc::channel(ANSWERS);
        let publisher = Publisher {
            producer: Arc::from(""),
            writer: self.writer.clone(),
            reader: Arc::clone(&self.reader),
            epoch: self.epoch,
            max_in_flight: self.max_in_flight as usize,
            pending: VecDeque::new(),
            in_flight: 0,
            answers: answers.clone(),
        };
        let (requests, refuse) = (request.into_inner(), self.refuse.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = publisher.run(requests) => ended,
                () = answers.closed() => return,
                () = refuse.cancelled() => Err(Status::unavailable("the server is stopping")),
            };
            if let Err(status) = ended {
                answers.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

impl Publisher {
    /// Takes entries and answers them until the publisher ends its half and everything is answered.
    async fn run(mut self, requests: Streaming<PublishRequest>) -> Result<(), Status> {
        let mut requests = requests.ready_chunks(TOGETHER);
        self.greet(&mut requests).await?;
        let mut open = true;
        while open || !self.pending.is_empty() {
            let room = open && self.in_flight < self.max_in_flight;
            tokio::select! {
                biased;
                Some(outcomes) = next_commit(&mut self.pending) => self.answer(outcomes).await?,
                chunk = requests.next(), if room => match chunk {
                    Some(chunk) => self.take(chunk).await?,
                    None => open = false,
                },
            }
        }
        Ok(())
    }

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
        self.producer = hello.producer_id.into();
        let (reader, producer) = (Arc::clone(&self.reader), Arc::clone(&self.producer));
        let known = tokio::task::spawn_blocking(move || reader.producer(&producer)).await;
        let known = known.map_err(|_| Status::internal("the log's reader panicked"))?;
        let last_sequence = known
            .map_err(|error| Status::unavailable(error.to_string()))?
            .last_sequence;
        let max_in_flight = u32::try_from(self.max_in_flight).unwrap_or(u32::MAX);
        let welcome = PublisherWelcome {
            last_sequence,
            max_in_flight,
        };
        self.tell(publish_response::Payload::Welcome(welcome))
            .await?;
        self.take(messages.collect()).await
    }

    async fn take(&mut self, chunk: Vec<Result<PublishRequest, Status>>) -> Result<(), Status> {
        let mut batch = Vec::new();
        for request in chunk {
            match request?.payload {
                Some(publish_request::Payload::Entry(entry)) => {
                    batch.push(submission(&self.producer, entry)?);
                }
                Some(publish_request::Payload::Ping(ping)) => {
                    self.tell(publish_response::Payload::Pong(ping)).await?;
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
        let commit = self.writer.enqueue(batch).await.map_err(unavailable)?;
        self.pending.push_back((sequences, commit));
        Ok(())
    }

    /// One acknowledgement for a whole commit; refusals before it, each by itself.
    async fn answer(
        &mut self,
        (sequences, outcomes): (Vec<u64>, Result<Vec<Outcome>, WriteError>),
    ) -> Result<(), Status> {
        self.in_flight -= sequences.len();
        let outcomes = outcomes.map_err(unavailable)?;
        let mut ack = Ack {
            epoch: self.epoch.0,
            ..Ack::default()
        };
        let mut jump = None;
        for (sequence, outcome) in sequences.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Appended(event) => ack.offset = event.offset,
                Outcome::Duplicate => ack.duplicates += 1,
                Outcome::Refused(why) => {
                    self.tell(publish_response::Payload::Refused(refused(sequence, &why)))
                        .await?;
                }
                Outcome::Jump { last } => {
                    jump.get_or_insert((sequence, last));
                    continue;
                }
            }
            ack.sequence = ack.sequence.max(sequence);
        }
        if ack.sequence > 0 {
            self.tell(publish_response::Payload::Ack(ack)).await?;
        }
        match jump {
            None => Ok(()),
            Some((sequence, last)) => Err(Status::failed_precondition(format!(
                "sequence {sequence} does not follow {last}, the last one of producer {:?}: begin \
                 again with {}",
                self.producer,
                last + 1
            ))),
        }
    }

    async fn tell(&self, payload: publish_response::Payload) -> Result<(), Status> {
        let response = PublishResponse {
            payload: Some(payload),
        };
        self.answers
            .send(Ok(response))
            .await
            .map_err(|_| Status::cancelled("nobody listens"))
    }
}

/// The oldest commit's outcomes when it is done; never, while there is none.
async fn next_commit(
    pending: &mut VecDeque<(Vec<u64>, PendingCommit)>,
) -> Option<(Vec<u64>, Result<Vec<Outcome>, WriteError>)> {
    let (_, commit) = pending.front_mut()?;
    let outcomes = commit.await;
    let (sequences, _) = pending.pop_front()?;
    Some((sequences, outcomes))
}

fn submission(producer: &Arc<str>, entry: Entry) -> Result<Submission, Status> {
    let operation = match WireOperation::try_from(entry.operation) {
        Ok(WireOperation::Unspecified) => None,
        Ok(WireOperation::Insert) => Some(Operation::Insert),
        Ok(WireOperation::Update) => Some(Operation::Update),
        Ok(WireOperation::Delete) => Some(Operation::Delete),
        Err(_) => {
            return Err(Status::invalid_argument(format!(
                "{} is not an operation: 0 unspecified, 1 insert, 2 update, 4 delete",
                entry.operation
            )));
        }
    };
    Ok(Submission {
        producer: Arc::clone(producer),
        sequence: entry.sequence,
        database: entry.database.into(),
        collection: entry.collection.into(),
        document_id: entry.document_id.into(),
        operation,
        data: entry.data,
        origin: None,
    })
}

fn refused(sequence: u64, why: &RefusedEntry) -> Refused {
    let code = match why {
        RefusedEntry::TooLarge { .. } => RefusedCode::TooLarge,
        RefusedEntry::NotAnObject(_)
        | RefusedEntry::Empty(_)
        | RefusedEntry::NameTooLong { .. } => RefusedCode::Invalid,
    };
    Refused {
        sequence,
        code: code.into(),
        message: why.to_string(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn unavailable(error: WriteError) -> Status {
    Status::unavailable(error.to_string())
}
