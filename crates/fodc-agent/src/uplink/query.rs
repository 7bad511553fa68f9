//! A query of the proxy in the terms of the agent.

use prost_types::Timestamp;
use steadfast_fodc_model::matching::{MatchKind, MatcherError, MatcherSpec, Matchers};
use steadfast_wire::fodc::{Matcher, StreamMetricsResponse, matcher};

/// A query of the proxy.
#[derive(Debug)]
pub(crate) struct Query {
    /// The id that every part of the response repeats; 0 from a plain proxy.
    pub(crate) id: u64,
    pub(crate) scope: Scope,
    pub(crate) matchers: Matchers,
    /// The proxy accepts columns and a response in several parts.
    pub(crate) columnar: bool,
}

/// The samples that a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The newest sample of each series.
    Latest,
    /// The samples between two times in Unix milliseconds, both included.
    Window { from: i64, to: i64 },
}

/// The label by which a matcher names the metric.
const NAME: &str = "__name__";

impl Query {
    /// Converts a query from the wire. If its matchers are invalid, the query has none and the
    /// error is returned beside it.
    pub(crate) fn new(message: &StreamMetricsResponse) -> (Self, Option<MatcherError>) {
        let scope = match (&message.start_time, &message.end_time) {
            (None, None) => Scope::Latest,
            // Samples have whole milliseconds, so both ends are rounded inwards.
            (start, end) => Scope::Window {
                from: start.as_ref().map_or(i64::MIN, |start| millis(start).1),
                to: end.as_ref().map_or(i64::MAX, |end| millis(end).0),
            },
        };
        let (matchers, error) = match matchers(&message.matchers) {
            Ok(matchers) => (matchers, None),
            // Each query gets a response, and the caller makes this one empty.
            Err(error) => (Matchers::default(), Some(error)),
        };
        let query = Self {
            id: message.request_id,
            scope,
            matchers,
            columnar: message.columnar,
        };
        (query, error)
    }

    /// Returns true if the query asks for the series with that name and those labels, which are
    /// sorted by name. A missing label counts as empty.
    pub(crate) fn selects(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matchers.match_all(|wanted| {
            if wanted == NAME {
                return name;
            }
            let found = labels.binary_search_by(|(name, _)| (*name).cmp(wanted));
            found.map_or("", |index| labels[index].1)
        })
    }
}

fn matchers(matchers: &[Matcher]) -> Result<Matchers, MatcherError> {
    Matchers::compile(matchers.iter().map(|matcher| MatcherSpec {
        label: &matcher.name,
        kind: match matcher::Type::try_from(matcher.r#type) {
            Ok(matcher::Type::Equal) => Ok(MatchKind::Equal),
            Ok(matcher::Type::NotEqual) => Ok(MatchKind::NotEqual),
            Ok(matcher::Type::Matches) => Ok(MatchKind::Regex),
            Ok(matcher::Type::NotMatches) => Ok(MatchKind::NotRegex),
            Err(_) => Err(matcher.r#type),
        },
        value: &matcher.value,
    }))
}

/// Returns the last millisecond not after a time, and the first one not before it.
fn millis(time: &Timestamp) -> (i64, i64) {
    // The seconds of the wire have 64 bits, so that their nanoseconds need more.
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let saturate = |millis: i128| {
        i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
    };
    let below = nanos.div_euclid(1_000_000);
    let above = below + i128::from(nanos.rem_euclid(1_000_000) != 0);
    (saturate(below), saturate(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    type At = Option<(i64, i32)>;

    fn scope(start: At, end: At) -> Scope {
        let at = |(seconds, nanos)| Timestamp { seconds, nanos };
        let message = StreamMetricsResponse {
            start_time: start.map(at),
            end_time: end.map(at),
            ..StreamMetricsResponse::default()
        };
        Query::new(&message).0.scope
    }

    fn matching(kind: matcher::Type, name: &str, value: &str) -> StreamMetricsResponse {
        StreamMetricsResponse {
            matchers: vec![Matcher {
                r#type: kind.into(),
                name: name.to_owned(),
                value: value.to_owned(),
            }],
            ..StreamMetricsResponse::default()
        }
    }

    #[test]
    fn query_without_times_asks_for_the_latest() {
        let window = |from, to| Scope::Window { from, to };
        assert_eq!(scope(None, None), Scope::Latest);
        assert_eq!(scope(Some((1, 0)), Some((2, 0))), window(1_000, 2_000));
        assert_eq!(scope(Some((1, 0)), None), window(1_000, i64::MAX));
        assert_eq!(scope(None, Some((2, 0))), window(i64::MIN, 2_000));
    }

    #[test]
    fn window_includes_both_ends_to_the_nanosecond() {
        let window = |from, to| Scope::Window { from, to };
        // Half a millisecond after 1 s the sample of 1 s is out; half before 2.001 s that of 2 s is in.
        let narrow = scope(Some((1, 500_000)), Some((2, 500_000)));
        assert_eq!(narrow, window(1_001, 2_000));
        assert_eq!(
            scope(Some((-1, 1)), Some((-1, 999_999))),
            window(-999, -1_000)
        );
        let wild = scope(Some((i64::MIN, i32::MIN)), Some((i64::MAX, i32::MAX)));
        assert_eq!(wild, window(i64::MIN, i64::MAX));
    }

    #[test]
    fn matchers_agree_with_prometheus() {
        use matcher::Type::{Equal, Matches, NotEqual, NotMatches};
        let labels = [("job", "db"), ("pod", "db-0")];
        for (kind, name, value, selected) in [
            (Equal, "__name__", "up", true),
            (Equal, "__name__", "u", false),
            (Equal, "absent", "", true),
            (NotEqual, "absent", "", false),
            (NotEqual, "job", "web", true),
            (Matches, "pod", "db-.", true),
            (Matches, "pod", "db", false),
            (NotMatches, "absent", ".+", true),
            (NotMatches, "pod", "db-[0-9]+", false),
        ] {
            let (query, error) = Query::new(&matching(kind, name, value));
            assert_eq!(error, None);
            assert_eq!(
                query.selects("up", &labels),
                selected,
                "{kind:?} {name} {value}"
            );
        }
    }

    #[test]
    fn invalid_matchers_are_reported() {
        let (_, error) = Query::new(&matching(matcher::Type::Matches, "pod", "("));
        assert!(matches!(error, Some(MatcherError::Expression { .. })));
        let mut unknown = matching(matcher::Type::Equal, "pod", "");
        unknown.matchers[0].r#type = 9;
        let (_, error) = Query::new(&unknown);
        assert!(matches!(
            error,
            Some(MatcherError::UnknownKind { kind: 9, .. })
        ));
    }
}
