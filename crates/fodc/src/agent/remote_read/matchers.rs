//! Which series a query asks for.

use regex::{Regex, RegexBuilder};
use steadfast_recorder::NAME;
use steadfast_wire::prometheus::{LabelMatcher, label_matcher::Type};

/// Bytes that a compiled expression may have, and that its lazily built automaton may use.
const REGEX_BYTES: usize = 1 << 20;

/// Bytes of an expression as it is written. To read it takes some hundred times as many.
const EXPRESSION_BYTES: usize = 64 << 10;

/// Matchers of one query that are looked at.
const MATCHERS: usize = 256;

/// How many of them may have an expression; each may take all that compiled ones may have.
const EXPRESSIONS: usize = 16;

/// A series has to satisfy all of them. A label that is not there has an empty value, as in
/// Prometheus.
#[derive(Debug)]
pub(crate) struct Matchers(Vec<Matcher>);

#[derive(Debug)]
struct Matcher {
    name: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    Like(Regex),
    Unlike(Regex),
}

/// What is wrong with a matcher.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMatcher {
    #[error("the matcher of label `{0}` has type {1}, which remote read does not know")]
    Type(String, i32),
    #[error("the expression `{expression}` for label `{label}` is not one: {problem}")]
    Regex {
        label: String,
        expression: String,
        problem: String,
    },
    #[error("a query has {0} matchers; at most {MATCHERS} are looked at")]
    TooMany(usize),
    #[error("a query has {0} matchers with expressions; at most {EXPRESSIONS} are compiled")]
    TooManyExpressions(usize),
}

impl Matchers {
    pub(super) fn compile(matchers: &[LabelMatcher]) -> Result<Self, BadMatcher> {
        if matchers.len() > MATCHERS {
            return Err(BadMatcher::TooMany(matchers.len()));
        }
        let kinds = matchers.iter().map(LabelMatcher::r#type);
        let expressions = kinds.filter(|kind| matches!(kind, Type::Re | Type::Nre));
        let expressions = expressions.count();
        if expressions > EXPRESSIONS {
            return Err(BadMatcher::TooManyExpressions(expressions));
        }
        let compiled = matchers.iter().map(|matcher| {
            Ok(Matcher {
                name: matcher.name.clone(),
                test: Test::new(matcher)?,
            })
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// The only name that a metric can have, if there is only one.
    pub(crate) fn metric(&self) -> Option<&str> {
        self.0.iter().find_map(|matcher| match &matcher.test {
            Test::Equal(name) if matcher.name == NAME && !name.is_empty() => Some(name.as_str()),
            Test::Equal(_) | Test::NotEqual(_) | Test::Like(_) | Test::Unlike(_) => None,
        })
    }

    /// Whether the series of which `value` tells the labels satisfies all.
    pub(crate) fn match_all<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        self.0
            .iter()
            .all(|matcher| matcher.test.holds(value(&matcher.name)))
    }
}

impl Test {
    fn new(matcher: &LabelMatcher) -> Result<Self, BadMatcher> {
        let kind = Type::try_from(matcher.r#type)
            .map_err(|_| BadMatcher::Type(matcher.name.clone(), matcher.r#type))?;
        Ok(match kind {
            Type::Eq => Self::Equal(matcher.value.clone()),
            Type::Neq => Self::NotEqual(matcher.value.clone()),
            Type::Re => Self::Like(anchored(matcher)?),
            Type::Nre => Self::Unlike(anchored(matcher)?),
        })
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equal(wanted) => value == wanted,
            Self::NotEqual(unwanted) => value != unwanted,
            Self::Like(regex) => regex.is_match(value),
            Self::Unlike(regex) => !regex.is_match(value),
        }
    }
}

/// The whole value has to match, and a dot matches a line feed too, as in Prometheus.
fn anchored(matcher: &LabelMatcher) -> Result<Regex, BadMatcher> {
    let bad = |problem| BadMatcher::Regex {
        label: matcher.name.clone(),
        expression: matcher.value.chars().take(100).collect(),
        problem,
    };
    if matcher.value.len() > EXPRESSION_BYTES {
        return Err(bad(format!("it is longer than {EXPRESSION_BYTES} bytes")));
    }
    let whole = format!("^(?s:{})$", matcher.value);
    let built = RegexBuilder::new(&whole)
        .size_limit(REGEX_BYTES)
        .dfa_size_limit(REGEX_BYTES)
        .build();
    built.map_err(|error| {
        bad(match error {
            regex::Error::CompiledTooBig(bytes) => {
                format!("compiled it is larger than {bytes} bytes")
            }
            // The rest is a drawing of the expression, with the anchors that are ours.
            other => {
                let told = other.to_string();
                let last = told.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(name: &str, kind: Type, value: &str) -> LabelMatcher {
        LabelMatcher {
            r#type: kind.into(),
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    /// Whether a series with `job="node"`, `path="/a\nb"` and nothing else satisfies it.
    fn holds(name: &str, kind: Type, value: &str) -> bool {
        let matchers = Matchers::compile(&[matcher(name, kind, value)]).unwrap();
        matchers.match_all(|label| match label {
            "job" => "node",
            "path" => "/a\nb",
            _ => "",
        })
    }

    #[test]
    fn all_four_kinds_hold_where_they_should() {
        for (name, kind, value, expected) in [
            ("job", Type::Eq, "node", true),
            ("job", Type::Eq, "nod", false),
            ("job", Type::Neq, "node", false),
            ("job", Type::Neq, "other", true),
            ("job", Type::Re, "no.e|x", true),
            ("job", Type::Re, "no", false),
            ("job", Type::Re, "ode", false),
            ("job", Type::Nre, "no", true),
            ("job", Type::Nre, "n.*", false),
            ("path", Type::Re, "/a.b", true),
            ("path", Type::Re, "/a", false),
        ] {
            assert_eq!(
                holds(name, kind, value),
                expected,
                "{name} {kind:?} {value}"
            );
        }
    }

    #[test]
    fn a_label_that_is_not_there_is_empty() {
        assert!(holds("absent", Type::Eq, ""));
        assert!(holds("absent", Type::Re, "x*"));
        assert!(holds("absent", Type::Neq, "x"));
        assert!(!holds("absent", Type::Neq, ""));
        assert!(!holds("absent", Type::Nre, ".*"));
        assert!(!holds("absent", Type::Re, ".+"));
    }

    #[test]
    fn an_alternative_can_not_escape_its_anchors() {
        assert!(!holds("job", Type::Re, "x|n"));
        assert!(holds("job", Type::Nre, "x|n"));
    }

    #[test]
    fn what_can_not_be_compiled_is_told_with_its_label() {
        for (value, told) in [
            ("(", "unclosed group"),
            ("(?:.{1000}){1000}", "larger than"),
        ] {
            let fault = Matchers::compile(&[matcher("job", Type::Re, value)]).unwrap_err();
            let text = fault.to_string();
            assert!(text.contains(told) && text.contains("`job`"), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        let mut odd = matcher("job", Type::Eq, "");
        odd.r#type = 7;
        assert_eq!(
            Matchers::compile(&[odd]).unwrap_err(),
            BadMatcher::Type("job".to_owned(), 7)
        );
        let many = vec![matcher("job", Type::Eq, ""); 257];
        assert_eq!(
            Matchers::compile(&many).unwrap_err(),
            BadMatcher::TooMany(257)
        );
    }

    #[test]
    fn expressions_are_bounded_in_length_and_number_before_they_are_compiled() {
        let long = matcher("job", Type::Re, &"a|".repeat(EXPRESSION_BYTES / 2 + 1));
        let text = Matchers::compile(&[long]).unwrap_err().to_string();
        assert!(text.contains("longer than 65536 bytes"), "{text}");
        assert!(text.len() < 300, "{text}");

        let mut many = vec![matcher("job", Type::Nre, "a"); EXPRESSIONS];
        many.push(matcher("job", Type::Eq, "node"));
        assert!(Matchers::compile(&many).is_ok());
        // It can not be compiled: that it is refused for the number says that nobody tried.
        many[0] = matcher("job", Type::Re, "(");
        many.push(matcher("job", Type::Re, "b"));
        assert_eq!(
            Matchers::compile(&many).unwrap_err(),
            BadMatcher::TooManyExpressions(EXPRESSIONS + 1)
        );
    }
}
