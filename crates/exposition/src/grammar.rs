//! The grammar of a sample's line.
//!
//! ```text
//! name {label="value", "any label"="value"} value timestamp # {label="value"} value timestamp
//! {"any name", label="value"} value
//! ```
//!
//! One grammar reads both formats. Where `OpenMetrics` requires exactly one space, any number of
//! spaces and tabs is accepted, because no other meaning is possible.

use crate::{
    fault::Reason,
    format::Format,
    limits::Limits,
    number::{self, NumberFault},
    span::{LabelSpan, Span},
};

/// A fault of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The byte of the line at which something else was expected.
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

pub(crate) type Parsed<T> = Result<T, Fault>;

pub(crate) fn fault<T>(at: usize, reason: Reason) -> Parsed<T> {
    Err(Fault { at, reason })
}

/// The part of a line after the labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tail {
    pub(crate) value: f64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) exemplar: bool,
}

impl Tail {
    pub(crate) fn plain(value: f64) -> Self {
        Self {
            value,
            timestamp_ms: None,
            exemplar: false,
        }
    }
}

pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Returns the first position from `at` on that is neither a space nor a tab.
pub(crate) fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while line.get(at).copied().is_some_and(is_blank) {
        at += 1;
    }
    at
}

/// Returns the end of the token at `at`.
pub(crate) fn token_end(line: &[u8], at: usize) -> usize {
    line[at..]
        .iter()
        .position(|byte| is_blank(*byte))
        .map_or(line.len(), |length| at + length)
}

/// Parses name and labels, and returns the name and the start of the value. The labels replace those in
/// `labels`, in the order of the line.
pub(crate) fn head(
    line: &[u8],
    limits: &Limits,
    labels: &mut Vec<LabelSpan>,
) -> Parsed<(Span, usize)> {
    labels.clear();
    let start = skip_blanks(line, 0);
    let end = name_end(line, start);
    let mut name = None;
    let mut at = end;
    if end > start {
        if end - start > limits.name_bytes {
            return fault(start, Reason::NameTooLong);
        }
        name = Some(Span::plain(start, end));
        at = skip_blanks(line, end);
        // A name alone is a valid name without a value.
        if at == line.len() {
            return fault(at, Reason::MissingValue);
        }
    }
    if line.get(at) == Some(&b'{') {
        at = braces(line, at + 1, limits, &mut name, labels)?;
    } else if end == start {
        return fault(start, Reason::InvalidName);
    } else if at == end {
        // The byte behind the name is neither blank nor brace: a name that is not valid.
        return fault(at, Reason::InvalidName);
    }
    let Some(name) = name else {
        return fault(start, Reason::MissingName);
    };
    let value_at = skip_blanks(line, at);
    if value_at == line.len() {
        return fault(value_at, Reason::MissingValue);
    }
    Ok((name, value_at))
}

/// Returns the end of an unquoted metric name; `at` if there is none.
pub(crate) fn name_end(line: &[u8], at: usize) -> usize {
    word_end(line, at, LETTER | COLON)
}

/// Returns the end of a word whose first byte is in these classes. The others may also be digits.
fn word_end(line: &[u8], at: usize, first: u8) -> usize {
    let is = |at: usize, classes: u8| {
        line.get(at)
            .is_some_and(|byte| CLASSES[*byte as usize] & classes != 0)
    };
    if !is(at, first) {
        return at;
    }
    let mut end = at + 1;
    while is(end, first | DIGIT) {
        end += 1;
    }
    end
}

const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const COLON: u8 = 4;

/// The class of each byte that an unquoted name may have.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => LETTER,
            b'0'..=b'9' => DIGIT,
            b':' => COLON,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Parses labels from behind the opening brace, and returns the position behind the closing one. A
/// string that no `=` follows is the metric's name.
fn braces(
    line: &[u8],
    mut at: usize,
    limits: &Limits,
    name: &mut Option<Span>,
    labels: &mut Vec<LabelSpan>,
) -> Parsed<usize> {
    loop {
        at = skip_blanks(line, at);
        match line.get(at) {
            // Also behind a comma: Prometheus accepts a trailing one.
            Some(b'}') => return Ok(at + 1),
            Some(_) => {}
            None => return fault(at, Reason::InvalidLabels),
        }
        let start = at;
        let (left, end) = label_name(line, at)?;
        if left.len() > limits.name_bytes {
            return fault(start, Reason::NameTooLong);
        }
        at = skip_blanks(line, end);
        let quoted = line[start] == b'"';
        if line.get(at) == Some(&b'=') {
            at = skip_blanks(line, at + 1);
            if line.get(at) != Some(&b'"') {
                return fault(at, Reason::InvalidLabels);
            }
            let (value, end) = string(line, at)?;
            if value.len() > limits.label_value_bytes {
                return fault(value.start, Reason::LabelValueTooLong);
            }
            // Checked before it is stored, or a hostile line would grow the list.
            if labels.len() == limits.labels_per_series {
                return fault(start, Reason::TooManyLabels);
            }
            labels.push(LabelSpan {
                name: left,
                value,
                at: start,
            });
            at = skip_blanks(line, end);
        } else if !quoted {
            return fault(at, Reason::InvalidLabels);
        } else if name.is_some() {
            return fault(start, Reason::InvalidName);
        } else {
            *name = Some(left);
        }
        match line.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => {}
            _ => return fault(at, Reason::InvalidLabels),
        }
    }
}

/// Parses a label's name, quoted or not, and returns it with the position behind it.
fn label_name(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    if line[at] == b'"' {
        let (span, end) = string(line, at)?;
        if span.is_empty() {
            return fault(at, Reason::InvalidLabelName);
        }
        return Ok((span, end));
    }
    let end = word_end(line, at, LETTER);
    if end == at {
        return fault(at, Reason::InvalidLabelName);
    }
    Ok((Span::plain(at, end), end))
}

/// Parses a string whose opening quote is at `at`, and returns it with the position behind it.
pub(crate) fn string(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    let start = at + 1;
    let mut escaped = false;
    let mut from = start;
    loop {
        let Some(end) = quote_or_backslash(line, from) else {
            return fault(at, Reason::InvalidLabels);
        };
        if line[end] == b'"' {
            let span = Span {
                start,
                end,
                escaped,
            };
            return Ok((span, end + 1));
        }
        escaped = true;
        // The escaped byte is skipped unseen: it may be a quote.
        from = end + 2;
        if from > line.len() {
            return fault(at, Reason::InvalidLabels);
        }
    }
}

/// Returns the position of the first quote or backslash from `at` on.
///
/// It compares eight bytes at a time: most label values are too short for a vectorized search to
/// pay for its setup.
#[inline]
fn quote_or_backslash(line: &[u8], mut at: usize) -> Option<usize> {
    let is = |word: u64, byte: u8| zero_bytes(word ^ (LOW * u64::from(byte)));
    while let Some(word) = line.get(at..)?.first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let found = is(word, b'"') | is(word, b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let mut rest = line.get(at..)?.iter();
    Some(at + rest.position(|byte| matches!(byte, b'"' | b'\\'))?)
}

/// The lowest bit of every byte.
const LOW: u64 = u64::from_le_bytes([1; 8]);

/// Sets the highest bit of the first zero byte, and of no byte before it.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & (LOW << 7)
}

/// Parses value, timestamp and exemplar. The value starts at `at`.
#[inline]
pub(crate) fn tail(
    line: &[u8],
    at: usize,
    format: Format,
    limits: &Limits,
    labels: &mut Vec<LabelSpan>,
) -> Parsed<Tail> {
    if let Some((value, length)) = number::plain(&line[at..])
        && at + length == line.len()
    {
        return Ok(Tail::plain(value));
    }
    tail_in_full(line, at, format, limits, labels)
}

#[inline(never)]
fn tail_in_full(
    line: &[u8],
    at: usize,
    format: Format,
    limits: &Limits,
    labels: &mut Vec<LabelSpan>,
) -> Parsed<Tail> {
    let end = token_end(line, at);
    let mut tail = Tail::plain(value(line, at, end)?);
    let mut at = skip_blanks(line, end);
    if at < line.len() && line[at] != b'#' {
        let end = token_end(line, at);
        tail.timestamp_ms = Some(timestamp(line, at, end, format)?);
        at = skip_blanks(line, end);
    }
    if at < line.len() {
        if line[at] != b'#' {
            return fault(at, Reason::TrailingData);
        }
        // In either format: OpenMetrics is also served under the older content type.
        exemplar(line, at, limits, labels)?;
        tail.exemplar = true;
    }
    Ok(tail)
}

fn value(line: &[u8], at: usize, end: usize) -> Parsed<f64> {
    number::full(&line[at..end]).or_else(|error| {
        fault(
            at,
            match error {
                NumberFault::Invalid => Reason::InvalidValue,
                NumberFault::OutOfRange => Reason::ValueOutOfRange,
            },
        )
    })
}

fn timestamp(line: &[u8], at: usize, end: usize, format: Format) -> Parsed<i64> {
    let token = &line[at..end];
    let milliseconds = match format {
        Format::Prometheus => number::milliseconds(token),
        Format::OpenMetrics => number::seconds(token),
    };
    milliseconds.map_or_else(|| fault(at, Reason::InvalidTimestamp), Ok)
}

/// Checks the exemplar that starts with the `#` at `at` and extends to the end of the line. Its
/// content is dropped.
fn exemplar(line: &[u8], at: usize, limits: &Limits, labels: &mut Vec<LabelSpan>) -> Parsed<()> {
    let invalid = |at| fault(at, Reason::InvalidExemplar);
    labels.clear();
    let open = skip_blanks(line, at + 1);
    if line.get(open) != Some(&b'{') {
        return invalid(open);
    }
    let mut name = None;
    let end = match braces(line, open + 1, limits, &mut name, labels) {
        Ok(end) if name.is_none() => end,
        Ok(_) => return invalid(open),
        Err(fault) => return invalid(fault.at),
    };
    let at = skip_blanks(line, end);
    let end = token_end(line, at);
    if number::full(&line[at..end]).is_err() {
        return invalid(at);
    }
    let at = skip_blanks(line, end);
    let end = token_end(line, at);
    if at < line.len() && number::seconds(&line[at..end]).is_none() {
        return invalid(at);
    }
    let at = skip_blanks(line, end);
    if at < line.len() {
        return fault(at, Reason::TrailingData);
    }
    Ok(())
}

/// Appends text and resolves `\\`, `\n` and, with `quotes`, `\"`. Any other backslash is kept as
/// written, as Prometheus does.
pub(crate) fn unescape(text: &str, quotes: bool, to: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        to.push_str(&rest[..at]);
        let unescaped = match rest.as_bytes().get(at + 1) {
            Some(b'\\') => "\\",
            Some(b'n') => "\n",
            Some(b'"') if quotes => "\"",
            _ => {
                to.push('\\');
                rest = &rest[at + 1..];
                continue;
            }
        };
        to.push_str(unescaped);
        rest = &rest[at + 2..];
    }
    to.push_str(rest);
}
