//! The JSON of protobuf messages as Go's `protojson` writes it with the names of the `.proto` file and
//! with all fields: integers of 64 bits are strings, enumerations are names, and absent messages null.

use std::collections::BTreeMap;

use prost_types::Timestamp;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap as _, SerializeSeq as _},
};
use steadfast_wire::{
    banyandb::{
        common::v1::{IntervalRule, LifecycleStage, Metadata, ResourceOpts, interval_rule::Unit},
        database::v1::{
            DataInfo, InvertedIndexInfo, Node, Role, SegmentInfo, SeriesIndexInfo, ShardInfo,
            SidxInfo,
        },
    },
    fodc::{
        ConsistencyStatus, GroupLifecycleInfo, LifecycleReport, NodeFingerprint, ObjectConsistency,
        SchemaConsistency, SchemaIssue, SchemaIssueType,
    },
};

use super::go_json;

/// A value in its JSON form.
pub(super) struct Json<'a, T>(pub(super) &'a T);

/// A type with a JSON form.
pub(super) trait ProtoJson {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;
}

/// An enumeration, which Rust has as a number.
struct Enumeration<'a, T>(&'a T, fn(i32) -> Option<&'static str>);

impl<T: ProtoJson> Serialize for Json<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.write(to)
    }
}

/// Writes the name of a value, or its number if it has none.
fn write_enumeration<S: Serializer>(
    value: i32,
    name: fn(i32) -> Option<&'static str>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match name(value) {
        Some(name) => to.serialize_str(name),
        None => to.serialize_i32(value),
    }
}

impl Serialize for Enumeration<'_, i32> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        write_enumeration(*self.0, self.1, to)
    }
}

impl Serialize for Enumeration<'_, Vec<i32>> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let values = self.0.iter();
        to.collect_seq(values.map(|value| Enumeration(value, self.1)))
    }
}

/// Implements [`ProtoJson`] for a message: its fields in the order of the `.proto` file, enumerations
/// with their type.
macro_rules! messages {
    ($($message:ty { $($field:ident $(as $kind:ty)?),* $(,)? })*) => {
        $(impl ProtoJson for $message {
            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let mut map = to.serialize_map(None)?;
                $(
                    let name = stringify!($field).trim_start_matches("r#");
                    map.serialize_entry(name, &messages!(@value self.$field $(, $kind)?))?;
                )*
                map.end()
            }
        })*
    };
    (@value $self:ident . $field:ident) => { Json(&$self.$field) };
    (@value $self:ident . $field:ident, $kind:ty) => {
        Enumeration(&$self.$field, |value| {
            <$kind>::try_from(value).ok().map(|kind| kind.as_str_name())
        })
    };
}

messages! {
    GroupLifecycleInfo { name, catalog, resource_opts, data_info, errors, schema_consistency }
    LifecycleReport { filename, report_json }
    ResourceOpts { shard_num, segment_interval, ttl, stages, default_stages, replicas }
    IntervalRule { unit as Unit, num }
    LifecycleStage { name, shard_num, segment_interval, ttl, node_selector, close, replicas }
    DataInfo { node, segment_info, data_size_bytes }
    Node {
        metadata, roles as Role, grpc_address, http_address, created_at, labels,
        property_repair_gossip_grpc_address, property_schema_grpc_address,
        property_schema_gossip_grpc_address,
    }
    Metadata { group, name, id, create_revision, mod_revision }
    SegmentInfo {
        segment_id, time_range_start, time_range_end, shard_info, series_index_info,
    }
    ShardInfo {
        shard_id, data_count, data_size_bytes, part_count, inverted_index_info, sidx_info,
        file_part_count,
    }
    SeriesIndexInfo { data_count, data_size_bytes }
    InvertedIndexInfo { data_count, data_size_bytes }
    SidxInfo { data_count, data_size_bytes, part_count }
    SchemaConsistency { status as ConsistencyStatus, objects, issues }
    ObjectConsistency { kind, name, registry_fingerprint, node_fingerprints }
    NodeFingerprint { node, cache_fingerprint, runtime_fingerprint }
    SchemaIssue { kind, name, node, r#type as SchemaIssueType }
}

impl ProtoJson for String {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self)
    }
}

impl ProtoJson for bool {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bool(*self)
    }
}

impl ProtoJson for u32 {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(*self)
    }
}

impl ProtoJson for i64 {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl ProtoJson for u64 {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl ProtoJson for Timestamp {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&go_json::rfc3339(self))
    }
}

impl ProtoJson for BTreeMap<String, String> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self)
    }
}

impl<T: ProtoJson> ProtoJson for Option<T> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.write(to),
            None => to.serialize_none(),
        }
    }
}

impl<T: ProtoJson> ProtoJson for Vec<T> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut items = to.serialize_seq(Some(self.len()))?;
        for item in self {
            items.serialize_element(&Json(item))?;
        }
        items.end()
    }
}
