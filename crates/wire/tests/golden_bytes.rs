//! The wire, byte for byte: vectors made with the Go protobuf runtime of the original programs.
//!
//! Each vector is encoded from our types and decoded into them. A renumbered field, a changed type
//! or an enum value that moved fails here, before a peer meets it.

use std::fmt::Debug;

use prost::Message;
use steadfast_wire::{fodc, puller, streamer};

/// The value encodes to exactly these bytes, and these bytes decode to exactly the value.
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

fn from_gateway(payload: streamer::gateway_message::Payload) -> streamer::GatewayMessage {
    streamer::GatewayMessage {
        payload: Some(payload),
    }
}

fn from_streamer(payload: streamer::streamer_message::Payload) -> streamer::StreamerMessage {
    streamer::StreamerMessage {
        payload: Some(payload),
    }
}

fn value(kind: streamer::value::Kind) -> streamer::Value {
    streamer::Value { kind: Some(kind) }
}

#[test]
fn subscribe_with_a_number_and_a_mixed_list() {
    use streamer::value::Kind;
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
            },
            streamer::Filter {
                field: "tag".into(),
                op: "in".into(),
                value: Some(value(Kind::ListValue(tags))),
            },
        ],
        ..Default::default()
    };
    assert_golden(
        &from_gateway(streamer::gateway_message::Payload::Subscribe(request)),
        "0a460a027331120575736572731a0d0a0361676512023e3d1a0210121a210a037461671202696e1a162a14\
         0a030a01610a0919000000000000f83f0a022001220764656661756c74",
    );
}

#[test]
fn unsubscribe() {
    let request = streamer::UnsubscribeRequest {
        subscription_id: "s1".into(),
        ..Default::default()
    };
    assert_golden(
        &from_gateway(streamer::gateway_message::Payload::Unsubscribe(request)),
        "12040a027331",
    );
}

#[test]
fn heartbeat_with_name_and_time() {
    let heartbeat = streamer::Heartbeat {
        gateway_id: "g".into(),
        timestamp: 1_700_000_000_123,
    };
    assert_golden(
        &from_gateway(streamer::gateway_message::Payload::Heartbeat(heartbeat)),
        "1a0a0a016710fbd095ffbc31",
    );
}

#[test]
fn heartbeat_as_the_go_client_sends_it() {
    let heartbeat = streamer::Heartbeat::default();
    assert_golden(
        &from_gateway(streamer::gateway_message::Payload::Heartbeat(heartbeat)),
        "1a00",
    );
}

#[test]
fn delivery_of_a_delete_to_two_subscriptions() {
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
    assert_golden(
        &from_streamer(streamer::streamer_message::Payload::Delivery(delivery)),
        "0a3e0a0273310a02733212340a06312d322d6161120764656661756c741a057573657273220275312804320d\
         7b2276657273696f6e223a317d38fbd095ffbc31",
    );
}

#[test]
fn heartbeat_ack() {
    let ack = streamer::HeartbeatAck {
        timestamp: 42,
        ..Default::default()
    };
    assert_golden(
        &from_streamer(streamer::streamer_message::Payload::HeartbeatAck(ack)),
        "1202082a",
    );
}

#[test]
fn subscribe_response_that_accepts() {
    let response = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        success: true,
        ..Default::default()
    };
    assert_golden(
        &from_streamer(streamer::streamer_message::Payload::SubscribeResponse(
            response,
        )),
        "1a060a0273311001",
    );
}

#[test]
fn subscribe_response_that_refuses() {
    let response = streamer::SubscribeResponse {
        subscription_id: "s1".into(),
        error: "subscription ID already exists".into(),
        ..Default::default()
    };
    assert_golden(
        &from_streamer(streamer::streamer_message::Payload::SubscribeResponse(
            response,
        )),
        "1a240a0273311a1e737562736372697074696f6e20494420616c726561647920657869737473",
    );
}

#[test]
fn puller_subscribe_with_a_marker() {
    let request = puller::SubscribeRequest {
        consumer_id: "c".into(),
        after: "eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ".into(),
        coalesce_on_catch_up: true,
    };
    assert_golden(
        &request,
        "0a0163121e65794a77496a7037496d4978496a6f694d5449744d53316859534a3966511801",
    );
}

#[test]
fn puller_event_with_every_field() {
    let event = puller::PullerEvent {
        change_event: Some(puller::ChangeEvent {
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
        }),
        progress: "p".into(),
    };
    assert_golden(
        &event,
        "0a3c0a0731322d312d6161120264621a09646f63756d656e7473220464623a682a067570646174653202\
         7b7d3a027b7d4204080c1001480950035a026231120170",
    );
}

#[test]
fn puller_heartbeat() {
    let event = puller::PullerEvent {
        change_event: None,
        progress: "p".into(),
    };
    assert_golden(&event, "120170");
}

#[test]
fn fodc_registration_of_the_releases() {
    let bytes = "0a09524f4c455f44415441120b0a04747970651203686f74220270302a0464617461";
    assert_golden(&registration(None), bytes);
}

#[test]
fn fodc_registration_in_both_dialects() {
    let address = fodc::Address {
        ip: "10.0.0.1".to_owned(),
        port: 17912,
    };
    let bytes = "0a09524f4c455f44415441120b0a04747970651203686f741a0e0a0831302e302e302e3110f88b01\
                 220270302a0464617461";
    assert_golden(&registration(Some(address)), bytes);
}

#[test]
fn fodc_heartbeat_and_the_question_for_the_latest_are_empty() {
    assert_golden(&fodc::RegisterAgentRequest::default(), "");
    assert_golden(&fodc::StreamMetricsResponse::default(), "");
}

#[test]
fn fodc_window_from_one_second_to_another() {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let question = fodc::StreamMetricsResponse {
        start_time: at(1_767_225_600),
        end_time: at(1_767_225_660),
        ..Default::default()
    };
    assert_golden(&question, "0a060880f2d6ca06120608bcf2d6ca06");
}

#[test]
fn fodc_commands_of_the_later_streams_are_one_flag() {
    assert_golden(
        &fodc::StreamClusterTopologyResponse {
            request_topology: true,
        },
        "0801",
    );
    assert_golden(
        &fodc::StreamLifecycleResponse {
            request_lifecycle: true,
        },
        "0801",
    );
    assert_golden(
        &fodc::StreamCrashDiagnosticsResponse {
            request_diagnostics: true,
        },
        "0801",
    );
    assert_golden(
        &fodc::StreamSchemaRegistryResponse {
            request_registry: true,
        },
        "0801",
    );
}

#[test]
fn fodc_fields_of_our_own_are_skipped_by_who_does_not_know_them() {
    let ours = fodc::RegisterAgentRequest {
        profile: Some(fodc::AgentProfile {
            version: 1,
            instance: "i".to_owned(),
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
