//! Fingerprints of schema objects, as the original computes them.
//!
//! The fingerprint of an object is a hash over the hash of its encoding and those of the index rules that
//! are bound to it. The original decodes and encodes each object again, in the order of the fields; here
//! the received bytes are hashed, so that fields unknown to this agent count as well.

use std::collections::BTreeMap;

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use steadfast_wire::{banyandb::database::v1::SchemaObject, raw_field::RawField};
use twox_hash::XxHash64;

/// The field of every schema object that holds its name and revisions.
const METADATA: u32 = 1;

/// The fields of the metadata that differ between the registry and a node: the id and both revisions.
const VOLATILE: [u32; 3] = [3, 4, 5];

/// Returns the fingerprint of an object with this [`hash`]. `rules` are the names and hashes of the index
/// rules bound to it, in any order; of several with one name the last counts.
pub(crate) fn fingerprint(object: u64, rules: impl IntoIterator<Item = (String, u64)>) -> u64 {
    let rules: BTreeMap<String, u64> = rules.into_iter().collect();
    let hashes = [object].into_iter().chain(rules.into_values());
    let bytes: Vec<u8> = hashes.flat_map(u64::to_le_bytes).collect();
    xxh64(&bytes)
}

/// Returns the hash of an encoded object without what is volatile. One that cannot be read is hashed
/// as it is.
pub(crate) fn hash(object: &[u8]) -> u64 {
    let stable = without_volatile(object);
    xxh64(stable.as_deref().unwrap_or(object))
}

/// Returns the name by which an index rule is ordered: `group/name`.
pub(crate) fn rule_name(rule: &[u8]) -> String {
    let object = SchemaObject::decode(rule).unwrap_or_default();
    let metadata = object.metadata.unwrap_or_default();
    format!("{}/{}", metadata.group, metadata.name)
}

/// Returns an encoded object without the volatile fields of its metadata.
fn without_volatile(object: &[u8]) -> Option<Vec<u8>> {
    let mut stable = Vec::with_capacity(object.len());
    let mut rest = object;
    while !rest.is_empty() {
        let field = RawField::read(&mut rest)?;
        if (field.number, field.wire_type) != (METADATA, WireType::LengthDelimited) {
            stable.extend_from_slice(field.encoded);
            continue;
        }
        let mut metadata = field.content;
        let mut kept = Vec::with_capacity(metadata.len());
        while !metadata.is_empty() {
            let inner = RawField::read(&mut metadata)?;
            if !VOLATILE.contains(&inner.number) {
                kept.extend_from_slice(inner.encoded);
            }
        }
        encode_key(METADATA, WireType::LengthDelimited, &mut stable);
        encode_varint(kept.len() as u64, &mut stable);
        stable.extend_from_slice(&kept);
    }
    Some(stable)
}

/// XXH64 with the seed 0, as the original.
fn xxh64(data: &[u8]) -> u64 {
    XxHash64::oneshot(0, data)
}

#[cfg(test)]
mod tests {
    use steadfast_wire::{
        banyandb::{common::v1::Metadata, database::v1::Node},
        fodc::RegisterAgentRequest,
    };

    use super::*;

    #[test]
    fn hashes_are_those_of_xxhash() {
        for (data, expected) in [
            ("", 0xef46_db37_51d8_e999),
            ("a", 0xd24e_c4f1_a98c_6e5b),
            ("abc", 0x44bc_2cf5_ad77_0999),
            (
                "Nobody inspects the spammish repetition",
                0xfbce_a83c_8a37_8bf1,
            ),
        ] {
            assert_eq!(xxh64(data.as_bytes()), expected, "{data:?}");
        }
    }

    fn fingerprint<'a>(object: &[u8], rules: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let rules = rules.into_iter().map(|rule| (rule_name(rule), hash(rule)));
        super::fingerprint(hash(object), rules)
    }

    /// An object whose metadata is its first field, as that of every schema object is.
    fn object(metadata: Metadata) -> Vec<u8> {
        let node = Node {
            metadata: Some(metadata),
            grpc_address: "content".to_owned(),
            ..Node::default()
        };
        node.encode_to_vec()
    }

    fn named(group: &str, name: &str) -> Metadata {
        Metadata {
            group: group.to_owned(),
            name: name.to_owned(),
            ..Metadata::default()
        }
    }

    #[test]
    fn fingerprint_ignores_the_id_and_the_revisions() {
        let plain = object(named("g", "n"));
        let revised = object(Metadata {
            id: 7,
            create_revision: 8,
            mod_revision: 9,
            ..named("g", "n")
        });
        assert_ne!(plain, revised);
        assert_eq!(fingerprint(&plain, []), fingerprint(&revised, []));
        assert_ne!(
            fingerprint(&plain, []),
            fingerprint(&object(named("g", "m")), [])
        );
        let twice = xxh64(&xxh64(&plain).to_le_bytes());
        assert_eq!(fingerprint(&plain, []), twice, "a hash over hashes");
    }

    #[test]
    fn rules_count_once_and_in_the_order_of_their_names() {
        let (a, b) = (object(named("g", "a")), object(named("g", "b")));
        let stream = object(named("g", "s"));
        let both = fingerprint(&stream, [&*a, &*b]);
        assert_eq!(fingerprint(&stream, [&*b, &*a, &*b]), both);
        assert_ne!(fingerprint(&stream, [&*a]), both);
        assert_eq!(rule_name(&a), "g/a");
    }

    #[test]
    fn unknown_fields_count() {
        let plain = object(named("g", "n"));
        let mut extended = plain.clone();
        let unknown = RegisterAgentRequest {
            node_role: "x".to_owned(),
            ..RegisterAgentRequest::default()
        };
        prost::encoding::message::encode(99, &unknown, &mut extended);
        assert_ne!(fingerprint(&plain, []), fingerprint(&extended, []));
    }

    #[test]
    fn bytes_that_are_no_message_have_a_fingerprint() {
        for bytes in [&b"\xff"[..], b"\x0a\xff", b"\x0a\x05ab", b"\x0b"] {
            assert_eq!(fingerprint(bytes, []), xxh64(&xxh64(bytes).to_le_bytes()));
            assert_eq!(rule_name(bytes), "/");
        }
    }
}
