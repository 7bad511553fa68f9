//! HTTP bodies that report activity.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::request_body_guard::BodyCancellation;
use crate::transport::StreamActivity;

/// The body of a request or of a response.
#[derive(Debug)]
pub(super) struct ObservedBody<B> {
    body: B,
    activity: Arc<StreamActivity>,
    direction: Direction,
}

#[derive(Debug)]
enum Direction {
    Request(BodyCancellation),
    Response,
}

/// Removes the details of a status. Nothing here reads them, and tonic 0.14 panics if they are not
/// base64, so a malformed header would take down the link.
pub(super) fn remove_status_details(headers: &mut HeaderMap) {
    headers.remove("grpc-status-details-bin");
}

impl<B> ObservedBody<B> {
    /// Wraps the body of a request.
    pub(super) fn request(
        body: B,
        activity: Arc<StreamActivity>,
        cancellation: BodyCancellation,
    ) -> Self {
        Self {
            body,
            activity,
            direction: Direction::Request(cancellation),
        }
    }

    /// Wraps the body of a response.
    pub(super) fn response(body: B, activity: Arc<StreamActivity>) -> Self {
        Self {
            body,
            activity,
            direction: Direction::Response,
        }
    }
}

impl<B> Body for ObservedBody<B>
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
            Direction::Request(cancellation) => {
                // hyper polls the body of a request only after h2 has opened the stream, so the
                // first poll means that the connection has accepted the request.
                this.activity.request_accepted();
                if cancellation.is_cancelled() {
                    return Poll::Ready(None);
                }
                Pin::new(&mut this.body).poll_frame(cx)
            }
            Direction::Response => {
                let mut frame = Pin::new(&mut this.body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &mut frame {
                    if frame.is_data() {
                        this.activity.bytes_received();
                    }
                    if let Some(trailers) = frame.trailers_mut() {
                        remove_status_details(trailers);
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
