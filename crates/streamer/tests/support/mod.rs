//! A server over real sockets, and a peer that speaks to it as one that never heard of the profile.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test takes what it needs of the support of all"
)]

pub mod frames;

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use steadfast_streamer::{
    Epoch,
    client::Subscription,
    log::MemoryLog,
    publisher::{Entry, Publisher},
    server::{Server, ServerOptions},
};
use steadfast_wire::streamer::{
    EventDelivery, Filter, GatewayMessage, Heartbeat, StreamerMessage, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest, gateway_message::Payload as Ask,
    streamer_message::Payload as Answer, streamer_service_client::StreamerServiceClient,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longer than anything takes that works at all, on a machine that has other things to do.
pub const SOON: Duration = Duration::from_secs(60);

pub const DATABASE: &str = "default";

pub async fn serve(options: ServerOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = MemoryLog::with_epoch(Epoch(7));
    Server::start(listener, Box::new(log), options).unwrap()
}

pub async fn serve_plainly() -> Server {
    serve(ServerOptions::default()).await
}

/// A session that notices a loss soon and is back soon.
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

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes the documents `u{n}` with their numbers and `padding` bytes besides, and waits until
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
    pub asks: mpsc::UnboundedSender<GatewayMessage>,
    pub answers: Streaming<StreamerMessage>,
}

/// A connection with the windows of a Go peer. Its own HTTP/2 library allows it to be late.
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

    /// Opens a stream and says nothing on it.
    pub async fn open(channel: Channel) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let mut client = StreamerServiceClient::new(channel);
        let call = client.stream(UnboundedReceiverStream::new(asked));
        let answers = soon(call).await.unwrap().into_inner();
        Self { asks, answers }
    }

    /// Speaks without looking whether anybody hears.
    pub fn say(&self, payload: Ask) {
        let payload = Some(payload);
        self.asks.send(GatewayMessage { payload }).ok();
    }

    pub fn beat(&self, timestamp: i64) {
        let gateway_id = "g".to_owned();
        self.say(Ask::Heartbeat(Heartbeat {
            gateway_id,
            timestamp,
        }));
    }

    pub fn ask(&self, id: &str, collection: &str) {
        self.say(Ask::Subscribe(request(id, collection, Vec::new())));
    }

    pub fn unsubscribe(&self, id: &str) {
        let subscription_id = id.to_owned();
        self.say(Ask::Unsubscribe(UnsubscribeRequest {
            subscription_id,
            ..UnsubscribeRequest::default()
        }));
    }

    /// The next message, `None` at the end. Nothing of the profile may be in it.
    pub async fn next(&mut self) -> Result<Option<Answer>, Status> {
        let message = soon(self.answers.message()).await?;
        Ok(message.map(|message| {
            let answer = message.payload.expect("every message says something");
            let plain = match &answer {
                Answer::Delivery(delivery) => {
                    delivery.position.is_none() && delivery.previous.is_empty()
                }
                Answer::HeartbeatAck(ack) => ack.progress.is_none(),
                Answer::SubscribeResponse(response) => {
                    response.position.is_none() && response.resync.is_none()
                }
                _ => false,
            };
            assert!(plain, "{answer:?} was sent to a plain peer");
            answer
        }))
    }

    /// Subscribes and takes the answer, which is the next message.
    pub async fn subscribe(&mut self, id: &str, collection: &str) -> SubscribeResponse {
        self.ask(id, collection);
        self.response().await
    }

    pub async fn response(&mut self) -> SubscribeResponse {
        match self.next().await {
            Ok(Some(Answer::SubscribeResponse(response))) => response,
            other => panic!("not an answer to subscribe: {other:?}"),
        }
    }

    pub async fn delivery(&mut self) -> EventDelivery {
        loop {
            match self.next().await {
                Ok(Some(Answer::Delivery(delivery))) => return delivery,
                Ok(Some(Answer::HeartbeatAck(_))) => {}
                other => panic!("not a delivery: {other:?}"),
            }
        }
    }

    /// The number of the next document delivered.
    pub async fn number(&mut self) -> u64 {
        number(&self.delivery().await.event.unwrap().document_id)
    }

    /// How the stream ends. Everything before that is thrown away.
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

/// The next item of a subscription of our own client.
pub async fn item(subscription: &mut Subscription) -> steadfast_streamer::client::Item {
    match soon(subscription.next()).await {
        Some(Ok(item)) => item,
        other => panic!("not an item: {other:?}"),
    }
}
