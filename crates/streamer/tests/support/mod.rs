//! A server on real sockets, and a plain peer: a client without the resume profile.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file is a crate of its own and uses its part"
)]

pub mod frames;
pub mod publishing;

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use steadfast_streamer::{
    Epoch,
    client::Subscription,
    log::{Log, LogError, LogReader, MemoryLog, Outcome, Submission},
    publisher::{Entry, Publisher},
    server::{Server, ServerOptions},
};
use steadfast_wire::streamer::{
    EventDelivery, Filter, GatewayMessage, Heartbeat, StreamerMessage, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest, gateway_message::Payload as Request,
    streamer_message::Payload as Response, streamer_service_client::StreamerServiceClient,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// The time limit of a single wait. It only ends tests that would hang, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(60);

pub const DATABASE: &str = "default";

/// A log whose appends fail on demand.
#[derive(Debug)]
pub struct FailingLog {
    pub log: MemoryLog,
    pub fails: Arc<AtomicBool>,
    /// Returns the failure.
    pub failure: fn() -> LogError,
}

impl Log for FailingLog {
    fn append(&mut self, batch: Vec<Submission>, now_ms: i64) -> Result<Vec<Outcome>, LogError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err((self.failure)());
        }
        self.log.append(batch, now_ms)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.log.maintain(now_ms)
    }

    fn check_space(&self, bytes: usize) -> Result<(), LogError> {
        let needed = bytes as u64;
        let fails = self.fails.load(Ordering::Relaxed);
        (!fails)
            .then_some(())
            .ok_or(LogError::Full { free: 0, needed })
    }

    fn trim(&mut self, upto: u64) -> Result<(), LogError> {
        self.log.trim(upto)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }
}

pub async fn serve(options: ServerOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = MemoryLog::with_epoch(Epoch(7));
    Server::start(listener, Box::new(log), options).unwrap()
}

pub async fn serve_plainly() -> Server {
    serve(ServerOptions::default()).await
}

/// Settings with which a client detects a loss and reconnects within seconds.
pub fn quick() -> steadfast::session::Config {
    let mut config = steadfast::session::Config::default();
    config.initial_backoff = Duration::from_millis(50);
    config.max_backoff = Duration::from_millis(500);
    config.heartbeat_interval = Some(Duration::from_millis(500));
    config.activity_timeout = Some(Duration::from_secs(5));
    config
}

pub async fn soon<F: Future>(what: F) -> F::Output {
    timeout(SOON, what).await.expect("in time")
}

/// Waits until `holds` resolves to true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes the documents `u{n}`, each with its number and `padding` more bytes, and waits until
/// they are durable.
pub async fn publish(server: SocketAddr, collection: &str, numbers: Range<u64>, padding: usize) {
    let publisher = Publisher::builder(server.to_string()).build().unwrap();
    let padding = "x".repeat(padding);
    let mut pending = Vec::new();
    for number in numbers {
        let data = format!(r#"{{"n":{number},"padding":"{padding}"}}"#);
        let entry = Entry::upsert(DATABASE, collection, format!("u{number}"), data);
        pending.push(soon(publisher.enqueue(entry)).await.unwrap());
    }
    for pending in pending {
        soon(pending).await.unwrap();
    }
    publisher.close().await;
}

/// One stream of a plain peer.
pub struct Plain {
    pub requests: mpsc::UnboundedSender<GatewayMessage>,
    pub responses: Streaming<StreamerMessage>,
}

/// Opens a connection with the HTTP/2 windows of a Go peer.
pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(8 << 20);
    soon(endpoint.connect()).await.unwrap()
}

impl Plain {
    pub async fn connect(server: &Server) -> Self {
        Self::open(channel(server.address()).await).await
    }

    /// Opens a stream and sends nothing on it.
    pub async fn open(channel: Channel) -> Self {
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut client = StreamerServiceClient::new(channel);
        let call = client.stream(UnboundedReceiverStream::new(outbound));
        let responses = soon(call).await.unwrap().into_inner();
        Self {
            requests,
            responses,
        }
    }

    /// Queues a message. A stream that has ended ignores it.
    pub fn send(&self, payload: Request) {
        let payload = Some(payload);
        self.requests.send(GatewayMessage { payload }).ok();
    }

    pub fn heartbeat(&self, timestamp: i64) {
        let gateway_id = "g".to_owned();
        self.send(Request::Heartbeat(Heartbeat {
            gateway_id,
            timestamp,
        }));
    }

    /// Queues a subscribe request without a filter.
    pub fn request_subscribe(&self, id: &str, collection: &str) {
        self.send(Request::Subscribe(request(id, collection, Vec::new())));
    }

    pub fn unsubscribe(&self, id: &str) {
        let subscription_id = id.to_owned();
        self.send(Request::Unsubscribe(UnsubscribeRequest {
            subscription_id,
            ..UnsubscribeRequest::default()
        }));
    }

    /// Returns the next message, `None` at the end. Asserts that no field of the profile is set.
    pub async fn next(&mut self) -> Result<Option<Response>, Status> {
        let message = soon(self.responses.message()).await?;
        Ok(message.map(|message| {
            let response = message.payload.expect("a payload");
            let plain = match &response {
                Response::Delivery(delivery) => {
                    delivery.position.is_none() && delivery.previous.is_empty()
                }
                Response::HeartbeatAck(ack) => ack.progress.is_none(),
                Response::SubscribeResponse(response) => {
                    response.position.is_none() && response.resync.is_none()
                }
                _ => false,
            };
            assert!(plain, "{response:?} was sent to a plain peer");
            response
        }))
    }

    /// Subscribes and returns the response, which must be the next message.
    pub async fn subscribe(&mut self, id: &str, collection: &str) -> SubscribeResponse {
        self.request_subscribe(id, collection);
        self.response().await
    }

    pub async fn response(&mut self) -> SubscribeResponse {
        match self.next().await {
            Ok(Some(Response::SubscribeResponse(response))) => response,
            other => panic!("not a subscribe response: {other:?}"),
        }
    }

    pub async fn delivery(&mut self) -> EventDelivery {
        loop {
            match self.next().await {
                Ok(Some(Response::Delivery(delivery))) => return delivery,
                Ok(Some(Response::HeartbeatAck(_))) => {}
                other => panic!("not a delivery: {other:?}"),
            }
        }
    }

    /// Returns the number of the next document delivered.
    pub async fn number(&mut self) -> u64 {
        number(&self.delivery().await.event.unwrap().document_id)
    }

    /// Returns the status that ends the stream, and drops the messages before it.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

pub fn request(id: &str, collection: &str, filters: Vec<Filter>) -> SubscribeRequest {
    SubscribeRequest {
        subscription_id: id.to_owned(),
        database: DATABASE.to_owned(),
        collection: collection.to_owned(),
        filters,
        ..SubscribeRequest::default()
    }
}

pub fn number(document: &str) -> u64 {
    document.strip_prefix('u').unwrap().parse().unwrap()
}

/// Returns the next item of a subscription of our client.
pub async fn item(subscription: &mut Subscription) -> steadfast_streamer::client::Item {
    match soon(subscription.next()).await {
        Some(Ok(item)) => item,
        other => panic!("not an item: {other:?}"),
    }
}
