//! The Streamer's gRPC service.

use std::pin::Pin;

use futures_core::Stream;
use steadfast_net::{Observer, ResponseQueue};
use steadfast_wire::streamer::{
    GatewayMessage, StreamerMessage, streamer_service_server::StreamerService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    hub_handle::{HubHandle, HubMessage},
    incoming,
};
use crate::hub::StreamId;

/// Opens streams in the hub.
#[derive(Debug)]
pub(super) struct StreamService {
    hub: HubHandle,
}

/// Tells the hub what the transport takes from a stream's queue.
#[derive(Debug)]
pub(super) struct QueueObserver {
    pub(super) hub: HubHandle,
    pub(super) stream: StreamId,
}

impl StreamService {
    pub(super) fn new(hub: HubHandle) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl StreamerService for StreamService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<StreamerMessage, Status>> + Send>>;

    /// Opens a stream and returns before any message is received, so that the headers are sent at
    /// once.
    async fn stream(
        &self,
        request: Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
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
            request.into_inner(),
            self.hub.clone(),
            queue,
            ended,
        ));
        Ok(Response::new(Box::pin(responses)))
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
