//! The fields of a protobuf message.

/// The error returned for bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be decoded: {0}")]
pub(in super::super) struct DecodeError(pub(super) &'static str);

/// No version uses groups, and skipping one that arrives in pieces is expensive.
pub(super) const GROUP: DecodeError = DecodeError("groups are not supported");
const TYPE: DecodeError = DecodeError("a field has the wrong type");
const KEY: DecodeError = DecodeError("a field has an invalid key");
const NUMBER: DecodeError = DecodeError("a varint is too long");
pub(super) const CUT: DecodeError = DecodeError("it ends inside a field");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A width that no field of the protocol has.
    Other,
}

impl<'a> Field<'a> {
    pub(super) fn varint(&self) -> Result<u64, DecodeError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            Value::Fixed64(_) | Value::Bytes(_) | Value::Other => Err(TYPE),
        }
    }

    pub(super) fn fixed64(&self) -> Result<u64, DecodeError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            Value::Varint(_) | Value::Bytes(_) | Value::Other => Err(TYPE),
        }
    }

    pub(super) fn bytes(&self) -> Result<&'a [u8], DecodeError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed64(_) | Value::Other => Err(TYPE),
        }
    }
}

/// Returns the first field and its length with the key, or `None` if it has not arrived whole.
#[inline]
pub(super) fn scan(bytes: &[u8]) -> Result<Option<(Field<'_>, usize)>, DecodeError> {
    let Some((key, key_length)) = varint(bytes)? else {
        return Ok(None);
    };
    // `prost` refuses the same keys.
    let key = u32::try_from(key).map_err(|_| KEY)?;
    let number = key >> 3;
    if number == 0 {
        return Err(KEY);
    }
    let rest = &bytes[key_length..];
    let (value, length) = match key & 7 {
        0 => match varint(rest)? {
            Some((value, length)) => (Value::Varint(value), length),
            None => return Ok(None),
        },
        1 => match rest.first_chunk::<8>() {
            Some(chunk) => (Value::Fixed64(u64::from_le_bytes(*chunk)), 8),
            None => return Ok(None),
        },
        2 => {
            let Some((length, length_length)) = varint(rest)? else {
                return Ok(None);
            };
            let length = usize::try_from(length).map_err(|_| NUMBER)?;
            // The length is only compared: nothing is reserved for what a peer claims.
            match rest[length_length..].get(..length) {
                Some(bytes) => (Value::Bytes(bytes), length_length + length),
                None => return Ok(None),
            }
        }
        5 => match rest.len() {
            0..4 => return Ok(None),
            _ => (Value::Other, 4),
        },
        3 | 4 => return Err(GROUP),
        _ => return Err(KEY),
    };
    let field = Field { number, value };
    Ok(Some((field, key_length + length)))
}

/// Returns a lower bound, at least 1, of the bytes missing from a first field that is not whole.
pub(super) fn missing(bytes: &[u8]) -> Result<usize, DecodeError> {
    let Some((key, key_length)) = varint(bytes)? else {
        return Ok(1);
    };
    if key & 7 != LENGTH {
        return Ok(1);
    }
    match varint(&bytes[key_length..])? {
        Some((length, length_length)) => {
            let whole = usize::try_from(length).unwrap_or(usize::MAX);
            let have = bytes.len() - key_length - length_length;
            Ok(whole.saturating_sub(have).max(1))
        }
        None => Ok(1),
    }
}

/// Iterates over the fields of a complete message.
pub(super) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<Field<'_>, DecodeError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let scanned = scan(bytes).and_then(|scanned| scanned.ok_or(CUT));
        // After an error nothing is left, so that it ends the iteration.
        let length = scanned.map_or(bytes.len(), |(_, length)| length);
        bytes = &bytes[length..];
        Some(scanned.map(|(field, _)| field))
    })
}

const LENGTH: u64 = 2;

/// Returns a varint and its length, or `None` if it has not arrived whole.
#[inline]
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
    match bytes.first() {
        Some(byte) if *byte < 0x80 => Ok(Some((u64::from(*byte), 1))),
        _ => long_varint(bytes),
    }
}

fn long_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        // Nine bytes hold 63 bits, so that one is left for the tenth.
        if index == 9 && *byte > 1 {
            return Err(NUMBER);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 10 {
        return Err(NUMBER);
    }
    Ok(None)
}
