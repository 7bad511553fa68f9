//! A plain peer reads what the resume profile adds: it keeps its own fields and skips the rest.
//!
//! The messages of `plain` are what a peer knows that never heard of the profile. Each test fails
//! if a profile field takes a number or a place that a plain peer would misread.

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

/// A place whose every byte is set, so that a wrongly read field shows.
fn somewhere() -> streamer::Position {
    streamer::Position {
        epoch: u64::MAX,
        offset: u64::MAX,
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

#[test]
fn a_subscribe_with_profile_fields_keeps_its_plain_fields() {
    let request = streamer::SubscribeRequest {
        subscription_id: "s1".into(),
        collection: "users".into(),
        database: "default".into(),
        resume: Some(somewhere()),
        credit_messages: u64::MAX,
        credit_bytes: u64::MAX,
        request: u64::MAX,
        ..Default::default()
    };
    assert_eq!(
        read_from_gateway(gateway_message::Payload::Subscribe(request)),
        Some(plain::FromGateway::Subscribe(plain::SubscribeRequest {
            subscription_id: "s1".into(),
            collection: "users".into(),
            database: "default".into(),
        })),
    );
}

#[test]
fn an_unsubscribe_with_a_number_keeps_its_id() {
    let request = streamer::UnsubscribeRequest {
        subscription_id: "s1".into(),
        request: u64::MAX,
    };
    assert_eq!(
        read_from_gateway(gateway_message::Payload::Unsubscribe(request)),
        Some(plain::FromGateway::Unsubscribe(plain::UnsubscribeRequest {
            subscription_id: "s1".into(),
        })),
    );
}

#[test]
fn a_response_with_position_resync_and_code_keeps_its_verdict() {
    let response = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        success: true,
        error: "why".into(),
        position: Some(somewhere()),
        resync: Some(streamer::Resync {
            reason: streamer::ResyncReason::Trimmed.into(),
            resumes_at: Some(somewhere()),
        }),
        code: streamer::RefusalCode::Invalid.into(),
        taken_over: true,
        request: u64::MAX,
    };
    assert_eq!(
        read_from_streamer(streamer_message::Payload::SubscribeResponse(response)),
        Some(plain::FromStreamer::SubscribeResponse(
            plain::SubscribeResponse {
                subscription_id: "s1".into(),
                success: true,
                error: "why".into(),
            }
        )),
    );
}

#[test]
fn a_delivery_with_profile_fields_keeps_ids_and_event() {
    let delivery = streamer::EventDelivery {
        subscription_ids: vec!["s1".into(), "s2".into()],
        event: Some(streamer::StreamerEvent {
            event_id: "e".into(),
            ..Default::default()
        }),
        position: Some(somewhere()),
        previous: vec![u64::MAX, 0],
    };
    assert_eq!(
        read_from_streamer(streamer_message::Payload::Delivery(delivery)),
        Some(plain::FromStreamer::Delivery(plain::EventDelivery {
            subscription_ids: vec!["s1".into(), "s2".into()],
            event: Some(plain::StreamerEvent {
                event_id: "e".into(),
            }),
        })),
    );
}

#[test]
fn an_ack_with_progress_keeps_its_timestamp() {
    let ack = streamer::HeartbeatAck {
        timestamp: 42,
        progress: Some(streamer::Progress {
            position: Some(somewhere()),
            behind: vec!["s1".into()],
        }),
    };
    assert_eq!(
        read_from_streamer(streamer_message::Payload::HeartbeatAck(ack)),
        Some(plain::FromStreamer::HeartbeatAck(plain::HeartbeatAck {
            timestamp: 42,
        })),
    );
}

#[test]
fn payloads_of_the_profile_read_as_messages_without_payload() {
    let hello = streamer::Hello {
        version: 1,
        client_id: "c".into(),
        session_id: "s".into(),
        attempt: 7,
        heartbeat_interval_ms: 30_000,
    };
    let credit = streamer::Credit {
        subscription_id: "s1".into(),
        messages: 256,
        bytes: 1 << 20,
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
        head: Some(somewhere()),
        heartbeat_interval_ms: 30_000,
    };
    let progress = streamer::Progress {
        position: Some(somewhere()),
        behind: vec!["s1".into()],
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
        streamer_message::Payload::Progress(progress),
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
        payload: Some(plain::FromGateway::Subscribe(plain::SubscribeRequest {
            subscription_id: "s1".into(),
            collection: "users".into(),
            database: "default".into(),
        })),
    };
    let read = streamer::GatewayMessage::decode(plain.encode_to_vec().as_slice()).unwrap();
    let expected = streamer::SubscribeRequest {
        subscription_id: "s1".into(),
        collection: "users".into(),
        database: "default".into(),
        ..Default::default()
    };
    assert_eq!(
        read.payload,
        Some(gateway_message::Payload::Subscribe(expected.clone())),
    );
    assert_eq!((expected.resume, expected.request), (None, 0));
}
