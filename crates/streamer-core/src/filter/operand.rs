//! The values of conditions, borrowed, in either of the two forms in which they are kept.

use super::{Number, Value};

/// The value of a condition, as it is compared: from a [`Value`], or from the bytes in which the matcher
/// keeps a million of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a> {
    Null,
    Text(&'a [u8]),
    Number(Number),
    Bool(bool),
    List(Elements<'a>),
}

/// The elements of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Elements<'a> {
    Values(&'a [Value]),
    /// A number of elements, and the bytes that begin with them.
    Encoded(usize, &'a [u8]),
}

impl<'a> Operand<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Text(text) => Self::Text(text.as_bytes()),
            Value::Int(int) => Self::Number((*int).into()),
            Value::Double(double) => Self::Number((*double).into()),
            Value::Bool(bool) => Self::Bool(*bool),
            Value::List(elements) => Self::List(Elements::Values(elements)),
        }
    }

    /// Returns the value as one that owns its parts.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            Self::Number(number) => number.to_value(),
            Self::Bool(bool) => Value::Bool(bool),
            Self::List(elements) => {
                Value::List(elements.into_iter().map(Operand::to_value).collect())
            }
        }
    }

    /// Appends the value as bytes. Values have the same bytes if and only if they are equal.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.push(NULL),
            Self::Text(text) => {
                out.push(TEXT);
                // The length first, so that no text can be taken for the beginning of the next
                // value.
                encode_number(text.len(), out);
                out.extend_from_slice(text);
            }
            Self::Number(number) => {
                // An `i64` wins whenever it is exact, so that equal numbers have equal bytes.
                if let Number::Whole(whole) = number
                    && let Ok(int) = i64::try_from(whole)
                {
                    out.push(INT);
                    out.extend_from_slice(&int.to_le_bytes());
                } else {
                    // It came as a double, because it is not an `i64`.
                    out.push(DOUBLE);
                    out.extend_from_slice(&number.to_f64().to_le_bytes());
                }
            }
            Self::Bool(bool) => out.push(if bool { TRUE } else { FALSE }),
            Self::List(elements) => {
                Self::encode_list_header(elements.len(), out);
                for element in elements {
                    element.encode(out);
                }
            }
        }
    }

    /// Appends what stands before so many encoded elements.
    pub(crate) fn encode_list_header(len: usize, out: &mut Vec<u8>) {
        out.push(LIST);
        encode_number(len, out);
    }

    /// Reads a value at the beginning of `bytes`, and moves them to what follows it. `None` if they do not
    /// begin with a value.
    pub(crate) fn decode(bytes: &mut &'a [u8]) -> Option<Self> {
        Some(match *bytes.split_off_first()? {
            NULL => Self::Null,
            TEXT => {
                let len = decode_number(bytes)?;
                Self::Text(bytes.split_off(..len)?)
            }
            INT => Self::Number(i64::from_le_bytes(eight(bytes)?).into()),
            DOUBLE => Self::Number(f64::from_le_bytes(eight(bytes)?).into()),
            TRUE => Self::Bool(true),
            FALSE => Self::Bool(false),
            LIST => {
                let len = decode_number(bytes)?;
                // The elements stay encoded; they are only passed over to find the end.
                let elements = Elements::Encoded(len, bytes);
                for _ in 0..len {
                    Self::decode(bytes)?;
                }
                Self::List(elements)
            }
            _ => return None,
        })
    }
}

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const INT: u8 = 2;
const DOUBLE: u8 = 3;
const TEXT: u8 = 4;
const LIST: u8 = 5;
const NULL: u8 = 6;

impl Elements<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Encoded(len, _) => len,
        }
    }
}

impl<'a> IntoIterator for Elements<'a> {
    type Item = Operand<'a>;
    type IntoIter = ElementsIter<'a>;

    fn into_iter(self) -> ElementsIter<'a> {
        ElementsIter(self)
    }
}

/// Reads the elements of a list one by one.
#[derive(Debug)]
pub(crate) struct ElementsIter<'a>(Elements<'a>);

impl<'a> Iterator for ElementsIter<'a> {
    type Item = Operand<'a>;

    fn next(&mut self) -> Option<Operand<'a>> {
        match &mut self.0 {
            Elements::Values(values) => values.split_off_first().map(Operand::of),
            Elements::Encoded(len, bytes) => {
                *len = len.checked_sub(1)?;
                Operand::decode(bytes)
            }
        }
    }
}

/// Appends a number in groups of seven bits, the lowest first.
pub(crate) fn encode_number(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads what [`encode_number`] appended.
pub(crate) fn decode_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    // Bounded by the width, so that damaged bytes give `None` and no overflow.
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn eight(bytes: &mut &[u8]) -> Option<[u8; 8]> {
    bytes.split_off(..8)?.try_into().ok()
}
