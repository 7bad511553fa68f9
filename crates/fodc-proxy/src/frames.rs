//! The framing of gRPC messages in both directions.

use std::error::Error;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use steadfast_net::{RequestBody, ResponseQueue, Responses};
use tonic::{Code, Status};

/// The messages of a call's request, in pieces as they arrive.
#[derive(Debug)]
pub(super) struct Inbound {
    body: RequestBody,
    limit: usize,
    chunk: Bytes,
    /// The part of a message's head that has arrived, and its length.
    head: ([u8; HEAD], usize),
    /// The bytes of the current message that have not arrived; `None` between messages.
    missing: Option<usize>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A message of this length begins.
    Begin(usize),
    Data(Bytes),
    /// The message is complete.
    End,
}

/// The reason why a request cannot be read further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// A message exceeds the limit, which is known before any of it is read.
    #[error("received message larger than max ({length} vs. {limit})")]
    TooLarge { length: usize, limit: usize },
    /// The listener has no memory for the message, which says nothing about its size.
    #[error("{}", .0.message())]
    NoMemory(Status),
    /// The stream broke, or does not have the form of one, or a message does not end in time.
    #[error("{}", .0.message())]
    Broken(Status),
}

/// The proxy's side of a call: encodes and queues messages, and ends the call.
#[derive(Clone, Debug)]
pub(super) struct Outbound(ResponseQueue<Bytes>);

/// The length of a message's head: a flag for compression, and the length in four bytes.
const HEAD: usize = 5;

/// The number of messages that may wait for an agent that does not read. An agent has one request at
/// a time, so that only a superseded stream that is returned to again and again comes near.
const MAX_QUEUED: usize = 64;

impl Inbound {
    pub(super) fn new(body: RequestBody, limit: usize) -> Self {
        Self {
            body,
            limit,
            chunk: Bytes::new(),
            head: ([0; HEAD], 0),
            missing: None,
        }
    }

    /// Returns the next piece, or `None` at the end of the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, ReadError> {
        loop {
            // Before the next bytes are looked at, because an empty message is a valid heartbeat.
            if self.missing == Some(0) {
                self.missing = None;
                return Ok(Some(Piece::End));
            }
            if !self.chunk.is_empty() {
                match self.missing {
                    Some(missing) => {
                        let length = missing.min(self.chunk.len());
                        self.missing = Some(missing - length);
                        return Ok(Some(Piece::Data(self.chunk.split_to(length))));
                    }
                    None => {
                        if let Some(length) = self.take_head()? {
                            self.missing = Some(length);
                            return Ok(Some(Piece::Begin(length)));
                        }
                    }
                }
                continue;
            }
            match self.body.frame().await {
                // Trailers of a request mean nothing in gRPC; an empty chunk reads on.
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(ReadError::of_body(error)),
                None if self.missing.is_some() || self.head.1 > 0 => {
                    let status = Status::internal("the stream ended inside a message");
                    return Err(ReadError::Broken(status));
                }
                None => return Ok(None),
            }
        }
    }

    /// Returns the next message as a whole, or `None` at the end of the request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses the part of the message that has arrived.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, ReadError> {
        let mut whole = BytesMut::new();
        loop {
            match self.next().await? {
                Some(Piece::Begin(_)) => {}
                Some(Piece::Data(data)) => whole.extend_from_slice(&data),
                Some(Piece::End) => return Ok(Some(whole.freeze())),
                None => return Ok(None),
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<usize>, ReadError> {
        let (head, arrived) = &mut self.head;
        let more = (HEAD - *arrived).min(self.chunk.len());
        head[*arrived..*arrived + more].copy_from_slice(&self.chunk.split_to(more));
        *arrived += more;
        if *arrived < HEAD {
            return Ok(None);
        }
        *arrived = 0;
        let [compressed, length @ ..] = *head;
        // No agent compresses, and the limit would have to hold for the unpacked bytes as well.
        if compressed != 0 {
            let status = Status::unimplemented("messages must not be compressed");
            return Err(ReadError::Broken(status));
        }
        let length = u32::from_be_bytes(length) as usize;
        // Before any of it is read.
        let limit = self.limit;
        if length > limit {
            return Err(ReadError::TooLarge { length, limit });
        }
        Ok(Some(length))
    }
}

impl ReadError {
    /// Returns the reason why the body of a request failed.
    pub(super) fn of_body(error: Box<dyn Error + Send + Sync>) -> Self {
        match error.downcast::<Status>() {
            // The listener's own refusals have no other code that is about memory.
            Ok(status) if status.code() == Code::ResourceExhausted => Self::NoMemory(*status),
            Ok(status) => Self::Broken(*status),
            Err(error) => Self::Broken(Status::cancelled(format!("the stream broke: {error}"))),
        }
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        match error {
            // The code and the text of gRPC libraries: agents of the releases know them.
            ReadError::TooLarge { .. } => Self::resource_exhausted(error.to_string()),
            ReadError::NoMemory(status) | ReadError::Broken(status) => status,
        }
    }
}

impl Outbound {
    pub(super) fn new() -> (Self, Responses<Bytes>) {
        let (queue, responses) = ResponseQueue::new(MAX_QUEUED, ());
        (Self(queue), responses)
    }

    /// Queues a message. The call ends if the agent has not read the last [`MAX_QUEUED`].
    pub(super) fn send(&self, message: &impl prost::Message) {
        let length = message.encoded_len();
        let mut frame = BytesMut::with_capacity(HEAD + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length).expect("the proxy's messages are short"));
        message
            .encode(&mut frame)
            .expect("the buffer has the message's length");
        if self.0.push(frame.freeze(), 1).is_err() {
            let status = Status::resource_exhausted("the agent does not read");
            self.0.end(None, status, false);
        }
    }

    /// Ends the call once everything is sent. Only the first status counts.
    pub(super) fn end(&self, status: Status) {
        self.0.end(None, status, true);
    }
}
