//! Filters as people write them: `age >= 18`.

use std::fmt;

use serde_json::Value as Json;

use super::{Condition, Filter, FilterFault, InvalidValue, Op, Value, document::without_place};

/// A text that is no condition: which one, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidText {
    /// Index of the text, from 0.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Character of the text at which the fault is, from 1.
    pub column: usize,
    /// What is wrong there.
    pub fault: TextFault,
}

/// What is wrong with the text of a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// It does not begin with a field.
    #[error("expected a field, as in `age >= 18`")]
    NoField,
    /// There is no operator where one should be, but this.
    #[error("expected one of == != > >= < <= in contains, found {0:?}")]
    NoOperator(String),
    /// It ends after the operator.
    #[error("expected a value: a JSON string, number, boolean or list, or one plain word")]
    NoValue,
    /// Text of several words stands without quotes.
    #[error("a text of several words needs double quotes")]
    Unquoted,
    /// It looks like a number and is none that JSON has.
    #[error("this is not a JSON number; put it in double quotes if text is meant")]
    NotANumber,
    /// It begins like JSON and is not.
    #[error("this is not JSON: {0}")]
    NotJson(String),
    /// It is JSON that no filter can carry.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// The condition was understood, and is refused.
    #[error(transparent)]
    Filter(FilterFault),
}

impl Filter {
    /// Reads conditions of the form `field op value`, one per text; all must hold.
    ///
    /// * The field ends at the first blank or at one of `= ! < >`; a field with such characters is
    ///   written as a JSON string.
    /// * The operator is taken in both spellings.
    /// * The value is JSON (a string, number, boolean, or list). One word that is not JSON and
    ///   does not look like a number is a string.
    ///
    /// # Errors
    ///
    /// At the first text that is no condition, or is one that [`Filter::new`] refuses. The error
    /// points at the character.
    pub fn from_text<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidText> {
        let mut read = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let text = text.as_ref();
            let (condition, value_at) =
                condition(text).map_err(|(at, fault)| InvalidText::new(index, text, at, fault))?;
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

impl InvalidText {
    fn new(index: usize, text: &str, at: usize, fault: TextFault) -> Self {
        Self {
            index,
            text: text.to_owned(),
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

/// A fault and the byte at which it is.
type Fault = (usize, TextFault);

/// The condition, and the byte at which its value begins.
fn condition(text: &str) -> Result<(Condition, usize), Fault> {
    let field_at = skip_blanks(text, 0);
    let (field, field_end) = field(text, field_at)?;
    let op_at = skip_blanks(text, field_end);
    let op_end = op_at + op_length(&text[op_at..]);
    let op: Op = text[op_at..op_end]
        .parse()
        .map_err(|_| (op_at, TextFault::NoOperator(text[op_at..op_end].to_owned())))?;
    let value_at = skip_blanks(text, op_end);
    let value = value(&text[value_at..]).map_err(|(at, fault)| (value_at + at, fault))?;
    Ok((Condition { field, op, value }, value_at))
}

fn field(text: &str, at: usize) -> Result<(String, usize), Fault> {
    let rest = &text[at..];
    if rest.starts_with('"') {
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        return match strings.next() {
            Some(Ok(field)) => Ok((field, at + strings.byte_offset())),
            Some(Err(error)) => Err((at, TextFault::NotJson(without_place(&error)))),
            None => Err((at, TextFault::NoField)),
        };
    }
    let length = rest
        .find(|c: char| c.is_whitespace() || is_symbol(c))
        .unwrap_or(rest.len());
    if length == 0 {
        return Err((at, TextFault::NoField));
    }
    Ok((rest[..length].to_owned(), at + length))
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
    if text.starts_with(['"', '[', '{']) {
        return Err((
            byte_of(text, &error),
            TextFault::NotJson(without_place(&error)),
        ));
    }
    if let Some(blank) = text.find(char::is_whitespace) {
        return Err((blank, TextFault::Unquoted));
    }
    // `1e999` and `.5` are numbers to whoever writes them; as text they would quietly never match.
    if text.parse::<f64>().is_ok() {
        return Err((0, TextFault::NotANumber));
    }
    Ok(Value::Text(text.to_owned()))
}

/// Symbols stand alone, so `age>=18` needs no blanks; words end where a value can begin.
fn op_length(text: &str) -> usize {
    let end = if text.starts_with(is_symbol) {
        text.find(|c| !is_symbol(c))
    } else {
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

/// The byte the JSON parser complains about, moved to the beginning of its character.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let line = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    let byte = line.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
    (0..=byte.min(text.len()))
        .rev()
        .find(|&byte| text.is_char_boundary(byte))
        .unwrap_or(0)
}
