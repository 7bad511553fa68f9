//! A server in the same process, spoken to over a transport without sockets.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use steadfast::{
    testing::{self, DialOutcome, ScriptedTransport},
    transport::Connection as _,
};
use steadfast_wire::streamer::{
    Credit, EventDelivery, Final, FinalCode, GatewayMessage, HeartbeatAck, OperationType, Position,
    StreamerEvent, StreamerMessage, SubscribeRequest, SubscribeResponse, Welcome,
    gateway_message::Payload as Asked, streamer_message::Payload,
};
use tokio::sync::mpsc;

pub(super) const EPOCH: u64 = 7;

/// The server of a scripted transport.
pub(super) struct Server {
    transport: ScriptedTransport,
    streams: mpsc::UnboundedReceiver<testing::Peer>,
}

/// The server's end of one stream.
pub(super) struct Peer(testing::Peer);

pub(super) fn server() -> (ScriptedTransport, Server) {
    let (transport, streams) = ScriptedTransport::channel();
    let transport = transport.with_round_trip(Duration::ZERO);
    let server = Server {
        transport: transport.clone(),
        streams,
    };
    (transport, server)
}

impl Server {
    pub(super) async fn accept(&mut self) -> Peer {
        let peer = self.streams.recv().await.expect("the client lives");
        peer.send_headers();
        Peer(peer)
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

    /// Refuses connections while down.
    pub(super) fn go_down(&self, down: bool) {
        self.transport.set_dial_outcome(if down {
            DialOutcome::Refused
        } else {
            DialOutcome::Connected
        });
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
        while let Some(message) = self.0.receive::<GatewayMessage>().await {
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
        let message = self.0.receive::<GatewayMessage>().await;
        let message = message.expect("the stream is open");
        message.payload.expect("a payload")
    }

    /// Acknowledges heartbeats for ever, and ignores everything else.
    pub(super) async fn attend(&mut self) {
        while let Some(message) = self.0.receive::<GatewayMessage>().await {
            if let Some(Asked::Heartbeat(heartbeat)) = message.payload {
                self.ack(heartbeat.timestamp);
            }
        }
    }

    pub(super) fn say(&self, payload: Payload) {
        self.0.send(&StreamerMessage {
            payload: Some(payload),
        });
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
        self.0.connection().kill();
    }

    /// Resolves when the client has let go of the connection.
    pub(super) async fn dropped(&self) {
        self.0.connection().closed().await;
    }
}

pub(super) fn position(offset: u64) -> Position {
    Position {
        epoch: EPOCH,
        offset,
    }
}
