//! What the Streamer is compared with by `cargo xtask bench broadcast`: a tonic server that encodes
//! per stream, a raw TCP server, and clients.
//!
//! A program of its own, because the other one counts allocations.

use std::{
    hint::black_box,
    io::{BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures_util::{Stream, stream};
use steadfast_streamer::{Client, Filter, Item};
use steadfast_wire::{
    publisher::{
        Ack, PublishRequest, PublishResponse, publish_request, publish_response,
        publisher_service_server::{PublisherService, PublisherServiceServer},
    },
    streamer::{
        EventDelivery, GatewayMessage, StreamerEvent, StreamerMessage, SubscribeRequest,
        SubscribeResponse, gateway_message,
        streamer_message::Payload,
        streamer_service_client::StreamerServiceClient,
        streamer_service_server::{StreamerService, StreamerServiceServer},
    },
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming, transport::Endpoint};

type Responses<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The messages that may wait for one stream, as many as in the Streamer.
const QUEUE: usize = 1_024;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["tcp", length] = args[..] {
        return raw_tcp(length.parse()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match args[..] {
            ["tonic"] => serve().await,
            ["steadfast-client", address, number] => {
                let received = Arc::new(AtomicU64::new(0));
                for _ in 0..number.parse()? {
                    steadfast_client(address, &received).await?;
                }
                count(&received).await
            }
            ["tonic-client", address, number] => {
                let received = Arc::new(AtomicU64::new(0));
                for index in 0..number.parse()? {
                    tonic_client(address, index, &received).await?;
                }
                count(&received).await
            }
            _ => bail!("unknown role {args:?}"),
        }
    })
}

/// Every stream with the ids of its subscriptions.
#[derive(Clone, Default)]
struct Broadcast(Arc<Mutex<Vec<Subscriber>>>);

struct Subscriber {
    ids: Vec<String>,
    messages: mpsc::Sender<Result<StreamerMessage, Status>>,
}

async fn serve() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("ready {}", listener.local_addr()?);
    let incoming = stream::poll_fn(move |cx| {
        listener.poll_accept(cx).map(|accepted| {
            Some(accepted.and_then(|(socket, _)| socket.set_nodelay(true).map(|()| socket)))
        })
    });
    let broadcast = Broadcast::default();
    tonic::transport::Server::builder()
        .add_service(StreamerServiceServer::new(broadcast.clone()))
        .add_service(PublisherServiceServer::new(broadcast))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl StreamerService for Broadcast {
    type StreamStream = Responses<StreamerMessage>;

    async fn stream(
        &self,
        request: Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut requests = request.into_inner();
        let broadcast = self.clone();
        tokio::spawn(async move {
            let index = {
                let mut subscribers = broadcast.subscribers();
                let messages = sender.clone();
                let ids = Vec::new();
                subscribers.push(Subscriber { ids, messages });
                subscribers.len() - 1
            };
            while let Ok(Some(message)) = requests.message().await {
                let Some(gateway_message::Payload::Subscribe(request)) = message.payload else {
                    continue;
                };
                let id = request.subscription_id;
                broadcast.subscribers()[index].ids.push(id.clone());
                let response = SubscribeResponse {
                    subscription_id: id,
                    success: true,
                    ..SubscribeResponse::default()
                };
                let payload = Some(Payload::SubscribeResponse(response));
                sender.send(Ok(StreamerMessage { payload })).await.ok();
            }
        });
        Ok(Response::new(Box::pin(receive(receiver))))
    }
}

#[tonic::async_trait]
impl PublisherService for Broadcast {
    type PublishStream = Responses<PublishResponse>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut requests = request.into_inner();
        let broadcast = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                let Some(publish_request::Payload::Entry(entry)) = message.payload else {
                    continue;
                };
                let sequence = entry.sequence;
                broadcast.deliver(&StreamerEvent {
                    event_id: format!("0123456789abcdef-{sequence}"),
                    database: entry.database,
                    collection: entry.collection,
                    document_id: entry.document_id,
                    operation: 2,
                    document_data: entry.data,
                    timestamp: 1_700_000_000_000,
                });
                let ack = Ack {
                    sequence,
                    ..Ack::default()
                };
                let payload = Some(publish_response::Payload::Ack(ack));
                sender.send(Ok(PublishResponse { payload })).await.ok();
            }
        });
        Ok(Response::new(Box::pin(receive(receiver))))
    }
}

impl Broadcast {
    fn subscribers(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the event for every stream without waiting, so that a burst is sent together.
    fn deliver(&self, event: &StreamerEvent) {
        for subscriber in &*self.subscribers() {
            let delivery = EventDelivery {
                subscription_ids: subscriber.ids.clone(),
                event: Some(event.clone()),
                ..EventDelivery::default()
            };
            let payload = Some(Payload::Delivery(delivery));
            // A full queue loses the message, and the measurement fails, which waits for all.
            subscriber
                .messages
                .try_send(Ok(StreamerMessage { payload }))
                .ok();
        }
    }
}

fn receive<M>(mut receiver: mpsc::Receiver<M>) -> impl Stream<Item = M> {
    stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

/// Accepts readers. The first connection gives commands: a byte is a number of messages to write to
/// every other connection, in one call.
fn raw_tcp(length: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ready {}", listener.local_addr()?);
    let (mut commands, _) = listener.accept()?;
    let readers = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&readers);
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nodelay(true).ok();
            let mut readers = accepted.lock().unwrap_or_else(PoisonError::into_inner);
            readers.push(socket);
        }
    });
    let mut burst = [0];
    while commands.read_exact(&mut burst).is_ok() {
        let bytes = vec![7; usize::from(burst[0]) * length];
        for reader in &mut *readers.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.write_all(&bytes)?;
        }
    }
    Ok(())
}

async fn steadfast_client(address: &str, received: &Arc<AtomicU64>) -> Result<()> {
    let client = Client::builder(address).build()?;
    let mut items = client
        .subscribe("default", "broadcast", Filter::all())
        .await?;
    let received = Arc::clone(received);
    tokio::spawn(async move {
        while let Some(item) = items.next().await {
            if let Ok(Item::Change(_)) = item {
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

async fn tonic_client(address: &str, index: u64, received: &Arc<AtomicU64>) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    let (sender, requests) = mpsc::channel(1);
    let request = SubscribeRequest {
        subscription_id: format!("raw-{index}"),
        database: "default".to_owned(),
        collection: "broadcast".to_owned(),
        ..SubscribeRequest::default()
    };
    let payload = Some(gateway_message::Payload::Subscribe(request));
    sender.send(GatewayMessage { payload }).await?;
    let mut client = StreamerServiceClient::new(channel);
    let mut messages = client.stream(receive(requests)).await?.into_inner();
    messages.message().await?.context("no response")?;
    let received = Arc::clone(received);
    tokio::spawn(async move {
        // The call ends when its last sender is dropped.
        let _open = sender;
        while let Ok(Some(message)) = messages.message().await {
            if let Some(Payload::Delivery(delivery)) = message.payload {
                black_box(delivery);
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

/// Reads totals from standard input and prints a line when so many deliveries were received.
async fn count(received: &AtomicU64) -> Result<()> {
    // The parent expects an address, and a client has none.
    println!("ready {}", SocketAddr::from(([127, 0, 0, 1], 0)));
    let (sender, mut totals) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            sender.send(line).ok();
        }
    });
    while let Some(total) = totals.recv().await {
        let total: u64 = total.parse()?;
        while received.load(Ordering::Relaxed) < total {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        println!("done");
    }
    Ok(())
}
