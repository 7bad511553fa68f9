//! A plain peer reads messages with fields of the resume profile: it keeps its own fields and skips
//! the rest.
//!
//! The module `plain` has the messages as a plain peer knows them. Each test fails if a profile field
//! takes a number that a plain peer would misread.

use prost::Message;
use steadfast_wire::streamer::{self, gateway_message, streamer_message};

mod plain {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct GatewayMessage {
        #[prost(oneof = "FromGateway", tags = "1, 2, 3")]
        pub(crate) payload: Option<FromGateway>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum FromGateway {
        #[prost(message, tag = "1")]
        Subscribe(SubscribeRequest),
        #[prost(message, tag = "2")]
        Unsubscribe(UnsubscribeRequest),
        #[prost(message, tag = "3")]
        Heartbeat(Heartbeat),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct StreamerMessage {
        #[prost(oneof = "FromStreamer", tags = "1, 2, 3")]
        pub(crate) payload: Option<FromStreamer>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum FromStreamer {
        #[prost(message, tag = "1")]
        Delivery(EventDelivery),
        #[prost(message, tag = "2")]
        HeartbeatAck(HeartbeatAck),
        #[prost(message, tag = "3")]
        SubscribeResponse(SubscribeResponse),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct SubscribeRequest {
        #[prost(string, tag = "1")]
        pub(crate) subscription_id: String,
        #[prost(string, tag = "2")]
        pub(crate) collection: String,
        #[prost(string, tag = "4")]
        pub(crate) database: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct UnsubscribeRequest {
        #[prost(string, tag = "1")]
        pub(crate) subscription_id: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Heartbeat {
        #[prost(string, tag = "1")]
        pub(crate) gateway_id: String,
        #[prost(int64, tag = "2")]
        pub(crate) timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct EventDelivery {
        #[prost(string, repeated, tag = "1")]
        pub(crate) subscription_ids: Vec<String>,
        #[prost(message, optional, tag = "2")]
        pub(crate) event: Option<StreamerEvent>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct StreamerEvent {
        #[prost(string, tag = "1")]
        pub(crate) event_id: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct HeartbeatAck {
        #[prost(int64, tag = "1")]
        pub(crate) timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct SubscribeResponse {
        #[prost(string, tag = "1")]
        pub(crate) subscription_id: String,
        #[prost(bool, tag = "2")]
        pub(crate) success: bool,
        #[prost(string, tag = "3")]
        pub(crate) error: String,
    }
}

/// A position with every bit set, so that a field read as another one shows.
fn position() -> streamer::Position {
    streamer::Position {
        epoch: u64::MAX,
        offset: u64::MAX,
    }
}

fn progress() -> streamer::Progress {
    streamer::Progress {
        position: Some(position()),
        behind: vec!["s1".into()],
    }
}

fn subscribe() -> streamer::SubscribeRequest {
    streamer::SubscribeRequest {
        subscription_id: "s1".into(),
        collection: "users".into(),
        database: "default".into(),
        ..Default::default()
    }
}

fn plain_subscribe() -> plain::SubscribeRequest {
    plain::SubscribeRequest {
        subscription_id: "s1".into(),
        collection: "users".into(),
        database: "default".into(),
    }
}

fn read_from_gateway(payload: gateway_message::Payload) -> Option<plain::FromGateway> {
    let bytes = streamer::GatewayMessage {
        payload: Some(payload),
    }
    .encode_to_vec();
    plain::GatewayMessage::decode(bytes.as_slice())
        .expect("a plain peer decodes it")
        .payload
}

fn read_from_streamer(payload: streamer_message::Payload) -> Option<plain::FromStreamer> {
    let bytes = streamer::StreamerMessage {
        payload: Some(payload),
    }
    .encode_to_vec();
    plain::StreamerMessage::decode(bytes.as_slice())
        .expect("a plain peer decodes it")
        .payload
}

fn bound() -> streamer::WindowBound {
    streamer::WindowBound {
        document_id: "d".into(),
        value: Some(streamer::window_bound::Value::StringValue("v".into())),
    }
}

#[test]
fn gateway_messages_with_profile_fields_keep_plain_fields() {
    let subscribe = streamer::SubscribeRequest {
        resume: Some(position()),
        credit_messages: u64::MAX,
        credit_bytes: u64::MAX,
        request: u64::MAX,
        snapshot: Some(streamer::SnapshotRequest {
            cursor: vec![7; 9].into(),
        }),
        left: true,
        window: Some(Box::new(streamer::Window {
            field: "n".into(),
            path: vec!["a.b".into()],
            descending: true,
            limit: u32::MAX,
            reserve: u32::MAX,
            bound: Some(bound()),
        })),
        start: Some(streamer::subscribe_request::Start::StartTimeMs(i64::MIN)),
        rights: Some(u64::MAX),
        ..subscribe()
    };
    assert_eq!(
        read_from_gateway(gateway_message::Payload::Subscribe(subscribe)),
        Some(plain::FromGateway::Subscribe(plain_subscribe())),
    );
    let unsubscribe = streamer::UnsubscribeRequest {
        subscription_id: "s1".into(),
        request: u64::MAX,
    };
    assert_eq!(
        read_from_gateway(gateway_message::Payload::Unsubscribe(unsubscribe)),
        Some(plain::FromGateway::Unsubscribe(plain::UnsubscribeRequest {
            subscription_id: "s1".into(),
        })),
    );
}

#[test]
fn server_messages_with_profile_fields_keep_plain_fields() {
    use plain::FromStreamer;
    use streamer_message::Payload::{Delivery, HeartbeatAck, SubscribeResponse};
    let response = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        success: true,
        error: "why".into(),
        position: Some(position()),
        resync: Some(streamer::Resync {
            reason: streamer::ResyncReason::Trimmed.into(),
            resumes_at: Some(position()),
        }),
        code: streamer::RefusalCode::Invalid.into(),
        taken_over: true,
        request: u64::MAX,
        snapshot: true,
        left: true,
        window: true,
        start: true,
        filters: true,
        rights: u64::MAX,
    };
    let plain_response = plain::SubscribeResponse {
        subscription_id: "s1".into(),
        success: true,
        error: "why".into(),
    };
    let delivery = streamer::EventDelivery {
        subscription_ids: vec!["s1".into(), "s2".into()],
        event: Some(streamer::StreamerEvent {
            event_id: "e".into(),
            ..Default::default()
        }),
        position: Some(position()),
        previous: vec![u64::MAX, 0],
        left: true,
    };
    let plain_delivery = plain::EventDelivery {
        subscription_ids: vec!["s1".into(), "s2".into()],
        event: Some(plain::StreamerEvent {
            event_id: "e".into(),
        }),
    };
    let ack = streamer::HeartbeatAck {
        timestamp: 42,
        progress: Some(progress()),
    };
    let plain_ack = plain::HeartbeatAck { timestamp: 42 };
    for (payload, expected) in [
        (
            SubscribeResponse(response),
            FromStreamer::SubscribeResponse(plain_response),
        ),
        (Delivery(delivery), FromStreamer::Delivery(plain_delivery)),
        (HeartbeatAck(ack), FromStreamer::HeartbeatAck(plain_ack)),
    ] {
        assert_eq!(read_from_streamer(payload), Some(expected));
    }
}

#[test]
fn payloads_of_the_profile_read_as_messages_without_payload() {
    let hello = streamer::Hello {
        version: 1,
        client_id: "c".into(),
        session_id: "s".into(),
        attempt: 7,
        heartbeat_interval_ms: 30_000,
        secret: vec![7; 9].into(),
    };
    let credit = streamer::Credit {
        subscription_id: "s1".into(),
        messages: 256,
        bytes: 1 << 20,
        bound: Some(Box::new(bound())),
        snapshot: u32::MAX,
    };
    for payload in [
        gateway_message::Payload::Hello(hello),
        gateway_message::Payload::Credit(credit),
    ] {
        assert_eq!(read_from_gateway(payload.clone()), None, "{payload:?}");
    }

    let welcome = streamer::Welcome {
        version: 1,
        server_id: "s".into(),
        head: Some(position()),
        heartbeat_interval_ms: 30_000,
        expires_in_ms: u64::MAX,
    };
    let drain = streamer::Drain {
        deadline_ms: 10_000,
        reason: "stopping".into(),
    };
    let gone = streamer::UnsubscribeAck {
        subscription_id: "s1".into(),
        request: 9,
    };
    let last = streamer::Final {
        code: streamer::FinalCode::Fenced.into(),
        retry_after_ms: 1,
        message: "why".into(),
    };
    for payload in [
        streamer_message::Payload::Welcome(welcome),
        streamer_message::Payload::Progress(progress()),
        streamer_message::Payload::Drain(drain),
        streamer_message::Payload::UnsubscribeAck(gone),
        streamer_message::Payload::Final(last),
    ] {
        assert_eq!(read_from_streamer(payload.clone()), None, "{payload:?}");
    }
}

#[test]
fn messages_of_a_plain_peer_have_no_profile_fields() {
    let plain = plain::GatewayMessage {
        payload: Some(plain::FromGateway::Subscribe(plain_subscribe())),
    };
    let read = streamer::GatewayMessage::decode(plain.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        read.payload,
        Some(gateway_message::Payload::Subscribe(subscribe())),
    );
    assert_eq!((subscribe().resume, subscribe().request), (None, 0));
}
