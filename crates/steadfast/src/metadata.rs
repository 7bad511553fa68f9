//! The metadata of a call, checked where it is given.

use std::{cmp::Reverse, fmt, iter};

use steadfast_session::{End, Reason};

/// The names and values that a call sends beside its messages, in order.
///
/// Values may be secrets: `Debug` never shows one, and no error repeats one.
///
/// ```
/// use steadfast::Metadata;
///
/// let metadata = Metadata::new().with("tenant", "north")?;
/// assert_eq!(metadata.get("tenant"), Some("north"));
/// assert!(!format!("{metadata:?}").contains("north"));
/// # Ok::<(), steadfast::InvalidMetadata>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, String)>);

/// The error of an entry that gRPC cannot send. Its text never contains the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata {name:?}: {problem}")]
pub struct InvalidMetadata {
    /// The name of the entry.
    pub name: String,
    /// The problem.
    pub problem: MetadataProblem,
}

/// The problem of one entry of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataProblem {
    /// The name is empty or has a character that gRPC does not allow.
    #[error("not a name; use a-z, 0-9, `_`, `-` and `.`")]
    Name,
    /// The name belongs to gRPC or HTTP/2.
    #[error("reserved for gRPC and HTTP/2; use another name")]
    Reserved,
    /// The value has a character outside printable ASCII.
    #[error("the value is not printable ASCII; for other bytes use a name that ends in `-bin`")]
    Value,
    /// The value of a binary entry is not Base64.
    #[error("the value is not Base64, as a name that ends in `-bin` needs")]
    Base64,
}

/// Names that gRPC or HTTP/2 set for every call.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl Metadata {
    /// Creates metadata without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Letters of the name are sent in lower case; a name that ends in `-bin` takes its
    /// value in Base64.
    ///
    /// # Errors
    ///
    /// Returns an error if gRPC cannot send the entry.
    pub fn with(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, InvalidMetadata> {
        self.push(name, value)?;
        Ok(self)
    }

    /// Adds an entry, as [`Metadata::with`] does.
    ///
    /// # Errors
    ///
    /// Returns an error if gRPC cannot send the entry.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), InvalidMetadata> {
        let (name, value) = (name.into().to_ascii_lowercase(), value.into());
        if let Some(problem) = problem(&name, &value) {
            return Err(InvalidMetadata { name, problem });
        }
        self.0.push((name, value));
        Ok(())
    }

    /// Returns the first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// Returns the entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns true if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the entries of `other`. They replace the entries of the same names.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.retain(|(name, _)| other.get(name).is_none());
        self.0.extend(other.0);
    }
}

impl Metadata {
    /// Returns `end` without the values that the peer repeated in its message.
    pub(crate) fn redacted(&self, mut end: End) -> End {
        let Reason::Status { message, .. } = &mut end.reason else {
            return end;
        };
        // The token of `Bearer TOKEN` too, and a part of a phrase.
        let parts = |value| {
            let behind_scheme = str::split_once(value, ' ').map(|(_, rest)| rest);
            let words = value.split(' ');
            iter::once(value).chain(behind_scheme).chain(words)
        };
        let parts = self.iter().flat_map(|(_, value)| parts(value));
        // A short one would be found in ordinary words.
        let mut parts: Vec<&str> = parts.filter(|part| part.len() >= 8).collect();
        // The longest first: of one that contains another, nothing may stay.
        parts.sort_by_key(|part| Reverse(part.len()));
        for part in parts {
            if message.contains(part) {
                *message = message.replace(part, "***");
            }
        }
        end
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, _)| (name, format_args!("***"))))
            .finish()
    }
}

fn problem(name: &str, value: &str) -> Option<MetadataProblem> {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || !name.bytes().all(of_name) {
        Some(MetadataProblem::Name)
    } else if name.starts_with("grpc-") || RESERVED.contains(&name) {
        Some(MetadataProblem::Reserved)
    } else if name.ends_with("-bin") {
        let of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
        let digits = value.trim_end_matches('=');
        let valid = digits.bytes().all(of_base64) && value.len() - digits.len() <= 2;
        (!valid || digits.len() % 4 == 1).then_some(MetadataProblem::Base64)
    } else {
        let printable = |byte: u8| (b' '..=b'~').contains(&byte);
        (!value.bytes().all(printable)).then_some(MetadataProblem::Value)
    }
}

#[cfg(test)]
mod tests {
    use steadfast_session::Advice;

    use super::*;

    #[test]
    fn metadata_that_grpc_cannot_send_is_refused() {
        use MetadataProblem::{Base64, Name, Reserved, Value};
        for (name, value, expected) in [
            ("tenant", "north 1", None),
            ("Authorization", "Bearer abc", None),
            ("key-bin", "AAEC", None),
            ("key-bin", "AA==", None),
            ("", "x", Some(Name)),
            ("no blanks", "x", Some(Name)),
            (":path", "x", Some(Name)),
            ("ä", "x", Some(Name)),
            ("te", "x", Some(Reserved)),
            ("Content-Type", "x", Some(Reserved)),
            ("grpc-timeout", "1S", Some(Reserved)),
            ("tenant", "ä", Some(Value)),
            ("tenant", "a\nb", Some(Value)),
            ("key-bin", "A", Some(Base64)),
            ("key-bin", "not base64", Some(Base64)),
        ] {
            let problem = Metadata::new().with(name, value).err();
            assert_eq!(problem.map(|error| error.problem), expected, "{name}");
        }
    }

    #[test]
    fn repeated_values_are_redacted_whole_and_in_parts() {
        let metadata = Metadata::new()
            .with("authorization", "Bearer token-1234")
            .and_then(|metadata| metadata.with("phrase", "open the treasury door"))
            .and_then(|metadata| metadata.with("longer", "token-1234-5678"))
            .and_then(|metadata| metadata.with("short", "door"))
            .unwrap();
        for (message, shown) in [
            ("not Bearer token-1234", "not ***"),
            ("not bearer token-1234!", "not bearer ***!"),
            ("not token-1234-5678", "not ***"),
            ("phrase=open the treasury door", "phrase=***"),
            ("phrase=the treasury door", "phrase=***"),
            ("the door of the treasury", "the door of the ***"),
        ] {
            let end = End::status(16, message, Advice::Retry);
            let Reason::Status { message, .. } = metadata.redacted(end).reason else {
                unreachable!("the reason stays");
            };
            assert_eq!(message, shown);
        }
    }

    #[test]
    fn later_metadata_replaces_that_of_the_same_name() {
        let pair = |a, b| Metadata::new().with("a", a).unwrap().with("b", b).unwrap();
        let mut metadata = pair("1", "2");
        metadata.merge(Metadata::new().with("A", "3").unwrap());
        let entries: Vec<_> = metadata.iter().collect();
        assert_eq!(entries, [("b", "2"), ("a", "3")]);
    }
}
