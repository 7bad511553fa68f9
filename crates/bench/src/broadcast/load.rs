//! The peers of the measured servers: HTTP/2 without a gRPC library, so that they cost little.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use prost::Message;
use steadfast_wire::{
    publisher::{Entry, PublishRequest, PublisherHello, publish_request},
    streamer::{GatewayMessage, SubscribeRequest, gateway_message},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

use crate::target::{Endpoint, HOST};

/// The longest wait for anything.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

const STREAM: &str = "/syntrix.streamer.v1.StreamerService/Stream";
const PUBLISH: &str = "/steadfast.streamer.v1.PublisherService/Publish";

/// The tag of `StreamerMessage.delivery`, which is the first byte of such a message.
const DELIVERY: u8 = 0x0a;

/// The number of deliveries received by all peers of one server.
#[derive(Clone, Default)]
pub(super) struct Received(Arc<Count>);

#[derive(Default)]
struct Count {
    deliveries: AtomicU64,
    responses: AtomicU64,
    changed: Notify,
}

impl Received {
    pub(super) fn deliveries(&self) -> u64 {
        self.0.deliveries.load(Ordering::Relaxed)
    }

    pub(super) fn add_deliveries(&self, more: u64) {
        self.0.deliveries.fetch_add(more, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    fn add(&self, message: &[u8]) {
        if message.first() == Some(&DELIVERY) {
            self.add_deliveries(1);
        } else {
            self.0.responses.fetch_add(1, Ordering::Relaxed);
            self.0.changed.notify_one();
        }
    }

    /// Waits for this number of deliveries in all.
    pub(super) async fn wait_for_deliveries(&self, number: u64) -> Result<()> {
        self.wait(&self.0.deliveries, number, "deliveries").await
    }

    /// Waits for this number of other messages in all.
    pub(super) async fn wait_for_responses(&self, number: u64) -> Result<()> {
        self.wait(&self.0.responses, number, "responses").await
    }

    async fn wait(&self, counter: &AtomicU64, number: u64, what: &str) -> Result<()> {
        let complete = async {
            while counter.load(Ordering::Relaxed) < number {
                // `notify_one` keeps a permit: no message between check and wait is missed.
                self.0.changed.notified().await;
            }
        };
        timeout(TIMEOUT, complete).await.with_context(|| {
            let arrived = counter.load(Ordering::Relaxed);
            format!("{arrived} of {number} {what} arrived in {TIMEOUT:?}")
        })
    }
}

/// Opens a connection.
pub(super) async fn connect(server: &Endpoint) -> Result<SendRequest<Bytes>> {
    let connected = async {
        let socket = TcpStream::connect(server.address).await?;
        socket.set_nodelay(true)?;
        match &server.tls {
            Some(tls) => begin(tls.connect(HOST, socket).await?).await,
            None => begin(socket).await,
        }
    };
    let connected = timeout(TIMEOUT, connected).await;
    connected.context("the server does not begin to speak")?
}

async fn begin(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Bytes>> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(io)
        .await?;
    // It ends with the last handle of the connection.
    tokio::spawn(connection);
    Ok(requests)
}

/// Opens a stream of the Streamer and passes on its messages.
pub(super) async fn open_stream(
    requests: &SendRequest<Bytes>,
    on_message: impl FnMut(&[u8]) + Send + 'static,
) -> Result<SendStream<Bytes>> {
    open(requests, STREAM, on_message).await
}

/// Opens a stream and counts its messages.
pub(super) async fn open_counted(
    requests: &SendRequest<Bytes>,
    received: &Received,
) -> Result<SendStream<Bytes>> {
    let received = received.clone();
    open_stream(requests, move |message| received.add(message)).await
}

async fn open(
    requests: &SendRequest<Bytes>,
    path: &str,
    on_message: impl FnMut(&[u8]) + Send + 'static,
) -> Result<SendStream<Bytes>> {
    let request = http::Request::post(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let ready = timeout(TIMEOUT, requests.clone().ready()).await;
    let mut requests = ready.context("the connection takes no more streams")??;
    let (response, sender) = requests.send_request(request, false)?;
    let response = timeout(TIMEOUT, response).await??;
    ensure!(response.status() == 200, "the server answered {response:?}");
    tokio::spawn(read(response.into_body(), on_message));
    Ok(sender)
}

async fn read(mut body: RecvStream, mut on_message: impl FnMut(&[u8])) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        // At once: the server must never wait for the credit of a measured peer.
        body.flow_control().release_capacity(chunk.len()).ok();
        buffer.extend_from_slice(&chunk);
        while buffer.len() >= 5 {
            let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
            if buffer.len() < 5 + length {
                break;
            }
            on_message(&buffer[5..5 + length]);
            buffer.advance(5 + length);
        }
    }
}

/// Connects a reader of the raw TCP server. Messages have the given length.
pub(super) async fn open_raw(
    address: SocketAddr,
    length: usize,
    received: &Received,
) -> Result<()> {
    let mut socket = timeout(TIMEOUT, TcpStream::connect(address)).await??;
    let received = received.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        while let Ok(more) = socket.read(&mut buffer).await
            && more > 0
        {
            bytes += more;
            received.add_deliveries((bytes / length) as u64);
            bytes %= length;
        }
    });
    Ok(())
}

/// Returns a subscribe request for a collection.
pub(super) fn subscribe(id: String, collection: &str) -> SubscribeRequest {
    SubscribeRequest {
        subscription_id: id,
        database: "default".to_owned(),
        collection: collection.to_owned(),
        ..SubscribeRequest::default()
    }
}

/// Sends messages of a plain peer.
pub(super) fn send(
    stream: &mut SendStream<Bytes>,
    payloads: impl IntoIterator<Item = gateway_message::Payload>,
) -> Result<()> {
    let mut frames = BytesMut::new();
    for payload in payloads {
        let payload = Some(payload);
        put_frame(&GatewayMessage { payload }, &mut frames)?;
    }
    // Without asking for capacity: h2 buffers what the window does not admit yet.
    Ok(stream.send_data(frames.freeze(), false)?)
}

/// A publisher that sends bursts.
pub(super) struct Publisher {
    stream: SendStream<Bytes>,
    sequence: u64,
}

impl Publisher {
    pub(super) async fn connect(server: &Endpoint, name: &str) -> Result<Self> {
        let mut stream = open(&connect(server).await?, PUBLISH, |_| ()).await?;
        let mut frames = BytesMut::new();
        let producer_id = name.to_owned();
        let hello = publish_request::Payload::Hello(PublisherHello { producer_id });
        let payload = Some(hello);
        put_frame(&PublishRequest { payload }, &mut frames)?;
        stream.send_data(frames.freeze(), false)?;
        Ok(Self {
            stream,
            sequence: 0,
        })
    }

    /// Sends documents at once.
    pub(super) fn publish(
        &mut self,
        collection: &str,
        documents: impl IntoIterator<Item = Bytes>,
    ) -> Result<()> {
        let mut frames = BytesMut::new();
        for data in documents {
            self.sequence += 1;
            let entry = Entry {
                sequence: self.sequence,
                database: "default".to_owned(),
                collection: collection.to_owned(),
                document_id: format!("document-{:03}", self.sequence % 1_000),
                operation: 0,
                data,
            };
            let payload = Some(publish_request::Payload::Entry(entry));
            put_frame(&PublishRequest { payload }, &mut frames)?;
        }
        Ok(self.stream.send_data(frames.freeze(), false)?)
    }
}

fn put_frame(message: &impl Message, out: &mut BytesMut) -> Result<()> {
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len())?);
    Ok(message.encode(out)?)
}
