//! The inputs and actions of the hub.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use steadfast_session::Time;
use steadfast_wire::streamer::GatewayMessage;

use super::{EndStatus, StreamAccess};
use crate::{Bounds, Event, Terms};

/// The id of a stream. The driver assigns ids in the order in which streams open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The id of a read of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// The initial state of a hub.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// The name of the server process, told to peers for information.
    pub server_id: String,
    /// The terms of the log. The current one is the epoch of every position that the hub sends.
    pub terms: Terms,
    /// The current bounds of the log. Later events arrive as [`Input::Committed`].
    pub bounds: Bounds,
    /// The seed of the ids of subscriptions that come without one: UUIDs of version 4 made of a
    /// `ChaCha12` keystream. Must be random in production.
    pub seed: [u8; 32],
}

/// An input of the hub.
#[derive(Debug)]
pub enum Input {
    /// A peer opened a stream.
    Opened {
        /// The stream.
        stream: StreamId,
    },
    /// The peer of a stream has these rights now. A restricted hub needs them before the first message.
    Authorized {
        /// The stream.
        stream: StreamId,
        /// The peer and its rights.
        access: StreamAccess,
        /// Newer credentials came from the peer, and it waits for the answer.
        answers: bool,
    },
    /// The credentials of a stream's peer are not valid any more.
    Revoked {
        /// The stream.
        stream: StreamId,
        /// The reason, as the peer may know it.
        reason: String,
    },
    /// A message was received.
    Message {
        /// The stream.
        stream: StreamId,
        /// The message.
        message: GatewayMessage,
    },
    /// The peer sends no more: it ended its half of the stream, or the connection is lost.
    Ended {
        /// The stream.
        stream: StreamId,
    },
    /// Events are durable in the log.
    Committed {
        /// The events, ordered by offset. The hub reads events that are missing from the log.
        events: Vec<Arc<Event>>,
    },
    /// The log dropped its oldest events.
    Trimmed {
        /// The oldest offset that can be read after.
        first: u64,
    },
    /// Changes are missing that the log never had: its source has lost them. Every subscription gets a
    /// resync, and so does every position from before.
    Lost {
        /// The offset of the first event after them.
        before: u64,
    },
    /// A read is complete.
    ReadDone {
        /// The read.
        read: ReadId,
        /// The events after the offset of the read.
        result: Result<Vec<Arc<Event>>, ReadFault>,
    },
    /// A read of documents is complete.
    DocumentsRead {
        /// The read.
        read: ReadId,
        /// The page.
        result: Result<DocumentPage, ReadFault>,
    },
    /// Messages left the queue of a stream.
    Sent {
        /// The stream.
        stream: StreamId,
        /// The sum of their lengths.
        bytes: usize,
        /// The number of messages.
        messages: usize,
    },
    /// The server must stop.
    Drain {
        /// The time at which the remaining streams are ended.
        deadline: Time,
        /// The reason, for people.
        reason: String,
    },
    /// Time has passed. Only this input ends streams that are overdue, so messages that were received
    /// earlier must be passed on earlier; otherwise a peer looks silent because the driver is late.
    Tick,
}

/// An action for the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Queue messages. The messages of a stream are sent in the order of their actions. A step gives at
    /// most one `Send` for each stream.
    Send {
        /// The stream.
        stream: StreamId,
        /// Encoded `StreamerMessage`s, each framed as gRPC does; see [`split_frames`]. Their length is to
        /// be passed back in [`Input::Sent`].
        frames: Bytes,
        /// The number of messages.
        messages: usize,
    },
    /// End a stream. Exactly one `End` is given for each open stream, and nothing after it.
    End {
        /// The stream.
        stream: StreamId,
        /// One more message before the status, encoded and framed, for peers that understand it.
        last: Option<Bytes>,
        /// The status.
        status: EndStatus,
        /// Send the queued messages first, for a short time. If false, drop them and send only
        /// `last` and the status.
        flush: bool,
    },
    /// Read from the log and pass on the result as [`Input::ReadDone`], even if the stream that needs
    /// it has ended.
    Read {
        /// The id of the read.
        read: ReadId,
        /// The offset to read after.
        after: u64,
        /// The maximum number of events.
        max_events: usize,
        /// The approximate maximum size in bytes.
        max_bytes: usize,
    },
    /// Read documents of a collection and pass on the result as [`Input::DocumentsRead`], even if the
    /// stream that needs it has ended. Ids of these reads are counted apart from those of the log.
    ReadDocuments {
        /// The id of the read.
        read: ReadId,
        /// The database.
        database: Arc<str>,
        /// The collection.
        collection: Arc<str>,
        /// The document id to read after; `None` for the beginning of the collection.
        after: Option<Arc<str>>,
        /// The maximum number of documents.
        max_documents: usize,
        /// The approximate maximum size in bytes.
        max_bytes: usize,
    },
}

/// One page of the documents of a collection, each as its newest event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentPage {
    /// The documents that exist, in ascending order of their ids.
    pub documents: Vec<Arc<Event>>,
    /// The offset up to which every change is contained. Never lower than in an earlier page.
    pub as_of: u64,
    /// The id to read the next page after; `None` if this is the last one.
    pub next: Option<Arc<str>>,
}

/// The length of what gRPC puts before a message: a flag for compression, and the length.
pub const FRAME_HEAD: usize = 5;

/// Returns the encoded messages of a frame sequence.
///
/// # Panics
///
/// Panics if a frame is cut off. The hub gives whole frames.
pub fn split_frames(mut frames: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        frames.try_get_u8().ok()?;
        let length = frames.get_u32() as usize;
        Some(frames.split_to(length))
    })
}

/// The reason for which a read returned nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// The offset is before the beginning of the log.
    #[error("the events up to offset {first} are no longer in the log")]
    Trimmed {
        /// The oldest offset that can be read after.
        first: u64,
    },
    /// The first event after the offset cannot be decoded.
    #[error("the event at offset {offset} is damaged")]
    Damaged {
        /// The offset of the event.
        offset: u64,
    },
    /// The storage failed.
    #[error("{0}")]
    Storage(String),
}
