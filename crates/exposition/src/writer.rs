//! Writing the Prometheus text format.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::format::Kind;

/// The notation of finite values. Both are read back as the same double.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// The shortest notation, with an exponent below 10^-5 and from 10^16 on.
    #[default]
    Shortest,
    /// The fewest digits without an exponent: 10^21 has 22 digits.
    Plain,
}

impl Numbers {
    /// Appends a value in the notation of the Prometheus format.
    pub fn write(self, value: f64, to: &mut String) {
        let infallible = "writing to a string cannot fail";
        let magnitude = value.abs();
        if (1e-5..1e16).contains(&magnitude) {
            // In this range, `zmij` writes no exponent either.
            let mut buffer = zmij::Buffer::new();
            let digits = buffer.format_finite(value);
            // `zmij` writes `3.0` where exporters write `3`.
            to.push_str(digits.strip_suffix(".0").unwrap_or(digits));
        } else if value.is_nan() {
            to.push_str("NaN");
        } else if value.is_infinite() {
            to.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        } else {
            match self {
                Self::Shortest if value != 0.0 => write!(to, "{value:e}").expect(infallible),
                Self::Shortest | Self::Plain => write!(to, "{value}").expect(infallible),
            }
        }
    }
}

/// Writes a page in the Prometheus text format.
///
/// Names that are not valid in version 0.0.4 are quoted, as in version 1.0.0. Neither version allows
/// an empty name, so families, samples and labels with an empty name are left out.
///
/// ```
/// use steadfast_exposition::{Kind, Numbers, Writer};
///
/// let mut page = Writer::new(Numbers::Shortest);
/// page.family("jobs", Kind::Gauge, Some("jobs that wait"));
/// page.sample("jobs", [("queue", "a \"b\"")], 3.0, None);
/// assert_eq!(
///     page.as_str(),
///     "# HELP jobs jobs that wait\n# TYPE jobs gauge\njobs{queue=\"a \\\"b\\\"\"} 3\n"
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer {
    page: String,
    numbers: Numbers,
    families: BTreeSet<Box<str>>,
}

impl Writer {
    /// Creates an empty page.
    #[must_use]
    pub fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            ..Self::default()
        }
    }

    /// Writes help and type of the family whose samples follow. A family is written only once per
    /// page, because readers reject repetitions.
    pub fn family(&mut self, name: &str, kind: Kind, help: Option<&str>) {
        if name.is_empty() || self.families.contains(name) {
            return;
        }
        self.families.insert(name.into());
        if let Some(help) = help {
            self.page.push_str("# HELP ");
            self.family_name(name);
            self.page.push(' ');
            escape(help, false, &mut self.page);
            self.page.push('\n');
        }
        self.page.push_str("# TYPE ");
        self.family_name(name);
        self.page.push(' ');
        self.page.push_str(kind.prometheus_word());
        self.page.push('\n');
    }

    /// Writes a sample with its labels in the given order. The timestamp is in milliseconds since
    /// 1970.
    pub fn sample<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        timestamp_ms: Option<i64>,
    ) {
        if name.is_empty() {
            return;
        }
        let mut separator = '{';
        if is_metric_name(name) {
            self.page.push_str(name);
        } else {
            self.page.push('{');
            quote(name, &mut self.page);
            // The quoted name is the first item within the braces.
            separator = ',';
        }
        for (label, value) in labels {
            if label.is_empty() {
                continue;
            }
            self.page.push(separator);
            separator = ',';
            if is_label_name(label) {
                self.page.push_str(label);
            } else {
                quote(label, &mut self.page);
            }
            self.page.push('=');
            quote(value, &mut self.page);
        }
        if separator == ',' {
            self.page.push('}');
        }
        self.page.push(' ');
        self.numbers.write(value, &mut self.page);
        if let Some(timestamp) = timestamp_ms {
            write!(self.page, " {timestamp}").expect("writing to a string cannot fail");
        }
        self.page.push('\n');
    }

    /// Returns the text that was written since the last [`take`](Self::take).
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.page
    }

    /// Takes the text that was written so far, to send a long page in pieces. The families that the
    /// page has had stay known.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.page)
    }

    fn family_name(&mut self, name: &str) {
        if is_metric_name(name) {
            self.page.push_str(name);
        } else {
            quote(name, &mut self.page);
        }
    }
}

/// Appends text in quotes, as the values of labels stand in the format.
pub fn quote(text: &str, to: &mut String) {
    to.push('"');
    escape(text, true, to);
    to.push('"');
}

/// Appends text and escapes backslashes, line feeds and, with `quotes`, quotes.
fn escape(text: &str, quotes: bool, to: &mut String) {
    let mut rest = text;
    let next = |text: &str| {
        text.bytes()
            .position(|byte| matches!(byte, b'\\' | b'\n') || byte == b'"' && quotes)
    };
    while let Some(at) = next(rest) {
        to.push_str(&rest[..at]);
        to.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    to.push_str(rest);
}

/// Returns true if a metric name needs no quotes.
fn is_metric_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
        && !name.as_bytes()[0].is_ascii_digit()
}

/// Returns true if a label name needs no quotes.
fn is_label_name(name: &str) -> bool {
    is_metric_name(name) && !name.contains(':')
}
