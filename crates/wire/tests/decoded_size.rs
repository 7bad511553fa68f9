//! The memory of a message, known from its bytes.

use std::mem::size_of;

use prost::Message;
use steadfast_wire::{
    banyandb::database::v1::{DataInfo, Node, RegistryListResponse, SegmentInfo},
    decoded_size::MessageType,
    fodc::{
        Call, CrashBreadcrumb, CrashPanicRecord, GroupLifecycleInfo, LifecycleData,
        LifecycleReport, PressureProfileInfo, PressureProfileRecord, SchemaObjectFingerprint,
        SchemaRegistryGroup, StreamCrashDiagnosticsRequest, StreamLifecycleRequest,
        StreamPressureProfilesRequest, StreamSchemaRegistryRequest, Topology,
        stream_pressure_profiles_request::Payload,
    },
};

const COUNT: usize = 10_000;

fn size(name: &str, message: &impl Message) -> Option<usize> {
    let kind = MessageType::named(name).expect("the type exists");
    kind.decoded_size(&message.encode_to_vec())
}

/// Returns this many empty elements.
fn empty<T: Default + Clone>() -> Vec<T> {
    vec![T::default(); COUNT]
}

#[test]
fn empty_elements_count_with_the_memory_they_take() {
    let lifecycle = |groups, reports| StreamLifecycleRequest {
        lifecycle_data: Some(LifecycleData { reports, groups }),
        ..StreamLifecycleRequest::default()
    };
    let nodes = Topology {
        nodes: empty(),
        calls: Vec::new(),
    };
    let calls = Topology {
        nodes: Vec::new(),
        calls: empty(),
    };
    let data = GroupLifecycleInfo {
        data_info: vec![DataInfo {
            segment_info: empty(),
            ..DataInfo::default()
        }],
        ..GroupLifecycleInfo::default()
    };
    let errors = GroupLifecycleInfo {
        errors: empty(),
        ..GroupLifecycleInfo::default()
    };
    let crash = StreamCrashDiagnosticsRequest {
        panic_record: Some(CrashPanicRecord {
            breadcrumbs: empty(),
            ..CrashPanicRecord::default()
        }),
        ..StreamCrashDiagnosticsRequest::default()
    };
    let profile = StreamPressureProfilesRequest {
        payload: Some(Payload::Record(PressureProfileRecord {
            profiles: empty(),
            ..PressureProfileRecord::default()
        })),
    };
    let schema = StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            objects: empty(),
            ..SchemaRegistryGroup::default()
        }),
        done: false,
    };
    let objects = RegistryListResponse { objects: empty() };
    let fodc = |name: &str| format!("banyandb.fodc.v1.{name}");
    for (name, message, element) in [
        (fodc("Topology"), nodes.encode_to_vec(), size_of::<Node>()),
        (fodc("Topology"), calls.encode_to_vec(), size_of::<Call>()),
        (
            fodc("StreamLifecycleRequest"),
            lifecycle(empty(), vec![]).encode_to_vec(),
            size_of::<GroupLifecycleInfo>(),
        ),
        (
            fodc("StreamLifecycleRequest"),
            lifecycle(vec![], empty()).encode_to_vec(),
            size_of::<LifecycleReport>(),
        ),
        (
            fodc("StreamLifecycleRequest"),
            lifecycle(vec![data], vec![]).encode_to_vec(),
            size_of::<SegmentInfo>(),
        ),
        (
            fodc("StreamLifecycleRequest"),
            lifecycle(vec![errors], vec![]).encode_to_vec(),
            size_of::<String>(),
        ),
        (
            fodc("StreamCrashDiagnosticsRequest"),
            crash.encode_to_vec(),
            size_of::<CrashBreadcrumb>(),
        ),
        (
            fodc("StreamPressureProfilesRequest"),
            profile.encode_to_vec(),
            size_of::<PressureProfileInfo>(),
        ),
        (
            fodc("StreamSchemaRegistryRequest"),
            schema.encode_to_vec(),
            size_of::<SchemaObjectFingerprint>(),
        ),
        (
            "banyandb.database.v1.RegistryListResponse".to_owned(),
            objects.encode_to_vec(),
            size_of::<bytes::Bytes>(),
        ),
    ] {
        let kind = MessageType::named(&name).expect("the type exists");
        let size = kind.decoded_size(&message).expect("it is a message");
        assert!(message.len() < 3 * COUNT, "{name}: {}", message.len());
        assert!(size >= COUNT * element, "{name}: {size}");
        // A bound that were far too high would refuse honest messages.
        assert!(size <= 5 * COUNT * element, "{name}: {size}");
    }
}

#[test]
fn short_lists_count_with_the_space_for_their_first_elements() {
    let node = Node {
        labels: [(String::new(), String::new())].into(),
        ..Node::default()
    };
    let nodes = Topology {
        nodes: vec![node; COUNT],
        calls: Vec::new(),
    };
    // A node of a `BTreeMap` has space for eleven keys and values.
    let each = size_of::<Node>() + 11 * 2 * size_of::<String>();
    let size = size("banyandb.fodc.v1.Topology", &nodes).unwrap();
    assert!(size >= COUNT * each, "{size}");

    let info = GroupLifecycleInfo {
        errors: vec![String::new()],
        ..GroupLifecycleInfo::default()
    };
    let data = LifecycleData {
        groups: vec![info; COUNT],
        reports: Vec::new(),
    };
    // The first push to a vector makes space for four.
    let each = size_of::<GroupLifecycleInfo>() + 4 * size_of::<String>();
    let kind = MessageType::named("banyandb.fodc.v1.LifecycleData").unwrap();
    let size = kind.decoded_size(&data.encode_to_vec()).unwrap();
    assert!(size >= COUNT * each, "{size}");
}

#[test]
fn bytes_count_once() {
    let chunk = LifecycleReport {
        filename: "name".to_owned(),
        report_json: "x".repeat(1 << 20),
    };
    let size = size("banyandb.fodc.v1.LifecycleReport", &chunk).expect("it is a message");
    assert!((1 << 20..(1 << 20) + 1_000).contains(&size), "{size}");
}

#[test]
fn unknown_types_and_bytes_that_are_no_message_have_no_size() {
    assert!(MessageType::named("banyandb.fodc.v1.None").is_none());
    let kind = MessageType::named("banyandb.fodc.v1.Topology").expect("the type exists");
    // Cut in a key, in a length and in a value; and an unknown group, behind which anything could stand.
    for bytes in [
        &b"\x8a"[..],
        b"\x0a\xff",
        b"\x0a\x05ab",
        b"\x9b\x06\x9c\x06",
    ] {
        assert_eq!(kind.decoded_size(bytes), None, "{bytes:?}");
    }
}
