//! The fields of JSON objects, whose values keep the text that they were written with.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The members of an object, in order, also those of equal names.
pub(super) struct Members<'a>(pub(super) Vec<(Key<'a>, &'a RawValue)>);

#[derive(Deserialize)]
pub(super) struct Key<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The reason why a value has no fields, or not one of each name.
#[derive(Debug, thiserror::Error)]
pub enum JsonFieldsError {
    /// It is not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A name is there twice: a reader would keep one of the two values.
    #[error("{0:?} is there twice")]
    Repeated(String),
    /// A name is not a text, such as half of a surrogate pair.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
}

/// Returns the fields of an object by name, each with the text of its value: a parsed number would be rounded.
///
/// ```
/// use steadfast_streamer_core::client::json_fields;
///
/// let fields = json_fields(serde_json::from_str(r#"{"total":1.10,"n":1}"#)?)?;
/// assert_eq!(fields["total"].get(), "1.10");
/// assert!(json_fields(serde_json::from_str(r#"{"n":1,"n":2}"#)?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If the value is not an object, or a name is there twice.
pub fn json_fields(value: &RawValue) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, JsonFieldsError> {
    // An array has no names either, but the parser's error would speak of its items.
    if !value.get().starts_with('{') {
        return Err(JsonFieldsError::NotAnObject);
    }
    let Members(members) = serde_json::from_str(value.get())?;
    let mut fields = BTreeMap::new();
    for (Key(name), value) in members {
        match fields.entry(name) {
            Entry::Vacant(entry) => entry.insert(value),
            Entry::Occupied(entry) => {
                return Err(JsonFieldsError::Repeated(entry.key().to_string()));
            }
        };
    }
    Ok(fields)
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
