//! Documents as a Puller sends them, and the names under which its backend stores them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The hash of a document's full path, which its backend stores instead of the path.
pub type DocumentHash = [u8; 16];

/// A stored document, the `full_doc` of a change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredDocument<'a> {
    /// `database:hash`.
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) database: String,
    #[serde(default)]
    pub(super) collection: String,
    #[serde(default)]
    pub(super) collection_hash: String,
    #[serde(default)]
    pub(super) updated_at: i64,
    #[serde(default)]
    pub(super) created_at: i64,
    #[serde(default)]
    pub(super) version: i64,
    /// The fields of the user, as text: numbers are not rounded.
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

/// Reads a JSON object. serde would also take an array for a struct.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(serde::de::Error::custom("not an object"));
    }
    serde_json::from_slice(json)
}

/// Returns the hash of a document's full path.
#[must_use]
pub fn document_hash(collection: &str, document_id: &str) -> DocumentHash {
    hash(&[collection, "/", document_id])
}

/// Returns the name of a document in its backend, `database:hash`.
#[must_use]
pub fn physical_id(database: &str, collection: &str, document_id: &str) -> String {
    format!(
        "{database}:{}",
        hex(&document_hash(collection, document_id))
    )
}

/// Returns the hash in the name of a document in its backend, or `None` if it is not such a name.
#[must_use]
pub fn hash_of_physical_id(name: &str) -> Option<DocumentHash> {
    // From the right: a name of a database may contain a colon.
    let (_, digits) = name.rsplit_once(':')?;
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(digits, 16).ok()?.to_be_bytes())
}

/// Returns the hash of a collection, as stored documents name it.
pub(super) fn collection_hash(collection: &str) -> String {
    hex(&hash(&["collection:", collection]))
}

fn hash(parts: &[&str]) -> DocumentHash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
    }
    let mut hash = DocumentHash::default();
    hasher.finalize_xof().fill(&mut hash);
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_original() {
        for (collection, id, name) in [
            ("users", "u1", "default:9cc4cb561874032b533e18fc761aeed4"),
            (
                "rooms/r1/messages",
                "m1",
                "default:b66e9d689d69731a727ec73bd5ae966f",
            ),
        ] {
            assert_eq!(physical_id("default", collection, id), name);
            let hash = document_hash(collection, id);
            assert_eq!(hash_of_physical_id(name), Some(hash));
            assert_eq!(hash_of_physical_id(&name.replace(':', ":a:")), Some(hash));
        }
        let expected = "17a7a8b05a979c62406ea768c93739c5";
        assert_eq!(collection_hash("users"), expected);
    }

    #[test]
    fn name_without_a_hash_has_none() {
        for name in [
            "",
            "65f0c0ffee65f0c0ffee65f0",
            "default:9cc4",
            "default:+cc4cb561874032b533e18fc761aeed4",
        ] {
            assert_eq!(hash_of_physical_id(name), None, "{name}");
        }
    }
}
