//! The grammar of a sample's line.
//!
//! ```text
//! name {label="value", "any label"="value"} value timestamp # {label="value"} value timestamp
//! {"any name", label="value"} value
//! ```
//!
//! Both formats are read by this one grammar. Where `OpenMetrics` asks for exactly one space, any
//! number of spaces and tabs is taken, since it cannot mean anything else.

use crate::{
    fault::Reason,
    format::Format,
    limits::Limits,
    number::{self, NumberFault},
};

/// What is wrong, and before which byte of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

pub(crate) type Parsed<T> = Result<T, Fault>;

pub(crate) fn fault<T>(at: usize, reason: Reason) -> Parsed<T> {
    Err(Fault { at, reason })
}

/// A piece of the line, without quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether it has escapes to resolve.
    pub(crate) escaped: bool,
}

impl Span {
    /// A piece without escapes.
    pub(crate) fn plain(start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            escaped: false,
        }
    }

    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }
}

/// A label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSpan {
    pub(crate) name: Span,
    pub(crate) value: Span,
    /// Where it begins on its line.
    pub(crate) at: usize,
}

/// Name and labels of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) name: Span,
    /// Where the value begins.
    pub(crate) value_at: usize,
}

/// What follows the labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tail {
    pub(crate) value: f64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) exemplar: bool,
}

pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Past spaces and tabs.
pub(crate) fn skip_blanks(line: &[u8], mut at: usize) -> usize {
    while line.get(at).copied().is_some_and(is_blank) {
        at += 1;
    }
    at
}

/// The end of the token at `at`.
pub(crate) fn token_end(line: &[u8], at: usize) -> usize {
    line[at..]
        .iter()
        .position(|byte| is_blank(*byte))
        .map_or(line.len(), |length| at + length)
}

/// Reads name and labels; the labels go into `labels`, in the order of the line.
pub(crate) fn head(line: &[u8], limits: &Limits, labels: &mut Vec<LabelSpan>) -> Parsed<Head> {
    labels.clear();
    let start = skip_blanks(line, 0);
    let end = name_end(line, start);
    let mut name = None;
    let mut at = end;
    if end > start {
        if end - start > limits.name_bytes {
            return fault(start, Reason::NameTooLong);
        }
        name = Some(Span {
            start,
            end,
            escaped: false,
        });
        at = skip_blanks(line, end);
        if at == line.len() {
            return fault(at, Reason::MissingValue);
        }
    }
    if line.get(at) == Some(&b'{') {
        at = braces(line, at + 1, limits, &mut name, labels)?;
    } else if end == start {
        return fault(start, Reason::InvalidName);
    } else if at == end {
        return fault(at, Reason::InvalidName);
    }
    let Some(name) = name else {
        return fault(start, Reason::MissingName);
    };
    let value_at = skip_blanks(line, at);
    if value_at == line.len() {
        return fault(value_at, Reason::MissingValue);
    }
    Ok(Head { name, value_at })
}

/// The end of a metric's name that stands without quotes; `at` if there is none.
pub(crate) fn name_end(line: &[u8], at: usize) -> usize {
    word_end(line, at, LETTER | COLON)
}

/// The end of a word whose first byte is of these classes, and the others digits as well.
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

/// The class of each byte that can stand in a name without quotes.
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

/// Reads what stands in braces, from behind the opening one to behind the closing one. A string
/// without `=` after it is the metric's name.
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
            Some(b'}') => return Ok(at + 1),
            Some(_) => {}
            None => return fault(at, Reason::InvalidLabels),
        }
        let start = at;
        let (left, end) = label_name(line, at)?;
        if left.end - left.start > limits.name_bytes {
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
            if value.end - value.start > limits.label_value_bytes {
                return fault(value.start, Reason::LabelValueTooLong);
            }
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

/// A label's name, in quotes or not, and where it ends.
fn label_name(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    if line[at] == b'"' {
        let (span, end) = string(line, at)?;
        if span.start == span.end {
            return fault(at, Reason::InvalidLabelName);
        }
        return Ok((span, end));
    }
    let end = word_end(line, at, LETTER);
    if end == at {
        return fault(at, Reason::InvalidLabelName);
    }
    let span = Span {
        start: at,
        end,
        escaped: false,
    };
    Ok((span, end))
}

/// A string in quotes, of which the first is at `at`, and where it ends.
pub(crate) fn string(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    let start = at + 1;
    let mut escaped = false;
    let mut from = start;
    loop {
        let Some(length) = memchr::memchr2(b'"', b'\\', &line[from..]) else {
            return fault(at, Reason::InvalidLabels);
        };
        let end = from + length;
        if line[end] == b'"' {
            let span = Span {
                start,
                end,
                escaped,
            };
            return Ok((span, end + 1));
        }
        escaped = true;
        from = end + 2;
        if from > line.len() {
            return fault(at, Reason::InvalidLabels);
        }
    }
}

/// Where a text without escapes ends, which begins at `at`, behind its quote; none if its line ends
/// before. Most are shorter than what a vector is worth.
#[inline]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let is = |word: u64, byte: u8| zero_bytes(word ^ (LOW * u64::from(byte)));
    while let Some(word) = bytes.get(at..)?.first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let found = is(word, b'"') | is(word, b'\\') | is(word, b'\n');
        if found != 0 {
            at += found.trailing_zeros() as usize / 8;
            return (bytes[at] == b'"').then_some(at);
        }
        at += 8;
    }
    let mut rest = bytes.get(at..)?.iter();
    let found = rest.position(|byte| matches!(byte, b'"' | b'\\' | b'\n'))?;
    (bytes[at + found] == b'"').then_some(at + found)
}

/// The lowest bit of every byte.
const LOW: u64 = u64::from_le_bytes([1; 8]);

/// The highest bit of bytes that are zero: of the first that is, and of none before it.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & (LOW << 7)
}

/// Reads value, timestamp and exemplar from `at`, where the value begins.
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
        return Ok(Tail {
            value,
            timestamp_ms: None,
            exemplar: false,
        });
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
    let mut tail = Tail {
        value: 0.0,
        timestamp_ms: None,
        exemplar: false,
    };
    let end = token_end(line, at);
    tail.value = value(line, at, end, format)?;
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
        exemplar(line, at, limits, labels)?;
        tail.exemplar = true;
    }
    Ok(tail)
}

/// The older format leaves numbers to Go, which knows hexadecimal floats.
pub(crate) fn hexadecimal(format: Format) -> bool {
    format == Format::Prometheus
}

fn value(line: &[u8], at: usize, end: usize, format: Format) -> Parsed<f64> {
    number::full(&line[at..end], hexadecimal(format)).or_else(|wrong| {
        fault(
            at,
            match wrong {
                NumberFault::NotOne => Reason::InvalidValue,
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

/// Reads an exemplar, whose `#` is at `at`, to the end of the line. It is kept nowhere; it is read
/// so that what is not one is not taken for one.
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
        Err(wrong) => return invalid(wrong.at),
    };
    let at = skip_blanks(line, end);
    let end = token_end(line, at);
    if number::full(&line[at..end], false).is_err() {
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

/// An empty text with room for so many bytes, made of one that may have less.
pub(crate) fn make_room(text: &mut String, bytes: usize) {
    text.clear();
    if text.capacity() < bytes {
        // The old one is given back before there is a new one.
        *text = String::new();
        text.reserve_exact(bytes);
    }
}

/// Bytes of room for texts that are resolved that are kept whether they are needed or not.
const RESOLVED_KEPT: usize = 4 << 10;

/// Gives back what a long line took.
pub(crate) fn give_back(text: &mut String) {
    if text.capacity() > RESOLVED_KEPT {
        *text = String::new();
    }
}

/// Appends text with `\\`, `\n` and, if asked for, `\"` resolved. Any other backslash stays as it
/// is written, as Prometheus reads it.
pub(crate) fn unescape(text: &str, quotes: bool, to: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        to.push_str(&rest[..at]);
        let resolved = match rest.as_bytes().get(at + 1) {
            Some(b'\\') => "\\",
            Some(b'n') => "\n",
            Some(b'"') if quotes => "\"",
            _ => {
                to.push('\\');
                rest = &rest[at + 1..];
                continue;
            }
        };
        to.push_str(resolved);
        rest = &rest[at + 2..];
    }
    to.push_str(rest);
}
