//! The Streamer's gRPC service: opens streams in the hub and gets out of the way.

use std::pin::Pin;

use futures_core::Stream;
use steadfast_wire::streamer::{
    GatewayMessage, StreamerMessage, streamer_service_server::StreamerService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{hub_task::HubHandle, incoming, outgoing::Outgoing};

#[derive(Debug)]
pub(super) struct StreamService {
    hub: HubHandle,
}

impl StreamService {
    pub(super) fn new(hub: HubHandle) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl StreamerService for StreamService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<StreamerMessage, Status>> + Send>>;

    /// Returns before anything was received, so that the headers go out at once.
    async fn stream(
        &self,
        request: Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let id = self.hub.next_stream();
        let (outgoing, responses) = Outgoing::new(id, self.hub.clone());
        let over = self.hub.opened(id, outgoing.clone());
        let messages = request.into_inner();
        tokio::spawn(incoming::receive(
            id,
            messages,
            self.hub.clone(),
            outgoing,
            over,
        ));
        Ok(Response::new(Box::pin(responses)))
    }
}
