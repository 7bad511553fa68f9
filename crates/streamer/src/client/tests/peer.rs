//! A server in the same process, spoken to over a transport without sockets.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use steadfast::{
    Outbound,
    session::{End, Initiator, Reason},
    transport::{Call, Connection, Inbound, Tap, Transport},
};
use steadfast_wire::streamer::{
    Credit, EventDelivery, Final, FinalCode, GatewayMessage, HeartbeatAck, OperationType, Position,
    StreamerEvent, StreamerMessage, SubscribeRequest, SubscribeResponse, Welcome,
    gateway_message::Payload as Asked, streamer_message::Payload,
};
use tokio::sync::{Notify, mpsc};

pub(super) const EPOCH: u64 = 7;

/// Where streams arrive; dials fail while it is down.
pub(super) struct Server {
    streams: mpsc::UnboundedReceiver<Peer>,
    down: Arc<AtomicBool>,
}

/// The server's end of one stream.
pub(super) struct Peer {
    outbound: Outbound,
    inbound: mpsc::UnboundedSender<Result<Bytes, End>>,
    wire: Arc<Wire>,
}

#[derive(Default)]
pub(super) struct Wire {
    dead: AtomicBool,
    cut: Notify,
}

#[derive(Clone)]
pub(super) struct InMemory {
    streams: mpsc::UnboundedSender<Peer>,
    down: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(super) struct Pipe {
    streams: mpsc::UnboundedSender<Peer>,
    wire: Arc<Wire>,
}

pub(super) struct Messages(mpsc::UnboundedReceiver<Result<Bytes, End>>);

pub(super) fn server() -> (InMemory, Server) {
    let (sender, streams) = mpsc::unbounded_channel();
    let down = Arc::<AtomicBool>::default();
    let transport = InMemory {
        streams: sender,
        down: Arc::clone(&down),
    };
    (transport, Server { streams, down })
}

impl Server {
    pub(super) async fn accept(&mut self) -> Peer {
        self.streams.recv().await.expect("the client lives")
    }

    /// The next stream, after a greeting with the profile.
    pub(super) async fn greet(&mut self, head: u64) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.next().await, Asked::Hello(_)));
        let Asked::Heartbeat(heartbeat) = peer.next().await else {
            panic!("no heartbeat");
        };
        peer.say(Payload::Welcome(Welcome {
            version: 1,
            server_id: "srv".to_owned(),
            head: Some(position(head)),
            heartbeat_interval_ms: 0,
        }));
        peer.ack(heartbeat.timestamp);
        peer
    }

    /// Whether no stream has arrived that was not accepted.
    pub(super) fn is_idle(&mut self) -> bool {
        self.streams.try_recv().is_err()
    }

    pub(super) fn go_down(&self, down: bool) {
        self.down.store(down, Ordering::Release);
    }
}

impl Peer {
    /// The next message; heartbeats in between are acknowledged.
    pub(super) async fn asked(&mut self) -> Asked {
        loop {
            match self.next().await {
                Asked::Heartbeat(heartbeat) => self.ack(heartbeat.timestamp),
                asked => return asked,
            }
        }
    }

    pub(super) async fn subscribe(&mut self) -> SubscribeRequest {
        match self.asked().await {
            Asked::Subscribe(request) => request,
            asked => panic!("not a subscribe request: {asked:?}"),
        }
    }

    pub(super) async fn credit(&mut self) -> Credit {
        match self.asked().await {
            Asked::Credit(credit) => credit,
            asked => panic!("not credit: {asked:?}"),
        }
    }

    /// Accepts whatever is asked for until the stream ends; tells which ids are held then.
    pub(super) async fn serve(&mut self, held: &Mutex<BTreeSet<String>>) {
        while let Some(bytes) = self.outbound.next().await {
            let message = GatewayMessage::decode(bytes).expect("a message");
            match message.payload.expect("a payload") {
                Asked::Subscribe(request) => {
                    let mut held = held.lock().unwrap();
                    held.insert(request.subscription_id.clone());
                    self.accept(&request, 0);
                }
                Asked::Unsubscribe(request) => {
                    held.lock().unwrap().remove(&request.subscription_id);
                }
                Asked::Heartbeat(heartbeat) => self.ack(heartbeat.timestamp),
                Asked::Hello(_) | Asked::Credit(_) => {}
            }
        }
    }

    pub(super) async fn next(&mut self) -> Asked {
        let bytes = self.outbound.next().await.expect("the stream is open");
        let message = GatewayMessage::decode(bytes).expect("a message");
        message.payload.expect("a payload")
    }

    /// Acknowledges heartbeats for ever, and ignores everything else.
    pub(super) async fn attend(&mut self) {
        while let Some(bytes) = self.outbound.next().await {
            let message = GatewayMessage::decode(bytes).expect("a message");
            if let Some(Asked::Heartbeat(heartbeat)) = message.payload {
                self.ack(heartbeat.timestamp);
            }
        }
    }

    pub(super) fn say(&self, payload: Payload) {
        let message = StreamerMessage {
            payload: Some(payload),
        };
        self.inbound.send(Ok(message.encode_to_vec().into())).ok();
    }

    pub(super) fn ack(&self, timestamp: i64) {
        self.say(Payload::HeartbeatAck(HeartbeatAck {
            timestamp,
            progress: None,
        }));
    }

    pub(super) fn accept(&self, request: &SubscribeRequest, at: u64) {
        self.say(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            success: true,
            position: Some(position(at)),
            request: request.request,
            ..SubscribeResponse::default()
        }));
    }

    pub(super) fn refuse(&self, request: &SubscribeRequest, code: i32, error: &str) {
        self.say(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            error: error.to_owned(),
            code,
            request: request.request,
            ..SubscribeResponse::default()
        }));
    }

    pub(super) fn deliver(&self, request: &SubscribeRequest, previous: u64, offset: u64) {
        self.say(Payload::Delivery(EventDelivery {
            subscription_ids: vec![request.subscription_id.clone()],
            event: Some(StreamerEvent {
                event_id: offset.to_string(),
                operation: OperationType::Insert.into(),
                ..StreamerEvent::default()
            }),
            position: Some(position(offset)),
            previous: vec![previous],
        }));
    }

    pub(super) fn last_words(&self, code: FinalCode) {
        self.say(Payload::Final(Final {
            code: code.into(),
            ..Final::default()
        }));
    }

    pub(super) fn cut(self) {
        let end = End::retry(Initiator::Network, Reason::Lost("cut".into()));
        self.inbound.send(Err(end)).ok();
    }

    /// Resolves when the client has let go of the connection.
    pub(super) async fn dropped(&self) {
        while !self.wire.dead.load(Ordering::Acquire) {
            self.wire.cut.notified().await;
        }
    }
}

pub(super) fn position(offset: u64) -> Position {
    Position {
        epoch: EPOCH,
        offset,
    }
}

impl Transport for InMemory {
    type Connection = Pipe;

    fn connect(&self, _refresh: bool) -> impl Future<Output = Result<Pipe, End>> + Send + 'static {
        std::future::ready(if self.down.load(Ordering::Acquire) {
            let why = "down".to_owned();
            Err(End::retry(
                Initiator::Network,
                Reason::Unreachable(why.into()),
            ))
        } else {
            Ok(Pipe {
                streams: self.streams.clone(),
                wire: Arc::default(),
            })
        })
    }
}

impl Connection for Pipe {
    type Inbound = Messages;

    fn open(
        &self,
        _call: &Call,
        outbound: Outbound,
        _tap: Arc<Tap>,
    ) -> impl Future<Output = Result<Messages, End>> + Send + 'static {
        let (inbound, messages) = mpsc::unbounded_channel();
        let peer = Peer {
            outbound,
            inbound,
            wire: Arc::clone(&self.wire),
        };
        let gone = || End::retry(Initiator::Network, Reason::Lost("no server".into()));
        let opened = self.streams.send(peer);
        std::future::ready(opened.map(|()| Messages(messages)).map_err(|_| gone()))
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        std::future::ready(!self.is_dead())
    }

    fn kill(&self) {
        self.wire.dead.store(true, Ordering::Release);
        self.wire.cut.notify_one();
    }

    fn is_dead(&self) -> bool {
        self.wire.dead.load(Ordering::Acquire)
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}

impl Inbound for Messages {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        self.0.poll_recv(cx).map(|message| {
            message.unwrap_or_else(|| {
                let why = "the peer is gone".to_owned();
                Err(End::retry(Initiator::Network, Reason::Lost(why.into())))
            })
        })
    }
}
