//! Bit packing of integers by block: a block has its least value, and for each integer its distance to
//! that, in as many bits as the largest distance needs.

use crate::bytes::{Input, Malformed, put_signed, unzigzag, varint_len, zigzag};

/// Integers per block. An outlier widens its own block only.
const BLOCK: usize = 128;

/// Returns the number of bytes that [`put_packed`] writes for `values`.
pub(super) fn packed_len(values: &[i64]) -> usize {
    values
        .chunks(BLOCK)
        .map(|block| {
            let (least, width) = frame(block);
            varint_len(zigzag(least)) + 1 + (block.len() * width as usize).div_ceil(8)
        })
        .sum()
}

pub(super) fn put_packed(out: &mut Vec<u8>, values: &[i64]) {
    for block in values.chunks(BLOCK) {
        let (least, width) = frame(block);
        put_signed(out, least);
        out.push(width as u8);
        // Equal integers need no bits.
        if width > 0 {
            put_bits(
                out,
                width,
                block
                    .iter()
                    .map(|value| value.wrapping_sub(least).cast_unsigned()),
            );
        }
    }
}

/// Appends `count` integers to `values`.
pub(super) fn read_packed(
    input: &mut Input<'_>,
    count: usize,
    values: &mut Vec<i64>,
) -> Result<(), Malformed> {
    let mut left = count;
    while left > 0 {
        let block = left.min(BLOCK);
        let least = unzigzag(input.varint()?);
        let width = u32::from(input.byte()?);
        if width > 64 {
            return Err(Malformed);
        }
        if width == 0 {
            values.resize(values.len() + block, least);
        } else {
            let bytes = input.take((block * width as usize).div_ceil(8))?;
            read_bits(bytes, width, block, |bits| {
                values.push(least.wrapping_add(bits.cast_signed()));
            });
        }
        left -= block;
    }
    Ok(())
}

/// Returns the least value of a block, and the bits of the largest distance to it.
fn frame(block: &[i64]) -> (i64, u32) {
    let least = block.iter().copied().min().unwrap_or_default();
    let most = block.iter().copied().max().unwrap_or_default();
    (
        least,
        64 - most.wrapping_sub(least).cast_unsigned().leading_zeros(),
    )
}

fn put_bits(out: &mut Vec<u8>, width: u32, values: impl Iterator<Item = u64>) {
    // Up to 63 bits are held when the next 64 arrive.
    let (mut held, mut bits) = (0_u128, 0);
    for value in values {
        held |= u128::from(value) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(held as u64).to_le_bytes());
            held >>= 64;
            bits -= 64;
        }
    }
    out.extend_from_slice(&(held as u64).to_le_bytes()[..bits.div_ceil(8) as usize]);
}

fn read_bits(bytes: &[u8], width: u32, count: usize, mut take: impl FnMut(u64)) {
    let mask = u64::MAX >> (64 - width);
    let mut index = 0;
    if width <= 56 {
        // Any eight bytes hold at least 57 bits from a bit offset in the first byte on.
        while index < count {
            let bit = index * width as usize;
            let Some(window) = bytes.get(bit / 8..bit / 8 + 8) else {
                break;
            };
            let window = u64::from_le_bytes(window.try_into().expect("the slice has eight bytes"));
            take((window >> (bit % 8)) & mask);
            index += 1;
        }
    }
    // The last values, and wide ones: nine bytes hold 64 bits at any bit offset.
    for index in index..count {
        let bit = index * width as usize;
        let mut window = 0_u128;
        for (at, byte) in bytes[bit / 8..].iter().take(9).enumerate() {
            window |= u128::from(*byte) << (8 * at);
        }
        take((window >> (bit % 8)) as u64 & mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn integers_of_any_width_round_trip(
            values in proptest::collection::vec(proptest::prelude::any::<i64>(), 0..300),
            shift in 0..64_u32,
        ) {
            let values: Vec<i64> = values.iter().map(|value| value >> shift).collect();
            let mut bytes = Vec::new();
            put_packed(&mut bytes, &values);
            assert_eq!(bytes.len(), packed_len(&values));
            let mut back = Vec::new();
            let mut input = Input::new(&bytes);
            read_packed(&mut input, values.len(), &mut back).unwrap();
            assert!(input.is_empty());
            assert_eq!(back, values);
        }
    }
}
