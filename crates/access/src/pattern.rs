//! Patterns of names.

use std::{fmt, str::FromStr};

/// A pattern of the names of databases, collections or principals.
///
/// A name is compared segment by segment, byte for byte; segments are separated by `/`.
///
/// | segment | stands for |
/// |---|---|
/// | `orders` | this segment |
/// | `*` | any one segment that is not empty |
/// | `log-*` | any one segment that begins with `log-` and is longer |
/// | `**` | only as the last one: all that follows, if it is not empty |
///
/// `**` alone matches every name but the empty one. A star elsewhere is a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    /// Anything may follow the segments.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exact(Box<str>),
    /// The beginning; empty for `*`.
    Prefix(Box<str>),
}

/// The reason why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// The text is empty.
    #[error("a pattern cannot be empty; `**` stands for every name")]
    Empty,
    /// A star is not at the end of a segment.
    #[error("a star stands at the end of a segment, as in `log-*`")]
    StarInside,
    /// Two stars are not the last segment.
    #[error("`**` stands alone as the last segment, as in `rooms/**`")]
    StarsInside,
}

impl Pattern {
    /// Returns true if the pattern stands for this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut rest = Some(name);
        for segment in &self.segments {
            let Some(text) = rest else {
                return false;
            };
            let (first, after) = match text.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (text, None),
            };
            let fits = match segment {
                Segment::Exact(exact) => **exact == *first,
                Segment::Prefix(prefix) => {
                    first.len() > prefix.len() && first.starts_with(&**prefix)
                }
            };
            if !fits {
                return false;
            }
            rest = after;
        }
        match rest {
            None => !self.open,
            Some(rest) => self.open && !rest.is_empty(),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternFault;

    fn from_str(text: &str) -> Result<Self, PatternFault> {
        if text.is_empty() {
            return Err(PatternFault::Empty);
        }
        let (closed, open) = match text.strip_suffix("**") {
            Some("") => (None, true),
            Some(before) => match before.strip_suffix('/') {
                Some(before) => (Some(before), true),
                None => return Err(PatternFault::StarsInside),
            },
            None => (Some(text), false),
        };
        let segments = closed.into_iter().flat_map(|text| text.split('/'));
        let segments = segments.map(segment).collect::<Result<_, _>>()?;
        Ok(Self { segments, open })
    }
}

fn segment(text: &str) -> Result<Segment, PatternFault> {
    if text.contains("**") {
        return Err(PatternFault::StarsInside);
    }
    let (text, is_prefix) = match text.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (text, false),
    };
    if text.contains('*') {
        return Err(PatternFault::StarInside);
    }
    Ok(if is_prefix {
        Segment::Prefix(text.into())
    } else {
        Segment::Exact(text.into())
    })
}

/// Writes the text that the pattern was read from.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            match segment {
                Segment::Exact(text) => write!(f, "{separator}{text}")?,
                Segment::Prefix(text) => write!(f, "{separator}{text}*")?,
            }
        }
        match (self.open, self.segments.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => f.write_str("**"),
            (true, false) => f.write_str("/**"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(name)
    }

    #[test]
    fn patterns_and_names() {
        for (pattern, yes, no) in [
            (
                "orders",
                vec!["orders"],
                vec!["", "orders/1", "Orders", "order", "orders2", "orders/"],
            ),
            ("*", vec!["a", "log-1", "ü"], vec!["", "a/b", "/", "a/"]),
            ("**", vec!["a", "a/b", "/", "a/"], vec![""]),
            (
                "log-*",
                vec!["log-1", "log-ü"],
                vec!["log-", "log", "log-1/x", "xlog-1"],
            ),
            (
                "rooms/*/messages",
                vec!["rooms/r1/messages"],
                vec!["rooms//messages", "rooms/r1", "rooms/r1/r2/messages"],
            ),
            (
                "rooms/**",
                vec!["rooms/r1", "rooms/r1/m"],
                vec!["rooms", "rooms/", "roomsx/r1"],
            ),
            // Composed and decomposed letters look the same and are different names.
            ("ros\u{e9}", vec!["ros\u{e9}"], vec!["rose\u{301}"]),
            (
                "spiffe://prod/*",
                vec!["spiffe://prod/api"],
                vec!["spiffe://prod/", "spiffe://prod/a/b", "spiffe:/prod/a"],
            ),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name:?}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name:?}");
            }
        }
    }

    #[test]
    fn stars_in_other_places_are_faults() {
        for (text, fault) in [
            ("", PatternFault::Empty),
            ("a*b", PatternFault::StarInside),
            ("*a", PatternFault::StarInside),
            ("a**", PatternFault::StarsInside),
            ("**/a", PatternFault::StarsInside),
            ("a/**/b", PatternFault::StarsInside),
            ("***", PatternFault::StarsInside),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(fault), "{text}");
        }
    }

    /// The same rules as a regular expression would have them, written naively.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], rest) => !rest.is_empty() && !rest.join("/").is_empty(),
            ([first, pattern @ ..], [segment, name @ ..]) => {
                let fits = match first.strip_suffix('*') {
                    Some(prefix) => segment.starts_with(prefix) && *segment != prefix,
                    None => first == segment,
                };
                fits && naive(pattern, name)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn pattern_agrees_with_a_naive_reading(
            pattern in "(([ab]{0,2}\\*?/){0,3}([ab]{1,2}\\*?|\\*\\*))",
            name in "[ab]{0,3}(/[ab]{0,3}){0,3}",
        ) {
            let parsed: Pattern = pattern.parse().unwrap();
            let segments: Vec<_> = pattern.split('/').collect();
            let names: Vec<_> = name.split('/').collect();
            prop_assert_eq!(parsed.matches(&name), naive(&segments, &names));
            prop_assert_eq!(parsed.to_string(), pattern);
        }
    }
}
