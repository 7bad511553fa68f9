//! The fields of an encoded message, whatever its type.

use prost::{
    bytes::Buf as _,
    encoding::{WireType, decode_key, decode_varint},
};

/// A field of an encoded message.
#[derive(Clone, Copy, Debug)]
pub struct RawField<'a> {
    /// The number.
    pub number: u32,
    /// The type on the wire.
    pub wire_type: WireType,
    /// The whole field, with its key.
    pub encoded: &'a [u8],
    /// The bytes after the key and the length. Empty for a varint.
    pub content: &'a [u8],
}

impl<'a> RawField<'a> {
    /// Reads the first field of `rest`, which is left after it; `None` if the bytes are no field, or a group,
    /// which no version of protobuf 3 writes.
    #[must_use]
    pub fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let message = *rest;
        let (number, wire_type) = decode_key(rest).ok()?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(rest).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(rest).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let content = rest.get(..length)?;
        rest.advance(length);
        Some(Self {
            number,
            wire_type,
            encoded: &message[..message.len() - rest.len()],
            content,
        })
    }
}
