//! The Streamer's gRPC service.
//!
//! The generated service would encode every message itself. The hub encodes an event once for all
//! streams, so this service sends encoded messages.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes};
use steadfast_net::{Observer, ResponseQueue, Responses};
use steadfast_wire::streamer::{GatewayMessage, streamer_service_server::SERVICE_NAME};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{
    hub_handle::{HubHandle, HubMessage},
    incoming,
};
use crate::hub::StreamId;

/// Opens streams in the hub.
#[derive(Clone, Debug)]
pub(super) struct StreamService {
    hub: HubHandle,
    max_message_bytes: usize,
}

/// Tells the hub what the transport takes from a stream's queue.
#[derive(Debug)]
pub(super) struct QueueObserver {
    pub(super) hub: HubHandle,
    pub(super) stream: StreamId,
}

/// Sends encoded messages and decodes received ones.
#[derive(Debug)]
struct EncodedCodec;

/// The name of the service's only method.
const METHOD: &str = "Stream";

impl StreamService {
    pub(super) fn new(hub: HubHandle, max_message_bytes: usize) -> Self {
        Self {
            hub,
            max_message_bytes,
        }
    }

    /// Opens a stream and returns before any message is received, so that the headers are sent at
    /// once.
    fn open(&self, messages: Streaming<GatewayMessage>) -> Responses<Bytes, QueueObserver> {
        let stream = self.hub.next_stream();
        let observer = QueueObserver {
            hub: self.hub.clone(),
            stream,
        };
        // The hub bounds the queue: it counts the bytes and ends the stream at outbound_bytes.
        let (queue, responses) = ResponseQueue::new(usize::MAX, observer);
        let ended = self.hub.open(stream, queue.clone());
        tokio::spawn(incoming::receive(
            stream,
            messages,
            self.hub.clone(),
            queue,
            ended,
        ));
        responses
    }
}

impl NamedService for StreamService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for StreamService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_known = request
            .uri()
            .path()
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(SERVICE_NAME))
            .is_some_and(|path| path.strip_prefix('/') == Some(METHOD));
        if !is_known {
            let status = Status::unimplemented("");
            return Box::pin(ready(Ok(status.into_http())));
        }
        let service = self.clone();
        let mut grpc = Grpc::new(EncodedCodec)
            .apply_max_message_size_config(Some(self.max_message_bytes), None);
        Box::pin(async move { Ok(grpc.streaming(service, request).await) })
    }
}

impl StreamingService<GatewayMessage> for StreamService {
    type Response = Bytes;
    type ResponseStream = Responses<Bytes, QueueObserver>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<GatewayMessage>>) -> Self::Future {
        ready(Ok(Response::new(self.open(request.into_inner()))))
    }
}

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = GatewayMessage;
    type Encoder = Self;
    type Decoder = ProstDecoder<GatewayMessage>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<GatewayMessage, _>::default().decoder()
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
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
