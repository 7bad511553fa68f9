//! Fingerprints of a database's schema objects.
//!
//! Two places agree about an object if its fingerprint is the same in both. The fingerprint is computed
//! from the encoded object as it was received, so that fields which this version does not know count
//! as well. What differs from place to place without a change of the object does not count: the id
//! and the revisions in its metadata.

mod wire;
mod xxh64;

use std::collections::BTreeMap;

use self::wire::{Field, Value, fields};
use self::xxh64::xxh64;

/// A message that is not valid protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema object is not a valid message")]
pub struct MalformedObject;

/// What identifies a schema object, and the hash of its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaObject {
    /// The group that the object is in; empty for a group.
    pub group: String,
    /// The name of the object.
    pub name: String,
    /// The hash of its contents, which becomes the fingerprint together with those of its rules.
    pub hash: u64,
}

/// The number of the metadata in each kind of object.
const METADATA: u32 = 1;

/// The numbers in the metadata.
const GROUP: u32 = 1;
const NAME: u32 = 2;
const ID: u32 = 3;
const MOD_REVISION: u32 = 5;

impl SchemaObject {
    /// Reads an encoded object of any kind.
    ///
    /// # Errors
    ///
    /// If it is not a valid message.
    pub fn new(encoded: &[u8]) -> Result<Self, MalformedObject> {
        let mut object = Self {
            group: String::new(),
            name: String::new(),
            hash: 0,
        };
        let mut contents = Vec::with_capacity(encoded.len());
        for field in fields(encoded) {
            let field = field?;
            match field {
                Field {
                    number: METADATA,
                    value: Value::Bytes(metadata),
                    ..
                } => object.add_metadata(metadata, &mut contents)?,
                _ => contents.extend_from_slice(field.encoded),
            }
        }
        object.hash = xxh64(&contents);
        Ok(object)
    }

    /// Returns the fingerprint of the object with the index rules that are bound to it. The order of
    /// the rules does not matter, and a rule counts once.
    pub fn fingerprint<'a>(&self, rules: impl IntoIterator<Item = &'a SchemaObject>) -> u64 {
        let rules = rules
            .into_iter()
            .map(|rule| (format!("{}/{}", rule.group, rule.name), rule.hash));
        let rules: BTreeMap<_, _> = rules.collect();
        let hashes = [self.hash].into_iter().chain(rules.into_values());
        xxh64(&hashes.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
    }

    fn add_metadata(
        &mut self,
        metadata: &[u8],
        contents: &mut Vec<u8>,
    ) -> Result<(), MalformedObject> {
        let mut kept = Vec::with_capacity(metadata.len());
        for field in fields(metadata) {
            let field = field?;
            if let Value::Bytes(bytes) = field.value {
                let text = || String::from_utf8_lossy(bytes).into_owned();
                match field.number {
                    GROUP => self.group = text(),
                    NAME => self.name = text(),
                    _ => {}
                }
            }
            if !(ID..=MOD_REVISION).contains(&field.number) {
                kept.extend_from_slice(field.encoded);
            }
        }
        wire::write_bytes(METADATA, &kept, contents);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata with the group `grou` and the name `nm`, and these further bytes, then a field 2.
    fn object(more: &[u8]) -> Vec<u8> {
        let mut metadata = b"\x0a\x04grou\x12\x02nm".to_vec();
        metadata.extend_from_slice(more);
        let mut encoded = Vec::new();
        wire::write_bytes(1, &metadata, &mut encoded);
        encoded.extend_from_slice(&[0x10, 1]);
        encoded
    }

    #[test]
    fn fingerprint_is_that_of_the_original() {
        let object = SchemaObject::new(&object(&[])).unwrap();
        assert_eq!((&*object.group, &*object.name), ("grou", "nm"));
        // From the reference implementation of xxHash, over the rule in the original's source.
        assert_eq!(object.hash, 0x465d_481c_aea2_21e4);
        assert_eq!(object.fingerprint([]), 0x222f_38e6_0780_f290);
        let rule = |name: &str, hash| SchemaObject {
            group: "g".to_owned(),
            name: name.to_owned(),
            hash,
        };
        let (first, second) = (rule("a", 1), rule("b", 2));
        let expected = 0x2091_03e3_eb44_a47a;
        assert_eq!(object.fingerprint([&second, &first, &second]), expected);
        assert_eq!(object.fingerprint([&first, &second]), expected);
    }

    #[test]
    fn id_and_revisions_do_not_count() {
        let plain = SchemaObject::new(&object(&[])).unwrap();
        let revised = object(&[0x18, 7, 0x20, 0xff, 0xff, 3, 0x28, 9]);
        assert_eq!(SchemaObject::new(&revised).unwrap(), plain);
        // Everything else does, also what no version knows yet.
        for unknown in [&[0x30, 1][..], &[0x32, 1, b'x'], &[0x35, 1, 2, 3, 4]] {
            assert_ne!(
                SchemaObject::new(&object(unknown)).unwrap().hash,
                plain.hash
            );
        }
        let mut longer = object(&[]);
        longer.extend_from_slice(&[0xf9, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_ne!(SchemaObject::new(&longer).unwrap().hash, plain.hash);
    }

    #[test]
    fn damaged_objects_are_refused() {
        let whole = object(&[0x18, 7]);
        for cut in 1..whole.len() {
            let result = SchemaObject::new(&whole[..cut]);
            // A cut between two fields is a shorter object.
            assert!(result.is_err() || cut == whole.len() - 2, "{cut}");
        }
        for bytes in [
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f][..],
            &[0x0b],
            &[0x00],
            &[0x80; 11],
        ] {
            assert_eq!(SchemaObject::new(bytes), Err(MalformedObject), "{bytes:?}");
        }
    }
}
