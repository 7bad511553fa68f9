//! Which series a question asks for: what a proxy sends and what remote read sends mean the same.

use regex_automata::meta::Regex;
use regex_syntax::{
    ParserBuilder,
    hir::{Hir, Look},
};

/// Bytes that a compiled expression may have, and that its lazily built automaton may use.
const COMPILED_BYTES: usize = 1 << 20;

/// Bytes of an expression as it is written. To read it takes some hundred times as many.
const EXPRESSION_BYTES: usize = 64 << 10;

/// Matchers of one question that are looked at: more than anybody writes.
const MATCHERS: usize = 64;

/// How many of them may have an expression; each may take all that compiled ones may have.
const EXPRESSIONS: usize = 16;

/// Characters of an expression that a fault repeats.
const SHOWN: usize = 100;

/// A series has to satisfy all of them. A label that is not there has an empty value, as in
/// Prometheus.
#[derive(Debug, Default)]
pub(crate) struct Matchers(Vec<Matcher>);

#[derive(Debug)]
struct Matcher {
    label: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    Like(Regex),
    Unlike(Regex),
}

/// What is to be done with a matcher's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Equal,
    NotEqual,
    Like,
    Unlike,
}

/// One matcher as it was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) label: &'a str,
    /// The number that stands for no kind, if it is that.
    pub(crate) kind: Result<Kind, i32>,
    pub(crate) text: &'a str,
}

/// What is wrong with the matchers of a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMatcher {
    #[error("the matcher of label `{0}` has type {1}, which is none")]
    Kind(String, i32),
    #[error("the expression `{expression}` for label `{label}` is not one: {problem}")]
    Expression {
        label: String,
        expression: String,
        problem: String,
    },
    #[error("a question has {0} matchers; at most {MATCHERS} are looked at")]
    TooMany(usize),
    #[error("a question has {0} matchers with expressions; at most {EXPRESSIONS} are compiled")]
    TooManyExpressions(usize),
}

impl Matchers {
    /// Makes out what was asked; nothing is compiled before all of it was counted.
    pub(crate) fn compile<'a>(
        asked: impl ExactSizeIterator<Item = Asked<'a>> + Clone,
    ) -> Result<Self, BadMatcher> {
        if asked.len() > MATCHERS {
            return Err(BadMatcher::TooMany(asked.len()));
        }
        let kinds = asked.clone().map(|matcher| matcher.kind);
        let expressions = kinds.filter(|kind| matches!(kind, Ok(Kind::Like | Kind::Unlike)));
        let expressions = expressions.count();
        if expressions > EXPRESSIONS {
            return Err(BadMatcher::TooManyExpressions(expressions));
        }
        let compiled = asked.map(|matcher| {
            Ok(Matcher {
                label: matcher.label.to_owned(),
                test: Test::new(matcher)?,
            })
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// The only value that this label can have, if there is only one and it is not empty.
    pub(crate) fn only(&self, label: &str) -> Option<&str> {
        self.0.iter().find_map(|matcher| match &matcher.test {
            Test::Equal(value) if matcher.label == label && !value.is_empty() => {
                Some(value.as_str())
            }
            Test::Equal(_) | Test::NotEqual(_) | Test::Like(_) | Test::Unlike(_) => None,
        })
    }

    /// Whether the series of which `value` tells the labels satisfies all.
    pub(crate) fn match_all<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        let mut all = self.0.iter();
        all.all(|matcher| matcher.test.holds(value(&matcher.label)))
    }
}

impl Test {
    fn new(matcher: Asked<'_>) -> Result<Self, BadMatcher> {
        let kind = matcher
            .kind
            .map_err(|number| BadMatcher::Kind(matcher.label.to_owned(), number))?;
        let expression = || {
            whole(matcher.text).map_err(|problem| BadMatcher::Expression {
                label: matcher.label.to_owned(),
                expression: matcher.text.chars().take(SHOWN).collect(),
                problem,
            })
        };
        Ok(match kind {
            Kind::Equal => Self::Equal(matcher.text.to_owned()),
            Kind::NotEqual => Self::NotEqual(matcher.text.to_owned()),
            Kind::Like => Self::Like(expression()?),
            Kind::Unlike => Self::Unlike(expression()?),
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

/// The expression from end to end of a value, where a dot matches a line feed too, as in
/// Prometheus.
///
/// It is read by itself and the ends are added to what was read: put around its text they would be
/// at the mercy of what stands in it (`a)|(b`, a comment that takes the rest of the line with it).
fn whole(expression: &str) -> Result<Regex, String> {
    if expression.len() > EXPRESSION_BYTES {
        return Err(format!("it is longer than {EXPRESSION_BYTES} bytes"));
    }
    let mut parser = ParserBuilder::new().dot_matches_new_line(true).build();
    let read = parser.parse(expression).map_err(|error| match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    })?;
    let whole = Hir::concat(vec![Hir::look(Look::Start), read, Hir::look(Look::End)]);
    let limits = Regex::config()
        .nfa_size_limit(Some(COMPILED_BYTES))
        .hybrid_cache_capacity(COMPILED_BYTES);
    let built = Regex::builder().configure(limits).build_from_hir(&whole);
    built.map_err(|error| match error.size_limit() {
        Some(bytes) => format!("compiled it is larger than {bytes} bytes"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(label: &'a str, kind: Kind, text: &'a str) -> Asked<'a> {
        Asked {
            label,
            kind: Ok(kind),
            text,
        }
    }

    fn compile(asked: &[Asked<'_>]) -> Result<Matchers, BadMatcher> {
        Matchers::compile(asked.iter().copied())
    }

    /// Whether a series with `job="node"`, `path="/a\nb"` and nothing else satisfies it.
    fn holds(label: &str, kind: Kind, text: &str) -> bool {
        let matchers = compile(&[asked(label, kind, text)]).unwrap();
        matchers.match_all(|label| match label {
            "job" => "node",
            "path" => "/a\nb",
            _ => "",
        })
    }

    fn problem(text: &str) -> String {
        let fault = compile(&[asked("job", Kind::Like, text)]).unwrap_err();
        assert!(matches!(fault, BadMatcher::Expression { .. }), "{fault}");
        fault.to_string()
    }

    #[test]
    fn all_four_kinds_hold_where_they_should() {
        use Kind::{Equal, Like, NotEqual, Unlike};
        for (label, kind, text, expected) in [
            ("job", Equal, "node", true),
            ("job", Equal, "nod", false),
            ("job", NotEqual, "node", false),
            ("job", NotEqual, "other", true),
            ("job", Like, "no.e|x", true),
            ("job", Like, "no", false),
            ("job", Like, "ode", false),
            ("job", Like, "no|node", true),
            ("job", Unlike, "no", true),
            ("job", Unlike, "n.*", false),
            ("path", Like, "/a.b", true),
            ("path", Like, "/a", false),
            ("path", Like, "(?m)/a$", false),
        ] {
            assert_eq!(
                holds(label, kind, text),
                expected,
                "{label} {kind:?} {text}"
            );
        }
    }

    #[test]
    fn a_label_that_is_not_there_is_empty() {
        assert!(holds("absent", Kind::Equal, ""));
        assert!(holds("absent", Kind::Like, "x*"));
        assert!(holds("absent", Kind::NotEqual, "x"));
        assert!(!holds("absent", Kind::NotEqual, ""));
        assert!(!holds("absent", Kind::Unlike, ".*"));
        assert!(!holds("absent", Kind::Like, ".+"));
    }

    #[test]
    fn nothing_in_an_expression_moves_its_ends() {
        assert!(!holds("job", Kind::Like, "x|n"));
        assert!(holds("job", Kind::Unlike, "x|n"));
        // A comment ends with the line, and here with the expression.
        for comment in ["(?x)no # )", "(?x) no #", "(?x: n o #\n)"] {
            assert!(!holds("job", Kind::Like, comment), "{comment}");
        }
        assert!(holds("job", Kind::Like, "(?x)no de # )"));
        assert!(holds("job", Kind::Like, "(?x) node #"));
        // Groups that close what they did not open are no expression.
        for (text, told) in [
            ("n)|(x", "unopened group"),
            ("x)|(?:n", "unopened group"),
            ("node)", "unopened group"),
            ("(node", "unclosed group"),
            ("(?x)(node # )", "unclosed group"),
            ("(?s:node", "unclosed group"),
        ] {
            let fault = problem(text);
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }

    #[test]
    fn what_can_not_be_compiled_is_told_with_its_label() {
        for (text, told) in [
            ("(", "unclosed group"),
            (r"(?:.{1000}){1000}", "larger than"),
            (r"\w{1000}{1000}", "larger than"),
        ] {
            let fault = problem(text);
            assert!(fault.contains(told) && fault.contains("`job`"), "{fault}");
            assert!(!fault.contains('\n'), "{fault}");
        }
        let odd = Asked {
            kind: Err(7),
            ..asked("job", Kind::Equal, "")
        };
        let fault = compile(&[odd]).unwrap_err();
        assert_eq!(fault, BadMatcher::Kind("job".to_owned(), 7));
    }

    #[test]
    fn expressions_are_bounded_in_length_and_number_before_they_are_compiled() {
        let long = "a|".repeat(EXPRESSION_BYTES / 2 + 1);
        let text = problem(&long);
        assert!(text.contains("longer than 65536 bytes"), "{text}");
        assert!(text.len() < 300, "{text}");

        let mut many = vec![asked("job", Kind::Unlike, "a"); EXPRESSIONS];
        many.push(asked("job", Kind::Equal, "node"));
        assert!(compile(&many).is_ok());
        // It can not be compiled: that it is refused for the number says that nobody tried.
        many[0] = asked("job", Kind::Like, "(");
        many.push(asked("job", Kind::Like, "b"));
        let fault = compile(&many).unwrap_err();
        assert_eq!(fault, BadMatcher::TooManyExpressions(EXPRESSIONS + 1));

        let many = vec![asked("job", Kind::Equal, ""); MATCHERS + 1];
        let fault = compile(&many).unwrap_err();
        assert_eq!(fault, BadMatcher::TooMany(MATCHERS + 1));
    }
}
