//! The fields of an encoded message.

use super::MalformedObject;

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) value: Value<'a>,
    /// The field as it is encoded, with its key.
    pub(super) encoded: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// A number.
    Other,
}

/// Returns the fields in their order, up to the first error.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<Field<'_>, MalformedObject>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = split_field(rest);
        rest = field.map_or(&[], |(_, rest)| rest);
        Some(field.map(|(field, _)| field).ok_or(MalformedObject))
    })
}

fn split_field(encoded: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = split_varint(encoded)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
    let (value, rest) = match key & 7 {
        0 => (Value::Other, split_varint(rest)?.1),
        1 => (Value::Other, rest.split_at_checked(8)?.1),
        2 => {
            let (length, rest) = split_varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(bytes), rest)
        }
        5 => (Value::Other, rest.split_at_checked(4)?.1),
        // Groups: no version of the database uses them.
        _ => return None,
    };
    let encoded = &encoded[..encoded.len() - rest.len()];
    let field = Field {
        number,
        value,
        encoded,
    };
    Some((field, rest))
}

fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 + bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (varint, rest) = bytes.split_at(length);
    let value = varint
        .iter()
        .rev()
        .fold(0, |value: u64, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, rest))
}

/// Appends a field with bytes.
pub(super) fn write_bytes(number: u32, bytes: &[u8], to: &mut Vec<u8>) {
    write_varint(u64::from(number << 3 | 2), to);
    write_varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

fn write_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}
