//! Label matchers with the semantics of Prometheus.
//!
//! The same matchers come from a proxy and from remote read.
//!
//! ```
//! use steadfast_fodc_model::matching::{MatchKind, MatcherSpec, Matchers};
//!
//! let spec = MatcherSpec {
//!     label: "job",
//!     kind: Ok(MatchKind::Regex),
//!     value: "node|db",
//! };
//! let matchers = Matchers::compile([spec].into_iter())?;
//! assert!(matchers.match_all(|label| if label == "job" { "node" } else { "" }));
//! # Ok::<(), steadfast_fodc_model::matching::MatcherError>(())
//! ```

mod re2;

use regex_automata::meta::Regex;
use regex_syntax::{
    ParserBuilder,
    hir::{Hir, Look},
};

/// Limit in bytes on a compiled expression, and again on its lazily built automaton.
const COMPILED_BYTES: usize = 1 << 20;

/// Limit in bytes on the text of an expression. Parsing takes some hundred times as much memory.
const EXPRESSION_BYTES: usize = 64 << 10;

/// Limit on the matchers of one query.
const MATCHERS: usize = 64;

/// Limit on the matchers with an expression; each may take [`COMPILED_BYTES`] twice.
const EXPRESSIONS: usize = 16;

/// Characters of an expression that an error repeats.
const SHOWN: usize = 100;

/// A set of matchers, all of which a series has to satisfy.
#[derive(Debug, Default)]
pub struct Matchers(Vec<Matcher>);

#[derive(Debug)]
struct Matcher {
    label: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    Regex(Regex),
    NotRegex(Regex),
}

/// The comparison that a matcher makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// The value equals the text.
    Equal,
    /// The value differs from the text.
    NotEqual,
    /// The whole value matches the expression.
    Regex,
    /// The whole value does not match the expression.
    NotRegex,
}

/// One matcher as a peer sent it.
#[derive(Clone, Copy, Debug)]
pub struct MatcherSpec<'a> {
    /// The name of the label.
    pub label: &'a str,
    /// The comparison, or the number on the wire if it is unknown.
    pub kind: Result<MatchKind, i32>,
    /// The text or the expression to compare with.
    pub value: &'a str,
}

/// The reason why matchers were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatcherError {
    /// The type of a matcher is not one of [`MatchKind`].
    #[error("unknown matcher type {kind} for label `{label}`")]
    UnknownKind {
        /// The label of the matcher.
        label: String,
        /// The number on the wire.
        kind: i32,
    },
    /// An expression is invalid or exceeds a limit.
    #[error("invalid expression `{expression}` for label `{label}`: {problem}")]
    Expression {
        /// The label of the matcher.
        label: String,
        /// The beginning of the expression.
        expression: String,
        /// The message of the parser or compiler.
        problem: String,
    },
    /// A query has more matchers than are evaluated.
    #[error("query has {0} matchers; the limit is {MATCHERS}")]
    TooMany(usize),
    /// A query has more expressions than are compiled.
    #[error("query has {0} matchers with expressions; the limit is {EXPRESSIONS}")]
    TooManyExpressions(usize),
}

impl Matchers {
    /// Compiles the matchers of a query.
    ///
    /// # Errors
    ///
    /// The first fault. The counts are checked before any expression is compiled.
    pub fn compile<'a>(
        specs: impl ExactSizeIterator<Item = MatcherSpec<'a>> + Clone,
    ) -> Result<Self, MatcherError> {
        if specs.len() > MATCHERS {
            return Err(MatcherError::TooMany(specs.len()));
        }
        let expressions = specs
            .clone()
            .filter(|spec| matches!(spec.kind, Ok(MatchKind::Regex | MatchKind::NotRegex)))
            .count();
        if expressions > EXPRESSIONS {
            return Err(MatcherError::TooManyExpressions(expressions));
        }
        let compiled = specs.map(|spec| {
            Ok(Matcher {
                label: spec.label.to_owned(),
                test: Test::new(spec)?,
            })
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the only value that `label` can have, if an equality fixes it.
    ///
    /// An equality with the empty text fixes nothing: it also matches a series without the label.
    #[must_use]
    pub fn only(&self, label: &str) -> Option<&str> {
        self.0.iter().find_map(|matcher| match &matcher.test {
            Test::Equal(value) if matcher.label == label && !value.is_empty() => {
                Some(value.as_str())
            }
            Test::Equal(_) | Test::NotEqual(_) | Test::Regex(_) | Test::NotRegex(_) => None,
        })
    }

    /// Returns true if a series satisfies all matchers.
    ///
    /// `value` returns the value of a label, and the empty text for a label that the series lacks.
    pub fn match_all<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        let mut all = self.0.iter();
        all.all(|matcher| matcher.test.holds(value(&matcher.label)))
    }
}

impl Test {
    fn new(spec: MatcherSpec<'_>) -> Result<Self, MatcherError> {
        let kind = spec.kind.map_err(|kind| MatcherError::UnknownKind {
            label: spec.label.to_owned(),
            kind,
        })?;
        let expression = || {
            compile_anchored(spec.value).map_err(|problem| MatcherError::Expression {
                label: spec.label.to_owned(),
                // The peer chooses the text, and the error goes to the log.
                expression: spec.value.chars().take(SHOWN).collect(),
                problem,
            })
        };
        Ok(match kind {
            MatchKind::Equal => Self::Equal(spec.value.to_owned()),
            MatchKind::NotEqual => Self::NotEqual(spec.value.to_owned()),
            MatchKind::Regex => Self::Regex(expression()?),
            MatchKind::NotRegex => Self::NotRegex(expression()?),
        })
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equal(wanted) => value == wanted,
            Self::NotEqual(unwanted) => value != unwanted,
            Self::Regex(regex) => regex.is_match(value),
            Self::NotRegex(regex) => !regex.is_match(value),
        }
    }
}

/// Compiles an expression that has to match a whole value. It means what it means to Prometheus; a dot
/// matches a line feed, too.
fn compile_anchored(expression: &str) -> Result<Regex, String> {
    if expression.len() > EXPRESSION_BYTES {
        return Err(format!("it is longer than {EXPRESSION_BYTES} bytes"));
    }
    let translated = re2::translate(expression).map_err(|refusal| refusal.to_string())?;
    // Prometheus compiles `^(?s:…)$`; the anchors follow below.
    let mut parser = ParserBuilder::new().dot_matches_new_line(true).build();
    let parsed = parser.parse(&translated).map_err(|error| match error {
        // The kind alone: the full text shows the translation, which nobody has written.
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    })?;
    // The anchors are added to the parsed expression, so that no text can escape them.
    let anchored = Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]);
    let limits = Regex::config()
        .nfa_size_limit(Some(COMPILED_BYTES))
        .hybrid_cache_capacity(COMPILED_BYTES);
    let built = Regex::builder().configure(limits).build_from_hir(&anchored);
    built.map_err(|error| match error.size_limit() {
        Some(bytes) => format!("compiled it is larger than {bytes} bytes"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>(label: &'a str, kind: MatchKind, value: &'a str) -> MatcherSpec<'a> {
        MatcherSpec {
            label,
            kind: Ok(kind),
            value,
        }
    }

    fn compile(specs: &[MatcherSpec<'_>]) -> Result<Matchers, MatcherError> {
        Matchers::compile(specs.iter().copied())
    }

    /// Matches against a series with `job="node"`, `path="/a\nb"` and no other label.
    fn holds(label: &str, kind: MatchKind, text: &str) -> bool {
        let matchers = compile(&[spec(label, kind, text)]).unwrap();
        matchers.match_all(|label| match label {
            "job" => "node",
            "path" => "/a\nb",
            _ => "",
        })
    }

    fn problem(text: &str) -> String {
        let fault = compile(&[spec("job", MatchKind::Regex, text)]).unwrap_err();
        assert!(matches!(fault, MatcherError::Expression { .. }), "{fault}");
        fault.to_string()
    }

    #[test]
    fn all_four_matcher_kinds() {
        use MatchKind::{Equal, NotEqual, NotRegex, Regex};
        for (label, kind, text, expected) in [
            ("job", Equal, "node", true),
            ("job", Equal, "nod", false),
            ("job", NotEqual, "node", false),
            ("job", NotEqual, "other", true),
            ("job", Regex, "no.e|x", true),
            ("job", Regex, "no", false),
            ("job", Regex, "ode", false),
            ("job", Regex, "no|node", true),
            ("job", NotRegex, "no", true),
            ("job", NotRegex, "n.*", false),
            ("path", Regex, "/a.b", true),
            ("path", Regex, "/a", false),
            ("path", Regex, "(?m)/a$", false),
        ] {
            assert_eq!(
                holds(label, kind, text),
                expected,
                "{label} {kind:?} {text}"
            );
        }
    }

    #[test]
    fn missing_label_matches_as_empty() {
        assert!(holds("absent", MatchKind::Equal, ""));
        assert!(holds("absent", MatchKind::Regex, "x*"));
        assert!(holds("absent", MatchKind::NotEqual, "x"));
        assert!(!holds("absent", MatchKind::NotEqual, ""));
        assert!(!holds("absent", MatchKind::NotRegex, ".*"));
        assert!(!holds("absent", MatchKind::Regex, ".+"));
    }

    #[test]
    fn expression_cannot_escape_its_anchors() {
        assert!(!holds("job", MatchKind::Regex, "x|n"));
        assert!(holds("job", MatchKind::NotRegex, "x|n"));
        // A comment would swallow the rest of the line, and Prometheus knows none.
        for comment in ["(?x)no # )", "(?x) no #", "(?x: n o #\n)", "(?x)(node # )"] {
            assert!(problem(comment).contains("unsupported group"), "{comment}");
        }
        // Groups that close more than they open are invalid.
        for (text, told) in [
            ("n)|(x", "unopened group"),
            ("x)|(?:n", "unopened group"),
            ("node)", "unopened group"),
            ("(node", "unclosed group"),
            ("(?s:node", "unclosed group"),
        ] {
            let fault = problem(text);
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }

    #[test]
    fn invalid_expression_error_names_its_label() {
        for (text, told) in [
            ("(", "unclosed group"),
            (r"(?:.{1000}){1000}", "repeat count"),
            (r"\w{1000}{1000}", "nested repetition"),
            (r"(?:\pL\pN){500}", "larger than"),
        ] {
            let fault = problem(text);
            assert!(fault.contains(told) && fault.contains("`job`"), "{fault}");
            assert!(!fault.contains('\n'), "{fault}");
        }
        let odd = MatcherSpec {
            kind: Err(7),
            ..spec("job", MatchKind::Equal, "")
        };
        let fault = compile(&[odd]).unwrap_err();
        assert_eq!(
            fault,
            MatcherError::UnknownKind {
                label: "job".to_owned(),
                kind: 7
            }
        );
    }

    #[test]
    fn expressions_mean_what_prometheus_takes_them_for() {
        // Each with the values of this list that Go matches as a whole.
        let values = [
            "é", "٣", "[x", "a.b", "&", "x-y/z", "-", "\u{212a}", "a", "3", "_", "b", "aXb", "{",
            "a{,2}", "\u{8}", "{1", "", "ab", "*", "\t", "\u{b}",
        ];
        for (expression, expected) in [
            (
                "[^[]+",
                &[
                    "é", "٣", "a.b", "&", "x-y/z", "-", "\u{212a}", "a", "3", "_", "b", "aXb", "{",
                    "a{,2}", "\u{8}", "{1", "ab", "*", "\t", "\u{b}",
                ][..],
            ),
            (r"\w+", &["a", "3", "_", "b", "aXb", "ab"]),
            (r"\d", &["3"]),
            (r"[\d]", &["3"]),
            (r"\s", &["\t"]),
            (r"[[:space:]]", &["\t", "\u{b}"]),
            (r"\Qa.b\E", &["a.b"]),
            (r"\Qa.b", &["a.b"]),
            ("[a&&b]", &["&", "a", "b"]),
            ("[a-]", &["-", "a"]),
            ("[]a]", &["a"]),
            ("[[]x", &["[x"]),
            (r"a\b.*", &["a.b", "a", "a{,2}"]),
            (r"a\B.*", &["aXb", "ab"]),
            ("{", &["{"]),
            ("a{,2}", &["a{,2}"]),
            ("{1", &["{1"]),
            ("(?i)k", &["\u{212a}"]),
            (r"\pL", &["é", "\u{212a}", "a", "b"]),
            (r"\p{Lu}", &["\u{212a}"]),
            (r"\P{^Nd}", &["٣", "3"]),
            (r"\p{Arabic}", &["٣"]),
            (r"\x61|\x{62}|\137", &["a", "_", "b"]),
            (r"\_|\&", &["&", "_"]),
            ("(?P<n>a)(?<m>b)", &["ab"]),
            ("a|", &["a", ""]),
            (r"[\x08]", &["\u{8}"]),
            ("a+?b??", &["a", "ab"]),
            ("[^\\W\\d]", &["a", "_", "b"]),
        ] {
            let matchers = compile(&[spec("v", MatchKind::Regex, expression)]).unwrap();
            let matched: Vec<_> = values
                .iter()
                .filter(|value| matchers.match_all(|_| value))
                .collect();
            let expected: Vec<_> = expected.iter().collect();
            assert_eq!(matched, expected, "{expression}");
        }
    }

    #[test]
    fn expressions_that_prometheus_refuses_are_refused() {
        for expression in [
            "a{1001}",
            "a{2,1}",
            "a**",
            "a*+",
            "a{2}{3}",
            "a*??*",
            "(a{100}){11}",
            "*",
            "a|*",
            "(*)",
            "+a",
            "{2}",
            r"\8",
            r"\1",
            r"\Z",
            r"\y",
            r"\",
            r"[\b]",
            r"[\Qa\E]",
            "[b-a]",
            "[a",
            "[]",
            "[[:foo:]]",
            r"\p{greek}",
            r"\p{Alphabetic}",
            r"\pX",
            "(?x)a",
            "(?u)a",
            "(?i",
            "(?-)a",
            "(?=a)",
            "(?P<1 >a)",
            "((a{1000}){0,}){2}",
            "((a{1000})*){2}",
            r"\x{110000}",
            r"\xg1",
            ")",
            "(",
            r"\C",
            r"\<",
        ] {
            // `\<` is punctuation, and an escaped one stands for itself.
            let is_refused = compile(&[spec("v", MatchKind::Regex, expression)]).is_err();
            assert_eq!(is_refused, expression != r"\<", "{expression}");
        }
        for expression in [
            "(a{100}){10}",
            "a{0}{,3}",
            "((a{1000}){0}){2}",
            "((a{1000}){0,}){1}",
            "(?P<a>b)(?P<a>c)",
        ] {
            let compiled = compile(&[spec("v", MatchKind::Regex, expression)]);
            assert!(compiled.is_ok(), "{expression}");
        }
    }

    #[test]
    fn long_expressions_are_translated_in_linear_time() {
        // Each opening bracket or brace must not cost a look at all that follows: 10^12 steps here.
        let length = 1 << 20;
        assert!(re2::translate(&"{".repeat(length)).is_ok());
        let unclosed = format!("[{}", "[:".repeat(length));
        assert!(re2::translate(&unclosed).is_err());
        let classes = format!("[{}]", "[:alpha:]".repeat(length / 8));
        assert!(re2::translate(&classes).is_ok());
        assert!(re2::translate(&r"\p{L}\x{61}".repeat(length / 8)).is_ok());
    }

    #[test]
    fn limits_apply_before_compilation() {
        let long = "a|".repeat(EXPRESSION_BYTES / 2 + 1);
        let text = problem(&long);
        assert!(text.contains("longer than 65536 bytes"), "{text}");
        assert!(text.len() < 300, "{text}");

        let mut many = vec![spec("job", MatchKind::NotRegex, "a"); EXPRESSIONS];
        many.push(spec("job", MatchKind::Equal, "node"));
        assert!(compile(&many).is_ok());
        // The invalid expression is not reported: the count is checked first.
        many[0] = spec("job", MatchKind::Regex, "(");
        many.push(spec("job", MatchKind::Regex, "b"));
        let fault = compile(&many).unwrap_err();
        assert_eq!(fault, MatcherError::TooManyExpressions(EXPRESSIONS + 1));

        let many = vec![spec("job", MatchKind::Equal, ""); MATCHERS + 1];
        let fault = compile(&many).unwrap_err();
        assert_eq!(fault, MatcherError::TooMany(MATCHERS + 1));
    }
}
