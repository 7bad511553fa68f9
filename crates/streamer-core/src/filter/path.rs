//! Paths of fields.

use std::fmt;

use serde_json::{Map, Value as Json};

/// The path of a field: the keys that lead to it, from the outside in.
///
/// A `&str` or `String` becomes the path of the keys between its dots. Keys that contain dots come from
/// [`from_keys`](Self::from_keys), or from text in which they are quoted: `"a.b".c`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Keys);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Keys {
    /// Separated by dots. Also for keys that came one by one, so that equal paths are equal.
    Dotted(String),
    /// At least one contains a dot.
    Separate(Vec<String>),
}

impl FieldPath {
    /// Creates a path of keys, in which dots have no meaning. Without any it is the path of the key "".
    #[must_use]
    pub fn from_keys<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        Self(if keys.iter().any(|key| key.contains('.')) {
            Keys::Separate(keys)
        } else {
            Keys::Dotted(keys.join("."))
        })
    }

    /// Returns the keys, the outermost first. There is at least one.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let (dotted, separate) = match &self.0 {
            Keys::Dotted(dotted) => (Some(dotted), &[][..]),
            Keys::Separate(keys) => (None, &keys[..]),
        };
        let dotted = dotted.into_iter().flat_map(|dotted| dotted.split('.'));
        dotted.chain(separate.iter().map(String::as_str))
    }

    /// Returns the value at the path, `None` if it is missing. The path leads through objects only.
    #[must_use]
    pub fn find<'a>(&self, fields: &'a Map<String, Json>) -> Option<&'a Json> {
        let mut keys = self.keys();
        let first = keys.next().and_then(|key| fields.get(key))?;
        // Not through lists: `a.0` names a member "0", as in the original.
        keys.try_fold(first, |inside, key| inside.as_object()?.get(key))
    }

    /// Returns the keys separated by dots, `None` if a key contains one.
    #[must_use]
    pub fn as_dotted(&self) -> Option<&str> {
        match &self.0 {
            Keys::Dotted(dotted) => Some(dotted),
            Keys::Separate(_) => None,
        }
    }

    /// Reads the two fields of a message that name a path.
    pub(crate) fn of_wire(field: &str, path: &[String]) -> Self {
        if path.is_empty() {
            field.into()
        } else {
            Self::from_keys(path)
        }
    }

    /// Returns the two fields of a message that name the path, of which one is empty.
    pub(crate) fn to_wire(&self) -> (String, Vec<String>) {
        match &self.0 {
            Keys::Dotted(dotted) => (dotted.clone(), Vec::new()),
            Keys::Separate(keys) => (String::new(), keys.clone()),
        }
    }

    /// Returns the bytes that such a message spends on the path, but a few.
    pub(crate) fn wire_len(field: &str, path: &[String]) -> usize {
        // One more for each, so that empty keys are bounded, too.
        path.iter()
            .fold(field.len(), |sum, key| sum + key.len() + 1)
    }
}

impl From<&str> for FieldPath {
    fn from(dotted: &str) -> Self {
        dotted.to_owned().into()
    }
}

impl From<String> for FieldPath {
    fn from(dotted: String) -> Self {
        Self(Keys::Dotted(dotted))
    }
}

/// Writes the text that [`FromStr`](std::str::FromStr) reads.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A part of what is read without quotes; anything else is quoted to be safe.
        let plain = |c: char| c.is_alphanumeric() || "_-$@/:".contains(c);
        for (index, key) in self.keys().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if !key.is_empty() && key.chars().all(plain) {
                f.write_str(key)?;
            } else {
                write!(f, "{}", serde_json::Value::from(key))?;
            }
        }
        Ok(())
    }
}
