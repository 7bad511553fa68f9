//! The text form of filters: `age >= 18`.

use std::{fmt, str::FromStr};

use serde_json::Value as Json;

use super::{
    Condition, FieldPath, Filter, FilterFault, InvalidValue, Op, Value, document::without_location,
};

/// A text that is not a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidText {
    /// The index of the text, from 0.
    pub index: usize,
    /// The text.
    pub text: String,
    /// The character at which the fault is, from 1.
    pub column: usize,
    /// The reason.
    pub fault: TextFault,
}

/// The reason why a text is not a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// The text does not begin with a field.
    #[error("expected a field, as in `age >= 18`")]
    NoField,
    /// The text goes on after a field that stands alone.
    #[error("expected one field; quote the keys that contain blanks, dots or one of = ! < >")]
    AfterField,
    /// An operator was expected and this was found.
    #[error("expected one of == != > >= < <= in contains, found {0:?}")]
    NoOperator(String),
    /// The text ends after the operator.
    #[error("expected a value: a JSON string, number, boolean, null or list, or one plain word")]
    NoValue,
    /// A value of several words has no quotes.
    #[error("a text of several words needs double quotes")]
    Unquoted,
    /// The value looks like a number but is not a JSON number.
    #[error("this is not a JSON number; put it in double quotes if text is meant")]
    NotANumber,
    /// A text in single quotes does not end with one, or has one inside.
    #[error("a text in single quotes has none inside and ends with one; use double quotes")]
    SingleQuotes,
    /// Backquotes have no meaning.
    #[error("backquotes are not understood; use double quotes")]
    Backquotes,
    /// The value begins like JSON but is not JSON.
    #[error("this is not JSON: {0}")]
    NotJson(String),
    /// The value is JSON that a filter cannot hold.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// The condition is well formed but not allowed.
    #[error(transparent)]
    Filter(FilterFault),
}

impl Filter {
    /// Reads conditions of the form `field op value`, one per text.
    ///
    /// * The field is a path of keys, separated by dots. It ends at the first blank or at one of
    ///   `= ! < >`; a key with such characters, or with a dot, is written as a JSON string: `"a.b".c`.
    /// * Both spellings of operators are read.
    /// * The value is JSON (a string, number, boolean, null, or list), or a string in single quotes, without
    ///   escapes. One word that is not JSON and does not look like a number is a string.
    ///
    /// # Errors
    ///
    /// At the first text that is not a condition, or whose condition [`Filter::new`] refuses. The error
    /// names the character.
    pub fn from_text<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidText> {
        let mut read = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let text = text.as_ref();
            let (condition, value_at) =
                condition(text).map_err(|(at, fault)| InvalidText::new(index, text, at, fault))?;
            // Kept with its text: `new` knows the index of a fault but not the column.
            read.push((condition, text.to_owned(), value_at));
        }
        Self::new(read.iter().map(|(condition, ..)| condition.clone())).map_err(|invalid| {
            let (_, text, value_at) = &read[invalid.index];
            InvalidText::new(
                invalid.index,
                text,
                *value_at,
                TextFault::Filter(invalid.fault),
            )
        })
    }
}

impl FromStr for FieldPath {
    type Err = TextFault;

    /// Reads the text form, in which keys with dots, blanks or one of `= ! < >` are JSON strings.
    fn from_str(text: &str) -> Result<Self, TextFault> {
        let (path, end) = path(text).map_err(|(_, fault)| fault)?;
        if end == text.len() {
            Ok(path)
        } else {
            Err(TextFault::AfterField)
        }
    }
}

impl InvalidText {
    fn new(index: usize, text: &str, at: usize, fault: TextFault) -> Self {
        Self {
            index,
            text: text.to_owned(),
            // Characters and not bytes: people count what they see.
            column: text[..at].chars().count() + 1,
            fault,
        }
    }
}

impl fmt::Display for InvalidText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.index + 1;
        let Self { text, column, .. } = self;
        write!(
            f,
            "filter {number} ({text:?}), column {column}: {}",
            self.fault
        )
    }
}

impl std::error::Error for InvalidText {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The text above already says what the fault says.
        None
    }
}

/// The byte at which a fault is, and the fault.
type Fault = (usize, TextFault);

/// Reads a condition; returns it and the byte at which its value begins.
fn condition(text: &str) -> Result<(Condition, usize), Fault> {
    let field_at = skip_blanks(text, 0);
    let (field, length) = path(&text[field_at..]).map_err(|(at, fault)| (field_at + at, fault))?;
    let op_at = skip_blanks(text, field_at + length);
    let op_end = op_at + op_length(&text[op_at..]);
    let op: Op = text[op_at..op_end]
        .parse()
        .map_err(|_| (op_at, TextFault::NoOperator(text[op_at..op_end].to_owned())))?;
    let value_at = skip_blanks(text, op_end);
    let value = value(&text[value_at..]).map_err(|(at, fault)| (value_at + at, fault))?;
    Ok((Condition { field, op, value }, value_at))
}

/// Reads a path at the beginning of a text, and returns the byte after it.
fn path(text: &str) -> Result<(FieldPath, usize), Fault> {
    let mut keys = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with('"') {
            // A stream, because the string is followed by the rest of the condition.
            let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            match strings.next() {
                Some(Ok(key)) => keys.push(key),
                Some(Err(error)) => {
                    return Err((at, TextFault::NotJson(without_location(&error))));
                }
                None => return Err((at, TextFault::NoField)),
            }
            at += strings.byte_offset();
        } else if rest.starts_with('`') {
            // As a key it would be a name with backquotes, which matches nothing.
            return Err((at, TextFault::Backquotes));
        } else {
            let ends = |c: char| c == '.' || c.is_whitespace() || is_symbol(c);
            let length = rest.find(ends).unwrap_or(rest.len());
            keys.push(rest[..length].to_owned());
            at += length;
        }
        if !text[at..].starts_with('.') {
            break;
        }
        at += 1;
    }
    if at == 0 {
        return Err((0, TextFault::NoField));
    }
    Ok((FieldPath::from_keys(keys), at))
}

fn value(text: &str) -> Result<Value, Fault> {
    let text = text.trim_end();
    if text.is_empty() {
        return Err((0, TextFault::NoValue));
    }
    let error = match serde_json::from_str::<Json>(text) {
        Ok(json) => return Value::try_from(&json).map_err(|invalid| (0, invalid.into())),
        Err(error) => error,
    };
    // It was meant as JSON. Taken for a word, a missing quote would become part of the text.
    if text.starts_with(['"', '[', '{']) {
        return Err((
            byte_of(text, &error),
            TextFault::NotJson(without_location(&error)),
        ));
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let inner = rest
            .strip_suffix('\'')
            .filter(|inner| !inner.contains('\''));
        let inner = inner.ok_or((0, TextFault::SingleQuotes))?;
        return Ok(Value::Text(inner.to_owned()));
    }
    if text.starts_with('`') {
        return Err((0, TextFault::Backquotes));
    }
    // A forgotten operator or quote looks like this; as one text it would match nothing.
    if let Some(blank) = text.find(char::is_whitespace) {
        return Err((blank, TextFault::Unquoted));
    }
    // The author of `1e999` or `.5` means a number. As text, the condition would silently never match.
    if looks_like_a_number(text) {
        return Err((0, TextFault::NotANumber));
    }
    Ok(Value::Text(text.to_owned()))
}

/// Returns true for what is a number elsewhere, such as `.5`, `1e999` and `1_000`.
fn looks_like_a_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-', '.']);
    text.parse::<f64>().is_ok()
        || digits.starts_with(|c: char| c.is_ascii_digit())
            && text.replace('_', "").parse::<f64>().is_ok()
}

/// Returns the length of the operator. Symbols end at the first other character, so that `age>=18`
/// needs no blanks; words end where a value can begin.
fn op_length(text: &str) -> usize {
    let end = if text.starts_with(is_symbol) {
        text.find(|c| !is_symbol(c))
    } else {
        // `in["a"]` needs no blank.
        text.find(|c: char| c.is_whitespace() || c == '[' || c == '"')
    };
    end.unwrap_or(text.len())
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '<' | '>')
}

fn skip_blanks(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start().len()
}

/// Returns the byte that the parser's error is about, moved to the beginning of its character.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let line = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    // The column of `serde_json` counts bytes within the line, and may lie inside a character.
    let byte = line.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    (0..=byte.min(text.len()))
        .rev()
        .find(|&byte| text.is_char_boundary(byte))
        .unwrap_or(0)
}
