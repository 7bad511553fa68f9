//! JSON objects in which no name occurs twice.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value as Json};

/// An object without repeated names. Parsers differ in which of two values they take, and an attacker
/// would choose.
pub(super) struct StrictObject(Map<String, Json>);

impl StrictObject {
    /// Returns the members; `None` if the bytes are anything else, or have an object with a repeated name
    /// at the top.
    pub(super) fn parse(bytes: &[u8]) -> Option<Map<String, Json>> {
        serde_json::from_slice(bytes)
            .ok()
            .map(|Self(members)| members)
    }
}

impl<'de> Deserialize<'de> for StrictObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = StrictObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StrictObject, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name occurs twice"));
                    }
                }
                Ok(StrictObject(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
