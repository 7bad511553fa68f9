//! The body of a request, within the limits on unfinished messages.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use crate::{
    Refusal, UnfinishedLimits,
    unfinished::{UnfinishedMessage, UnfinishedMessages},
};

/// The body of a request.
///
/// It fails with a [`Status`] when a message was begun and not finished in time, or when the
/// unfinished messages of its connection or of all connections are too large together. A message is
/// one of gRPC, or the whole body of another request. The time between a piece and the next poll is that
/// of the reader, and is not counted.
#[derive(Debug)]
pub struct RequestBody<B = Incoming> {
    body: B,
    framing: Framing,
    connection: u64,
    messages: Arc<UnfinishedMessages>,
    /// Most messages arrive in one piece, hence the box.
    unfinished: Option<Box<Unfinished>>,
}

#[derive(Debug)]
struct Unfinished {
    message: UnfinishedMessage,
    deadline: Pin<Box<Sleep>>,
    /// The time of the last piece, until the body is polled again.
    passed_on: Option<Instant>,
}

/// The place in a body.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// The body is one message, of which so many bytes have arrived.
    Whole(usize),
    /// In the head of a message, of which so many bytes have arrived.
    Head([u8; HEAD], usize),
    /// In a message: the bytes that have arrived, and those that are missing.
    Message(usize, usize),
}

/// The length of a gRPC message's head: a flag for compression, and the length in four bytes.
const HEAD: usize = 5;

impl<B> RequestBody<B> {
    pub(crate) fn new(
        body: B,
        headers: &HeaderMap,
        connection: u64,
        messages: &Arc<UnfinishedMessages>,
    ) -> Self {
        let grpc = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        Self {
            body,
            framing: if grpc {
                Framing::Head([0; HEAD], 0)
            } else {
                Framing::Whole(0)
            },
            connection,
            messages: Arc::clone(messages),
            unfinished: None,
        }
    }

    /// Counts the bytes of a piece.
    fn on_data(&mut self, data: &[u8]) {
        let ended = self.framing.advance(data);
        let bytes = self.framing.unfinished();
        // The deadline is that of one message, however many follow each other.
        if ended || bytes == 0 {
            self.unfinished = None;
        }
        if bytes > 0 {
            let unfinished = self.unfinished.get_or_insert_with(|| {
                Box::new(Unfinished {
                    message: self.messages.begin(self.connection),
                    deadline: Box::pin(sleep(self.messages.limits().timeout)),
                    passed_on: None,
                })
            });
            unfinished.message.set_bytes(bytes);
            unfinished.passed_on = Some(Instant::now());
        }
    }

    /// Resolves when the unfinished message must not be waited for any longer.
    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(unfinished) = &mut self.unfinished else {
            return Poll::Pending;
        };
        let limits = self.messages.limits();
        let status = match unfinished.message.poll_cut(cx) {
            Poll::Ready(Refusal::AllUnfinished) => Status::resource_exhausted(
                "the unfinished messages of all connections are too large together; try again later",
            ),
            Poll::Ready(_) => Status::resource_exhausted(format!(
                "the unfinished messages of the connection exceed {} bytes or {} in number; \
                 send fewer at a time",
                limits.connection_bytes,
                UnfinishedLimits::CONNECTION_MESSAGES
            )),
            Poll::Pending => {
                ready!(unfinished.deadline.as_mut().poll(cx));
                unfinished.message.time_out();
                let timeout = limits.timeout;
                Status::deadline_exceeded(format!(
                    "message begun and not finished within {timeout:?}"
                ))
            }
        };
        self.unfinished = None;
        Poll::Ready(status)
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(unfinished) = &mut this.unfinished
            && let Some(passed_on) = unfinished.passed_on.take()
        {
            // The peer cannot send more than the windows allow while nobody reads.
            let deadline = unfinished.deadline.deadline() + passed_on.elapsed();
            unfinished.deadline.as_mut().reset(deadline);
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.on_data(data);
                }
            }
            Poll::Ready(None | Some(Err(_))) => this.unfinished = None,
            Poll::Pending => {}
        }
        // Also after a piece: a peer that always has one more byte must not outlive its deadline.
        if let Poll::Ready(status) = this.poll_refused(cx) {
            return Poll::Ready(Some(Err(status.into())));
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Framing {
    /// Moves past a piece. Returns true if a message ended within it.
    fn advance(&mut self, mut data: &[u8]) -> bool {
        let mut ended = false;
        while !data.is_empty() {
            match self {
                Self::Whole(arrived) => {
                    *arrived += data.len();
                    return false;
                }
                Self::Head(head, arrived) => {
                    let length = data.len().min(HEAD - *arrived);
                    head[*arrived..*arrived + length].copy_from_slice(&data[..length]);
                    *arrived += length;
                    data = &data[length..];
                    if *arrived == HEAD {
                        let [_, length @ ..] = *head;
                        *self = Self::Message(HEAD, u32::from_be_bytes(length) as usize);
                    }
                }
                Self::Message(arrived, missing) => {
                    let length = data.len().min(*missing);
                    *arrived += length;
                    *missing -= length;
                    data = &data[length..];
                }
            }
            // Here, because an empty message ends with its head.
            if let Self::Message(_, 0) = self {
                *self = Self::Head([0; HEAD], 0);
                ended = true;
            }
        }
        ended
    }

    /// Returns the bytes of the message that is not finished, or zero between messages.
    fn unfinished(&self) -> usize {
        match self {
            Self::Whole(arrived) | Self::Head(_, arrived) | Self::Message(arrived, _) => *arrived,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http::HeaderValue;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;
    use tonic::Code;

    use super::*;
    use crate::Refusals;

    type Pieces = stream::BoxStream<'static, Result<Frame<Bytes>, Status>>;

    /// Returns the sender of the pieces of a body, and the body.
    fn body(
        messages: &Arc<UnfinishedMessages>,
        kind: &'static str,
    ) -> (
        mpsc::UnboundedSender<Vec<u8>>,
        RequestBody<StreamBody<Pieces>>,
    ) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let pieces = stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let pieces = pieces.map(|piece: Vec<u8>| Ok(Frame::data(piece.into())));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let body = StreamBody::new(pieces.boxed());
        (sender, RequestBody::new(body, &headers, 1, messages))
    }

    fn messages(connection_bytes: usize) -> Arc<UnfinishedMessages> {
        let limits = UnfinishedLimits {
            connection_bytes,
            all_bytes: 1 << 20,
            timeout: Duration::from_secs(10),
        };
        UnfinishedMessages::new(limits, Refusals::default())
    }

    fn message(length: u8) -> Vec<u8> {
        [&[0, 0, 0, 0, length], vec![7; length.into()].as_slice()].concat()
    }

    #[test]
    fn every_cut_of_messages_counts_exactly_what_is_unfinished() {
        let stream = [message(3), message(0), message(9), message(0)].concat();
        let borders = [0, 8, 13, 27, 32];
        let counted = |at: usize| {
            let last = borders.iter().rev().find(|border| **border <= at);
            at - last.expect("zero is a border")
        };
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut framing = Framing::Head([0; HEAD], 0);
                for (from, to) in [(0, first), (first, second), (second, stream.len())] {
                    let ended = framing.advance(&stream[from..to]);
                    let passed = borders
                        .iter()
                        .any(|border| (from + 1..=to).contains(border));
                    assert_eq!(ended, passed, "{from}..{to}");
                    assert_eq!(framing.unfinished(), counted(to), "{from}..{to}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn message_that_does_not_end_is_refused_in_time() {
        for (kind, begun) in [
            ("application/grpc", &message(200)[..3]),
            ("application/grpc+proto", &message(200)[..100]),
            ("text/plain", b"a body"),
        ] {
            let messages = messages(1_000);
            let (sender, mut body) = body(&messages, kind);
            sender.send(begun.to_vec()).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
            assert_eq!(messages.bytes(), begun.len());
            // One more byte now and then gives no new deadline.
            let started = Instant::now();
            tokio::spawn(async move {
                for _ in 0..60 {
                    sleep(Duration::from_secs(1)).await;
                    sender.send(vec![1]).ok();
                }
            });
            let mut refused = None;
            while refused.is_none() {
                refused = body.frame().await.unwrap().err();
            }
            assert_eq!(started.elapsed().as_secs(), 10, "{kind}");
            assert_eq!(messages.bytes(), 0);
            let status = refused.unwrap().downcast::<Status>().unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            let text = "message begun and not finished within 10s";
            assert_eq!(status.message(), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_is_not_counted() {
        let messages = messages(1_000);
        let (sender, mut body) = body(&messages, "application/grpc");
        let message = message(200);
        for piece in message[..150].chunks(50) {
            sender.send(piece.to_vec()).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
            sleep(Duration::from_secs(60)).await;
        }
        // From here on it is the peer that is waited for.
        let waiting = Instant::now();
        let refused = body.frame().await.unwrap().unwrap_err();
        assert_eq!(waiting.elapsed().as_secs(), 10);
        let status = refused.downcast::<Status>().unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn stream_of_whole_messages_has_no_deadline() {
        let messages = messages(1_000);
        let (sender, mut body) = body(&messages, "application/grpc");
        // The end of one message and the beginning of the next arrive together.
        let stream = message(200).repeat(20);
        for piece in stream.chunks(100) {
            sleep(Duration::from_secs(3)).await;
            sender.send(piece.to_vec()).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
        assert_eq!(messages.bytes(), 0);
        sleep(Duration::from_secs(60)).await;
        assert!(body.frame().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_waits_learns_that_its_message_was_cut() {
        let messages = messages(150);
        let (large, mut waiting) = body(&messages, "application/grpc");
        large.send(message(200)[..100].to_vec()).unwrap();
        assert!(waiting.frame().await.unwrap().is_ok());
        let waiting = tokio::spawn(async move { waiting.frame().await });
        tokio::task::yield_now().await;
        let (small, mut served) = body(&messages, "application/grpc");
        small.send(message(200)[..60].to_vec()).unwrap();
        assert!(served.frame().await.unwrap().is_ok());
        let refused = waiting.await.unwrap().unwrap().unwrap_err();
        let status = refused.downcast::<Status>().unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(messages.bytes(), 60);
    }
}
