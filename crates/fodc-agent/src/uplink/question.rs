//! What a proxy asks, made out once.

use prost_types::Timestamp;
use steadfast_wire::fodc::{Matcher, StreamMetricsResponse, matcher};

use steadfast_fodc_model::matching::{MatchKind, MatcherError, MatcherSpec, Matchers};

/// A question of the proxy.
#[derive(Debug)]
pub(crate) struct Question {
    /// Goes back in every part of the answer; 0 of a plain proxy.
    pub(crate) id: u64,
    pub(crate) about: About,
    pub(crate) matchers: Matchers,
    /// Whether columns, and several parts, may answer it.
    pub(crate) columnar: bool,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The newest values.
    Latest,
    /// Everything between two times, Unix milliseconds, both included.
    Window { from: i64, to: i64 },
}

/// The name under which a matcher means the metric's name.
const NAME: &str = "__name__";

impl Question {
    /// Makes out a question, whatever is in it; the fault is that of its matchers.
    pub(crate) fn new(asked: &StreamMetricsResponse) -> (Self, Option<MatcherError>) {
        let about = match (&asked.start_time, &asked.end_time) {
            (None, None) => About::Latest,
            (start, end) => About::Window {
                from: start.as_ref().map_or(i64::MIN, |start| millis(start).1),
                to: end.as_ref().map_or(i64::MAX, |end| millis(end).0),
            },
        };
        let (matchers, fault) = match matchers(&asked.matchers) {
            Ok(matchers) => (matchers, None),
            Err(fault) => (Matchers::default(), Some(fault)),
        };
        let question = Self {
            id: asked.request_id,
            about,
            matchers,
            columnar: asked.columnar,
        };
        (question, fault)
    }

    /// Whether a series of that name and those labels, sorted by name, is asked for. A label that it
    /// does not have counts as empty.
    pub(crate) fn wants(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matchers.match_all(|wanted| {
            if wanted == NAME {
                return name;
            }
            let found = labels.binary_search_by(|(name, _)| (*name).cmp(wanted));
            found.map_or("", |index| labels[index].1)
        })
    }
}

fn matchers(asked: &[Matcher]) -> Result<Matchers, MatcherError> {
    Matchers::compile(asked.iter().map(|matcher| MatcherSpec {
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

/// The last millisecond not after that time, and the first one not before it.
fn millis(time: &Timestamp) -> (i64, i64) {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let narrow = |millis: i128| {
        i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
    };
    let below = nanos.div_euclid(1_000_000);
    let above = below + i128::from(nanos.rem_euclid(1_000_000) != 0);
    (narrow(below), narrow(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    type At = Option<(i64, i32)>;

    fn about(start: At, end: At) -> About {
        let at = |(seconds, nanos)| Timestamp { seconds, nanos };
        let asked = StreamMetricsResponse {
            start_time: start.map(at),
            end_time: end.map(at),
            ..StreamMetricsResponse::default()
        };
        Question::new(&asked).0.about
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
    fn req_f7_without_times_it_is_the_latest_and_either_end_may_be_open() {
        let window = |from, to| About::Window { from, to };
        assert_eq!(about(None, None), About::Latest);
        assert_eq!(about(Some((1, 0)), Some((2, 0))), window(1_000, 2_000));
        assert_eq!(about(Some((1, 0)), None), window(1_000, i64::MAX));
        assert_eq!(about(None, Some((2, 0))), window(i64::MIN, 2_000));
    }

    #[test]
    fn req_f7_both_ends_are_included_to_the_nanosecond() {
        let window = |from, to| About::Window { from, to };
        // Half a millisecond after 1 s the sample of 1 s is out; half before 2.001 s that of 2 s is in.
        let narrow = about(Some((1, 500_000)), Some((2, 500_000)));
        assert_eq!(narrow, window(1_001, 2_000));
        assert_eq!(
            about(Some((-1, 1)), Some((-1, 999_999))),
            window(-999, -1_000)
        );
        let wild = about(Some((i64::MIN, i32::MIN)), Some((i64::MAX, i32::MAX)));
        assert_eq!(wild, window(i64::MIN, i64::MAX));
    }

    #[test]
    fn a_matcher_means_what_it_means_to_prometheus() {
        use matcher::Type::{Equal, Matches, NotEqual, NotMatches};
        let labels = [("job", "db"), ("pod", "db-0")];
        for (kind, name, value, wanted) in [
            (Equal, "__name__", "up", true),
            (Equal, "__name__", "u", false),
            (Equal, "pod", "db-0", true),
            (Equal, "absent", "", true),
            (NotEqual, "absent", "", false),
            (NotEqual, "job", "web", true),
            (Matches, "pod", "db-.", true),
            (Matches, "pod", "db", false),
            (Matches, "pod", "db-0|x", true),
            (Matches, "pod", "(?x) db-0 # )", true),
            (Matches, "pod", "(?x) db # )", false),
            (Matches, "absent", ".*", true),
            (NotMatches, "absent", ".+", true),
            (NotMatches, "pod", "db-[0-9]+", false),
        ] {
            let (question, fault) = Question::new(&matching(kind, name, value));
            assert_eq!(fault, None);
            let told = question.wants("up", &labels);
            assert_eq!(told, wanted, "{kind:?} {name} {value}");
        }
    }

    #[test]
    fn what_can_not_be_made_out_is_told_and_never_panics() {
        let long = "a".repeat(65_537);
        for bad in ["(", "a)|(b", "(?x)(a # )", r"\w{1000}{1000}", &long] {
            let (_, fault) = Question::new(&matching(matcher::Type::Matches, "pod", bad));
            assert!(
                matches!(fault, Some(MatcherError::Expression { .. })),
                "{bad}"
            );
        }
        let mut unknown = matching(matcher::Type::Equal, "pod", "");
        unknown.matchers[0].r#type = 9;
        let (_, fault) = Question::new(&unknown);
        assert!(matches!(
            fault,
            Some(MatcherError::UnknownKind { kind: 9, .. })
        ));
        unknown.matchers = vec![Matcher::default(); 65];
        let (_, fault) = Question::new(&unknown);
        assert_eq!(fault, Some(MatcherError::TooMany(65)));
        unknown.matchers = vec![Matcher::default(); 17];
        for matcher in &mut unknown.matchers {
            matcher.r#type = matcher::Type::NotMatches.into();
        }
        let (_, fault) = Question::new(&unknown);
        assert_eq!(fault, Some(MatcherError::TooManyExpressions(17)));
    }
}
