//! The ids of changes, and the progress markers that name the last one of each backend.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use steadfast_wire::puller as wire;

use super::document::object;

/// The logical time of a change in its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterTime(u64);

/// The id of a change: `T-I-hash`. A Puller orders the changes of a backend by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The time of the change.
    pub time: ClusterTime,
    /// What distinguishes changes of the same time.
    pub hash: String,
}

/// A progress marker: the last change of each backend that a consumer has received.
///
/// Its text is `{"p":{"<backend>":"<event id>"}}` in base64url without padding; the text of an
/// empty marker is empty.
///
/// ```
/// use steadfast_streamer_core::puller::Progress;
///
/// let progress: Progress = "eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ".parse()?;
/// assert_eq!(progress.backends["b1"], "12-1-aa");
/// assert_eq!(progress.to_string(), "eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ");
/// # Ok::<(), steadfast_streamer_core::puller::InvalidProgress>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The id of the last change by the name of the backend.
    #[serde(rename = "p", default)]
    pub backends: BTreeMap<String, String>,
}

/// An error: the text is not a progress marker, or not the id of a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProgress {
    /// The text is not base64url without padding.
    #[error("it is not base64url without padding")]
    Encoding,
    /// The decoded text is not the JSON object of a marker.
    #[error(r#"it is not an object like {{"p":{{"backend":"12-1-aa"}}}}"#)]
    Json,
    /// An id of a change is malformed.
    #[error("{0:?} is not the id of a change: expected T-I-hash, as in 12-1-aa")]
    Id(String),
}

impl ClusterTime {
    /// The time before every change.
    pub const ZERO: Self = Self(0);

    /// Returns the time with these seconds and this increment.
    #[must_use]
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self((seconds as u64) << 32 | increment as u64)
    }

    /// Returns the time as one number, in the same order.
    #[must_use]
    pub const fn as_number(self) -> u64 {
        self.0
    }

    /// Returns the time with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Returns the time just before this one.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<wire::ClusterTime> for ClusterTime {
    fn from(time: wire::ClusterTime) -> Self {
        Self::new(time.t, time.i)
    }
}

impl From<ClusterTime> for wire::ClusterTime {
    fn from(time: ClusterTime) -> Self {
        Self {
            t: (time.0 >> 32) as u32,
            i: time.0 as u32,
        }
    }
}

impl FromStr for EventId {
    type Err = InvalidProgress;

    fn from_str(text: &str) -> Result<Self, InvalidProgress> {
        let mut parts = text.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok();
        let time = number().zip(number());
        match (time, parts.next()) {
            (Some((seconds, increment)), Some(hash)) => Ok(Self {
                time: ClusterTime::new(seconds, increment),
                hash: hash.to_owned(),
            }),
            _ => Err(InvalidProgress::Id(text.to_owned())),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire::ClusterTime { t, i } = self.time.into();
        write!(f, "{t}-{i}-{}", self.hash)
    }
}

impl FromStr for Progress {
    type Err = InvalidProgress;

    fn from_str(text: &str) -> Result<Self, InvalidProgress> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let json = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| InvalidProgress::Encoding)?;
        object(&json).map_err(|_| InvalidProgress::Json)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.backends.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_vec(self).expect("a map of strings is JSON");
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_progress_and_ids_are_refused() {
        use InvalidProgress as Fault;
        for (text, fault) in [
            ("eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ==", Fault::Encoding),
            ("a b", Fault::Encoding),
            ("W10", Fault::Json),
            ("eyJwIjoxfQ", Fault::Json),
        ] {
            assert_eq!(text.parse::<Progress>(), Err(fault), "{text}");
        }
        for text in ["", "12", "12-1", "12-x-aa", "4294967296-1-aa", "-1-1-aa"] {
            let fault = Fault::Id(text.to_owned());
            assert_eq!(text.parse::<EventId>(), Err(fault), "{text}");
        }
    }

    #[test]
    fn progress_and_ids_round_trip() {
        assert_eq!("".parse(), Ok(Progress::default()));
        assert_eq!(Progress::default().to_string(), "");
        let id: EventId = "4294967295-7-a-b".parse().unwrap();
        assert_eq!(id.to_string(), "4294967295-7-a-b");
        let wire: wire::ClusterTime = id.time.into();
        assert_eq!((wire.t, wire.i), (u32::MAX, 7));
        assert_eq!(
            ClusterTime::new(5, 0).previous(),
            ClusterTime::new(4, u32::MAX)
        );
        assert_eq!(ClusterTime::ZERO.previous(), ClusterTime::ZERO);
    }
}
