//! A server and a client of tonic's generated code alone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, stream};
use steadfast_wire::streamer::{
    EventDelivery, GatewayMessage, Heartbeat, Hello, OperationType, Position, StreamerEvent,
    StreamerMessage, SubscribeRequest, SubscribeResponse,
    gateway_message::Payload as Request,
    streamer_message::Payload,
    streamer_service_client::StreamerServiceClient,
    streamer_service_server::{StreamerService, StreamerServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{
    Response, Status, Streaming,
    transport::{Endpoint, Server},
};

use super::{COLLECTION, DATABASE, EPOCH, data};

/// Sends the same events to every stream that begins with a hello, and answers subscribe requests.
struct Service {
    events: u64,
}

type Responses = Pin<Box<dyn Stream<Item = Result<StreamerMessage, Status>> + Send>>;

pub(super) async fn serve(listener: TcpListener, events: u64) {
    let service = StreamerServiceServer::new(Service { events });
    let connections = TcpListenerStream::new(listener).map(|socket| {
        let socket = socket?;
        socket.set_nodelay(true)?;
        Ok::<_, std::io::Error>(socket)
    });
    let server = Server::builder().add_service(service);
    server.serve_with_incoming(connections).await.ok();
}

/// Returns a delivery as our server writes it.
fn event_message(offset: u64) -> StreamerMessage {
    let event = StreamerEvent {
        event_id: format!("{:016x}.{offset}", EPOCH.0),
        database: DATABASE.to_owned(),
        collection: COLLECTION.to_owned(),
        document_id: format!("order-{:05}", offset % 1_000),
        operation: OperationType::Update.into(),
        // What the log adds to the data of a document.
        document_data: format!(
            r#"{},"version":{offset:04},"createdAt":0,"updatedAt":0}}"#,
            data(offset).trim_end_matches('}')
        )
        .into(),
        timestamp: 0,
    };
    let delivery = EventDelivery {
        subscription_ids: vec!["0c9e4b1e-5a0f-4e4e-9c53-7f2c4f4b4c11-1".to_owned()],
        event: Some(event),
        position: Some(position(offset)),
        previous: vec![offset - 1],
        left: false,
    };
    StreamerMessage {
        payload: Some(Payload::Delivery(delivery)),
    }
}

fn position(offset: u64) -> Position {
    Position {
        epoch: EPOCH.0,
        offset,
    }
}

#[tonic::async_trait]
impl StreamerService for Service {
    type StreamStream = Responses;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Responses>, Status> {
        let mut requests = request.into_inner();
        let events = self.events;
        // The first message is received after the headers were sent, as our server does.
        let responses = async move {
            match requests.next().await {
                Some(Ok(GatewayMessage {
                    payload: Some(Request::Subscribe(first)),
                })) => accept_all(first, requests),
                _ => send_all(events),
            }
        };
        Ok(Response::new(stream::once(responses).flatten().boxed()))
    }
}

/// Sends every event. They are cloned, because making them is not the work of a server.
fn send_all(events: u64) -> Responses {
    let some: Vec<_> = (1..=64).map(event_message).collect();
    stream::iter(1..=events)
        .map(move |offset| {
            let mut message = some[(offset % 64) as usize].clone();
            if let Some(Payload::Delivery(delivery)) = &mut message.payload {
                delivery.position = Some(position(offset));
            }
            Ok(message)
        })
        .boxed()
}

/// Stores every subscription and accepts it.
fn accept_all(first: SubscribeRequest, requests: Streaming<GatewayMessage>) -> Responses {
    let rest = requests.filter_map(async |message| match message {
        Ok(GatewayMessage {
            payload: Some(Request::Subscribe(request)),
        }) => Some(request),
        Ok(_) | Err(_) => None,
    });
    let mut stored = HashMap::new();
    stream::iter([first])
        .chain(rest)
        .map(move |request| {
            let response = SubscribeResponse {
                subscription_id: request.subscription_id.clone(),
                success: true,
                position: request.resume,
                request: request.request,
                ..SubscribeResponse::default()
            };
            stored.insert(request.subscription_id.clone(), request);
            Ok(StreamerMessage {
                payload: Some(Payload::SubscribeResponse(response)),
            })
        })
        .boxed()
}

/// Returns a session id that no other stream of this program has used.
fn session_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("bench-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A stream of the generated client.
pub(crate) struct RawStream {
    requests: mpsc::UnboundedSender<GatewayMessage>,
    responses: Streaming<StreamerMessage>,
}

impl RawStream {
    /// Connects and opens a stream.
    pub(crate) async fn open(server: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))?
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(5 << 20);
        let mut client = StreamerServiceClient::new(endpoint.connect().await?);
        let (requests, queued) = mpsc::unbounded_channel();
        let call = client.stream(UnboundedReceiverStream::new(queued)).await?;
        Ok(Self {
            requests,
            responses: call.into_inner(),
        })
    }

    /// Opens a stream of our server and subscribes to all events with unlimited credit, from the beginning
    /// of the log.
    pub(crate) async fn subscribe(server: SocketAddr) -> Result<Self> {
        let stream = Self::open(server).await?;
        stream.send(Request::Hello(Hello {
            version: 1,
            session_id: session_id(),
            attempt: 1,
            ..Hello::default()
        }))?;
        stream.send(Request::Heartbeat(Heartbeat::default()))?;
        stream.send(Request::Subscribe(SubscribeRequest {
            subscription_id: "everything".to_owned(),
            database: DATABASE.to_owned(),
            collection: COLLECTION.to_owned(),
            resume: Some(position(0)),
            credit_messages: u64::MAX >> 1,
            credit_bytes: u64::MAX >> 1,
            request: 1,
            ..SubscribeRequest::default()
        }))?;
        Ok(stream)
    }

    pub(crate) fn send(&self, request: Request) -> Result<()> {
        let message = GatewayMessage {
            payload: Some(request),
        };
        Ok(self.requests.send(message)?)
    }

    pub(crate) async fn next(&mut self) -> Result<Payload> {
        let message = self.responses.message().await?;
        let message = message.context("the stream ended")?;
        message.payload.context("a message without a payload")
    }
}
