//! A scripted Streamer server.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use steadfast::{
    session::End,
    testing::{self, DialOutcome, ScriptedTransport},
    transport::Connection as _,
};
use steadfast_wire::streamer::{
    Credit, EventDelivery, Final, FinalCode, GatewayMessage, HeartbeatAck, OperationType, Position,
    StreamerEvent, StreamerMessage, SubscribeRequest, SubscribeResponse, Welcome,
    gateway_message::Payload as Request, streamer_message::Payload,
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
        assert!(matches!(peer.next().await, Request::Hello(_)));
        let Request::Heartbeat(heartbeat) = peer.next().await else {
            panic!("no heartbeat");
        };
        peer.send(Payload::Welcome(Welcome {
            version: 1,
            server_id: "srv".to_owned(),
            head: Some(position(head)),
            heartbeat_interval_ms: 0,
            expires_in_ms: 0,
        }));
        peer.ack(heartbeat.timestamp);
        peer
    }

    /// Accepts the next stream as a server without the profile.
    pub(super) async fn greet_plain(&mut self) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.next().await, Request::Hello(_)));
        let Request::Heartbeat(heartbeat) = peer.next().await else {
            panic!("no heartbeat");
        };
        peer.ack(heartbeat.timestamp);
        peer
    }

    /// Returns whether every stream was accepted.
    pub(super) fn is_idle(&mut self) -> bool {
        self.streams.try_recv().is_err()
    }

    /// Lets every connection lose what is sent on it.
    pub(super) fn black_hole(&self) {
        for connection in self.transport.connections() {
            connection.black_hole();
        }
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
    pub(super) async fn request(&mut self) -> Request {
        loop {
            match self.next().await {
                Request::Heartbeat(heartbeat) => self.ack(heartbeat.timestamp),
                request => return request,
            }
        }
    }

    pub(super) async fn subscribe(&mut self) -> SubscribeRequest {
        match self.request().await {
            Request::Subscribe(request) => request,
            request => panic!("not a subscribe request: {request:?}"),
        }
    }

    pub(super) async fn credit(&mut self) -> Credit {
        match self.request().await {
            Request::Credit(credit) => credit,
            request => panic!("not credit: {request:?}"),
        }
    }

    /// Accepts every subscription until the stream ends, and keeps `held` up to date.
    pub(super) async fn serve(&mut self, held: &Mutex<BTreeSet<String>>) {
        while let Some(message) = self.0.receive::<GatewayMessage>().await {
            match message.payload.expect("a payload") {
                Request::Subscribe(request) => {
                    let mut held = held.lock().unwrap();
                    held.insert(request.subscription_id.clone());
                    self.accept(&request, 0);
                }
                Request::Unsubscribe(request) => {
                    held.lock().unwrap().remove(&request.subscription_id);
                }
                Request::Heartbeat(heartbeat) => self.ack(heartbeat.timestamp),
                Request::Hello(_) | Request::Credit(_) | Request::Authenticate(_) => {}
            }
        }
    }

    pub(super) async fn next(&mut self) -> Request {
        let message = self.0.receive::<GatewayMessage>().await;
        let message = message.expect("the stream is open");
        message.payload.expect("a payload")
    }

    /// Acknowledges heartbeats for ever and ignores other messages.
    pub(super) async fn attend(&mut self) {
        while let Some(message) = self.0.receive::<GatewayMessage>().await {
            if let Some(Request::Heartbeat(heartbeat)) = message.payload {
                self.ack(heartbeat.timestamp);
            }
        }
    }

    pub(super) fn send(&self, payload: Payload) {
        self.0.send(&StreamerMessage {
            payload: Some(payload),
        });
    }

    pub(super) fn ack(&self, timestamp: i64) {
        self.send(Payload::HeartbeatAck(HeartbeatAck {
            timestamp,
            progress: None,
        }));
    }

    pub(super) fn accept(&self, request: &SubscribeRequest, at: u64) {
        self.send(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            success: true,
            position: Some(position(at)),
            request: request.request,
            ..SubscribeResponse::default()
        }));
    }

    pub(super) fn refuse(&self, request: &SubscribeRequest, code: i32, error: &str) {
        self.send(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            error: error.to_owned(),
            code,
            request: request.request,
            ..SubscribeResponse::default()
        }));
    }

    pub(super) fn deliver(&self, request: &SubscribeRequest, previous: u64, offset: u64) {
        self.send(Payload::Delivery(EventDelivery {
            subscription_ids: vec![request.subscription_id.clone()],
            event: Some(StreamerEvent {
                event_id: offset.to_string(),
                operation: OperationType::Insert.into(),
                ..StreamerEvent::default()
            }),
            position: Some(position(offset)),
            previous: vec![previous],
            left: false,
        }));
    }

    pub(super) fn accept_plain(&self, request: &SubscribeRequest) {
        self.send(Payload::SubscribeResponse(SubscribeResponse {
            subscription_id: request.subscription_id.clone(),
            success: true,
            ..SubscribeResponse::default()
        }));
    }

    pub(super) fn end(&self, end: End) {
        self.0.end(end);
    }

    pub(super) fn finish_with(&self, code: FinalCode) {
        self.send(Payload::Final(Final {
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
