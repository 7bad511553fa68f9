//! The Streamer's gRPC service.
//!
//! The generated service would encode every message itself. The hub encodes an event once for all
//! streams and frames the messages, so this service sends bytes: what was queued together for a stream
//! is one chunk of its response.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    task::{Context, Poll},
};

use steadfast_net::{KeyedPermit, Observer, Peer, ResponseQueue};
use steadfast_wire::streamer::{GatewayMessage, streamer_service_server::SERVICE_NAME};
use tonic::{
    Status, Streaming,
    body::Body,
    codec::BufferSettings,
    codegen::{
        Service,
        http::{self, HeaderMap, HeaderValue, header::CONTENT_TYPE},
    },
    server::NamedService,
};
use tonic_prost::ProstCodec;

use super::{
    access::{Admission, AdmittedPeer},
    hub_handle::{HubHandle, HubMessage},
    incoming,
    time_lookup::TimeLookup,
};
use crate::hub::StreamId;

/// Opens streams in the hub.
#[derive(Clone, Debug)]
pub(super) struct StreamService {
    hub: HubHandle,
    times: TimeLookup,
    admission: Admission,
    max_message_bytes: usize,
}

/// Tells the hub what the transport takes from a stream's queue.
#[derive(Debug)]
pub(super) struct QueueObserver {
    hub: HubHandle,
    stream: StreamId,
    /// The call counts for its principal until its response is sent or dropped, also after its stream has
    /// ended.
    _permit: Option<KeyedPermit>,
}

/// The name of the service's only method.
const METHOD: &str = "Stream";

impl StreamService {
    pub(super) fn new(
        hub: HubHandle,
        times: TimeLookup,
        admission: Admission,
        max_message_bytes: usize,
    ) -> Self {
        Self {
            hub,
            times,
            admission,
            max_message_bytes,
        }
    }

    /// Opens a stream and returns its response before any message is received, so that the headers are
    /// sent at once.
    fn open(
        &self,
        messages: Streaming<GatewayMessage>,
        peer: Option<SocketAddr>,
        admitted: Option<AdmittedPeer>,
    ) -> http::Response<Body> {
        let stream = self.hub.next_stream();
        let (known, permit) = admitted.map(AdmittedPeer::into_parts).unzip();
        let observer = QueueObserver::new(self.hub.clone(), stream, permit.flatten());
        // The hub bounds the queue: it counts the bytes and ends the stream at outbound_bytes.
        let (queue, responses) = ResponseQueue::new(usize::MAX, observer);
        // Before the receiving task is spawned, so that the hub knows the stream of its first
        // message.
        let ended = self.hub.open(stream, queue.clone(), peer, known);
        tokio::spawn(incoming::receive(
            stream,
            messages,
            self.hub.clone(),
            self.times.clone(),
            queue,
            self.admission.access().clone(),
            ended,
        ));
        let mut response = http::Response::new(Body::new(responses));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl NamedService for StreamService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for StreamService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The router has matched the service only.
        let is_known = request
            .uri()
            .path()
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(SERVICE_NAME))
            .is_some_and(|path| path.strip_prefix('/') == Some(METHOD));
        if !is_known {
            return ready(Ok(Status::unimplemented("").into_http()));
        }
        if let Err(status) = check_encoding(request.headers()) {
            return ready(Ok(status.into_http()));
        }
        let known = match self
            .admission
            .admit(request.headers(), request.extensions())
        {
            Ok(known) => known,
            Err(status) => return ready(Ok(status.into_http())),
        };
        let peer = request.extensions().get::<Peer>();
        let peer = peer.and_then(|peer| peer.address);
        let buffers = BufferSettings::new(RECEIVE_BUFFER, RECEIVE_BUFFER);
        let decoder = ProstCodec::<GatewayMessage, _>::raw_decoder(buffers);
        let limit = Some(self.max_message_bytes);
        // `None` is the compression of received messages, which `check_encoding` has excluded.
        let messages = Streaming::new_request(decoder, request.into_body(), None, limit);
        ready(Ok(self.open(messages, peer, known)))
    }
}

/// Refuses a peer that compresses its messages.
fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(other) => Err(Status::unimplemented(format!(
            "the encoding {} is not supported; send messages uncompressed",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// The size at which a stream's buffer for received messages starts. Small, because every stream has
/// one for as long as it lasts, and most messages are heartbeats.
const RECEIVE_BUFFER: usize = 64;

impl QueueObserver {
    pub(super) fn new(hub: HubHandle, stream: StreamId, permit: Option<KeyedPermit>) -> Self {
        Self {
            hub,
            stream,
            _permit: permit,
        }
    }
}

impl Observer for QueueObserver {
    fn on_dequeued(&self) {
        self.hub.send(HubMessage::Dequeued(self.stream));
    }

    fn on_dropped(&self) {
        self.hub.send(HubMessage::Ended(self.stream));
    }
}
