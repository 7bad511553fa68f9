//! The wire, byte for byte: vectors made with the Go protobuf runtime of the original programs.
//!
//! Each test encodes our types to the vector and decodes the vector into them. It fails when a field
//! is renumbered, a type changes or an enum value moves.

use std::fmt::Debug;

use prost::Message;
use steadfast_wire::{
    fodc, puller,
    streamer::{self, gateway_message, streamer_message, value::Kind},
};

/// Asserts that the value encodes to exactly these bytes and that they decode to the value.
fn assert_golden<M: Message + Default + PartialEq + Debug>(value: &M, hex: &str) {
    let bytes = unhex(hex);
    assert_eq!(value.encode_to_vec(), bytes, "encoding of {value:?}");
    assert_eq!(
        &M::decode(bytes.as_slice()).expect("the vector is a message"),
        value,
        "decoding of {hex}"
    );
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(
        hex.len().is_multiple_of(2),
        "an odd number of digits: {hex}"
    );
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits"))
        .collect()
}

fn from_gateway(payload: gateway_message::Payload) -> streamer::GatewayMessage {
    let payload = Some(payload);
    streamer::GatewayMessage { payload }
}

fn from_streamer(payload: streamer_message::Payload) -> streamer::StreamerMessage {
    let payload = Some(payload);
    streamer::StreamerMessage { payload }
}

fn value(kind: Kind) -> streamer::Value {
    streamer::Value { kind: Some(kind) }
}

#[test]
fn streamer_subscribe_with_filters() {
    let tags = streamer::ListValue {
        values: vec![
            value(Kind::StringValue("a".into())),
            value(Kind::DoubleValue(1.5)),
            value(Kind::BoolValue(true)),
        ],
    };
    let request = streamer::SubscribeRequest {
        subscription_id: "s1".into(),
        collection: "users".into(),
        database: "default".into(),
        filters: vec![
            streamer::Filter {
                field: "age".into(),
                op: ">=".into(),
                value: Some(value(Kind::IntValue(18))),
                path: vec![],
            },
            streamer::Filter {
                field: "tag".into(),
                op: "in".into(),
                value: Some(value(Kind::ListValue(tags))),
                path: vec![],
            },
        ],
        ..Default::default()
    };
    assert_golden(
        &from_gateway(gateway_message::Payload::Subscribe(request)),
        "0a460a027331120575736572731a0d0a0361676512023e3d1a0210121a210a037461671202696e1a162a14\
         0a030a01610a0919000000000000f83f0a022001220764656661756c74",
    );
}

#[test]
fn streamer_messages_of_a_gateway() {
    use gateway_message::Payload::{Heartbeat, Unsubscribe};
    let unsubscribe = streamer::UnsubscribeRequest {
        subscription_id: "s1".into(),
        ..Default::default()
    };
    let heartbeat = streamer::Heartbeat {
        gateway_id: "g".into(),
        timestamp: 1_700_000_000_123,
    };
    for (payload, bytes) in [
        (Unsubscribe(unsubscribe), "12040a027331"),
        (Heartbeat(heartbeat), "1a0a0a016710fbd095ffbc31"),
        // The Go client sends it empty.
        (Heartbeat(streamer::Heartbeat::default()), "1a00"),
    ] {
        assert_golden(&from_gateway(payload), bytes);
    }
}

#[test]
fn streamer_messages_of_a_server() {
    use streamer_message::Payload::{Delivery, HeartbeatAck, SubscribeResponse};
    let delivery = streamer::EventDelivery {
        subscription_ids: vec!["s1".into(), "s2".into()],
        event: Some(streamer::StreamerEvent {
            event_id: "1-2-aa".into(),
            database: "default".into(),
            collection: "users".into(),
            document_id: "u1".into(),
            operation: streamer::OperationType::Delete.into(),
            document_data: r#"{"version":1}"#.into(),
            timestamp: 1_700_000_000_123,
        }),
        ..Default::default()
    };
    let ack = streamer::HeartbeatAck {
        timestamp: 42,
        ..Default::default()
    };
    let accepted = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        success: true,
        ..Default::default()
    };
    let refused = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        error: "subscription ID already exists".into(),
        ..Default::default()
    };
    for (payload, bytes) in [
        (
            Delivery(delivery),
            "0a3e0a0273310a02733212340a06312d322d6161120764656661756c741a057573657273220275312804320d\
             7b2276657273696f6e223a317d38fbd095ffbc31",
        ),
        (HeartbeatAck(ack), "1202082a"),
        (SubscribeResponse(accepted), "1a060a0273311001"),
        (
            SubscribeResponse(refused),
            "1a240a0273311a1e737562736372697074696f6e20494420616c726561647920657869737473",
        ),
    ] {
        assert_golden(&from_streamer(payload), bytes);
    }
}

#[test]
fn puller_request_event_and_heartbeat() {
    let request = puller::SubscribeRequest {
        consumer_id: "c".into(),
        after: "eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ".into(),
        coalesce_on_catch_up: true,
    };
    assert_golden(
        &request,
        "0a0163121e65794a77496a7037496d4978496a6f694d5449744d53316859534a3966511801",
    );
    let change = puller::ChangeEvent {
        event_id: "12-1-aa".into(),
        database: "db".into(),
        mgo_coll: "documents".into(),
        mgo_doc_id: "db:h".into(),
        op_type: "update".into(),
        full_doc: "{}".into(),
        update_desc: "{}".into(),
        cluster_time: Some(puller::ClusterTime { t: 12, i: 1 }),
        timestamp: 9,
        txn_number: 3,
        backend: "b1".into(),
    };
    let event = |change_event| puller::PullerEvent {
        change_event,
        progress: "p".into(),
    };
    assert_golden(
        &event(Some(change)),
        "0a3c0a0731322d312d6161120264621a09646f63756d656e7473220464623a682a067570646174653202\
         7b7d3a027b7d4204080c1001480950035a026231120170",
    );
    assert_golden(&event(None), "120170");
}

#[test]
fn fodc_registration_with_and_without_an_address() {
    let address = fodc::Address {
        ip: "10.0.0.1".to_owned(),
        port: 17912,
    };
    for (address, bytes) in [
        (
            None,
            "0a09524f4c455f44415441120b0a04747970651203686f74220270302a0464617461",
        ),
        (
            Some(address),
            "0a09524f4c455f44415441120b0a04747970651203686f741a0e0a0831302e302e302e3110f88b01\
             220270302a0464617461",
        ),
    ] {
        assert_golden(&registration(address), bytes);
    }
}

#[test]
fn fodc_heartbeat_and_queries() {
    assert_golden(&fodc::RegisterAgentRequest::default(), "");
    // A query for the latest values.
    assert_golden(&fodc::StreamMetricsResponse::default(), "");
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let window = fodc::StreamMetricsResponse {
        start_time: at(1_767_225_600),
        end_time: at(1_767_225_660),
        ..Default::default()
    };
    assert_golden(&window, "0a060880f2d6ca06120608bcf2d6ca06");
}

#[test]
fn fodc_commands_of_the_later_streams_are_one_flag() {
    let request_topology = true;
    assert_golden(
        &fodc::StreamClusterTopologyResponse { request_topology },
        "0801",
    );
    let request_lifecycle = true;
    assert_golden(&fodc::StreamLifecycleResponse { request_lifecycle }, "0801");
    let request_diagnostics = true;
    assert_golden(
        &fodc::StreamCrashDiagnosticsResponse {
            request_diagnostics,
        },
        "0801",
    );
    let request_registry = true;
    assert_golden(
        &fodc::StreamSchemaRegistryResponse { request_registry },
        "0801",
    );
}

#[test]
fn fodc_profile_field_follows_the_fields_of_the_original() {
    let ours = fodc::RegisterAgentRequest {
        profile: Some(fodc::AgentProfile {
            version: 1,
            instance: "i".to_owned(),
            ..fodc::AgentProfile::default()
        }),
        ..registration(None)
    };
    let plain = registration(None).encode_to_vec();
    let bytes = ours.encode_to_vec();
    let (known, added) = bytes.split_at(plain.len());
    assert_eq!(known, plain, "everything of the original comes first");
    // Field 100, length-delimited, five bytes: version 1, instance "i".
    assert_eq!(added, unhex("a206050801120169"));
}

fn registration(primary_address: Option<fodc::Address>) -> fodc::RegisterAgentRequest {
    fodc::RegisterAgentRequest {
        node_role: "ROLE_DATA".to_owned(),
        labels: [("type".to_owned(), "hot".to_owned())].into(),
        primary_address,
        pod_name: "p0".to_owned(),
        container_names: vec!["data".to_owned()],
        profile: None,
    }
}
