//! Bodies that tell a tap what passes through them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::lifeline::Sending;
use crate::transport::Tap;

/// A body of either direction.
#[derive(Debug)]
pub(super) struct Tapped<B> {
    body: B,
    tap: Arc<Tap>,
    direction: Direction,
}

#[derive(Debug)]
enum Direction {
    Request(Sending),
    Response,
}

/// Nothing here reads the details of a status, and tonic panics over those that are no base64: a
/// malformed header would take the whole link down.
pub(super) fn without_details(headers: &mut HeaderMap) {
    headers.remove("grpc-status-details-bin");
}

impl<B> Tapped<B> {
    /// Its first poll means that the connection has taken the request: hyper polls a request's body
    /// only after h2 has opened the stream.
    pub(super) fn request(body: B, tap: Arc<Tap>, sending: Sending) -> Self {
        Self {
            body,
            tap,
            direction: Direction::Request(sending),
        }
    }

    /// Each piece of data that passes is a sign of life.
    pub(super) fn response(body: B, tap: Arc<Tap>) -> Self {
        Self {
            body,
            tap,
            direction: Direction::Response,
        }
    }
}

impl<B> Body for Tapped<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        match &this.direction {
            Direction::Request(sending) => {
                this.tap.accept();
                if sending.is_cut() {
                    return Poll::Ready(None);
                }
                Pin::new(&mut this.body).poll_frame(cx)
            }
            Direction::Response => {
                let mut frame = Pin::new(&mut this.body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &mut frame {
                    if let Some(data) = frame.data_ref() {
                        this.tap.receive(data.len() as u64);
                    }
                    if let Some(trailers) = frame.trailers_mut() {
                        without_details(trailers);
                    }
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
