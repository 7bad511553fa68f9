//! XOR compression of bit patterns, after Gorilla (Pelkonen et al., VLDB 2015): a zero bit for no
//! change, otherwise the changed bits, in the window of the last change if they fit into it.

use crate::bytes::Malformed;

/// A writer of bits, lowest first.
#[derive(Default)]
struct Bits {
    held: u128,
    count: u32,
}

impl Bits {
    fn put(&mut self, out: &mut Vec<u8>, value: u64, width: u32) {
        self.held |= u128::from(value) << self.count;
        self.count += width;
        if self.count >= 64 {
            out.extend_from_slice(&(self.held as u64).to_le_bytes());
            self.held >>= 64;
            self.count -= 64;
        }
    }

    fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.held as u64).to_le_bytes()[..self.count.div_ceil(8) as usize]);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    held: u128,
    count: u32,
}

impl Reader<'_> {
    fn take(&mut self, width: u32) -> Result<u64, Malformed> {
        while self.count < width {
            let (&byte, rest) = self.bytes.split_first().ok_or(Malformed)?;
            self.held |= u128::from(byte) << self.count;
            self.count += 8;
            self.bytes = rest;
        }
        // The mask would be a shift by 64, which overflows.
        let value = if width == 0 {
            0
        } else {
            self.held as u64 & (u64::MAX >> (64 - width))
        };
        self.held >>= width;
        self.count -= width;
        Ok(value)
    }
}

pub(super) fn put(out: &mut Vec<u8>, values: &[u64]) {
    let mut bits = Bits::default();
    let (mut before, mut low, mut width) = (0, 0, 0);
    for &value in values {
        let change = value ^ before;
        before = value;
        if change == 0 {
            bits.put(out, 0b0, 1);
            continue;
        }
        let (trailing, leading) = (change.trailing_zeros(), change.leading_zeros());
        let own = 64 - leading - trailing;
        // A new window costs 12 bits, so that it must save more than that.
        if trailing >= low && 64 - leading <= low + width && width < own + 12 {
            bits.put(out, 0b01, 2);
        } else {
            bits.put(out, 0b11, 2);
            bits.put(out, u64::from(trailing), 6);
            bits.put(out, u64::from(own - 1), 6);
            (low, width) = (trailing, own);
        }
        bits.put(out, change >> low, width);
    }
    bits.finish(out);
}

/// Appends `count` patterns to `values`, which must be all of `bytes`.
pub(super) fn read(bytes: &[u8], count: usize, values: &mut Vec<u64>) -> Result<(), Malformed> {
    let mut bits = Reader {
        bytes,
        held: 0,
        count: 0,
    };
    let (mut before, mut low, mut width) = (0, 0, 0);
    for _ in 0..count {
        if bits.take(1)? == 1 {
            if bits.take(1)? == 1 {
                low = bits.take(6)? as u32;
                width = bits.take(6)? as u32 + 1;
                // Only damage yields it. The shift below would drop the upper bits unnoticed.
                if low + width > 64 {
                    return Err(Malformed);
                }
            }
            before ^= bits.take(width)? << low;
        }
        values.push(before);
    }
    if bits.bytes.is_empty() {
        Ok(())
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn patterns_round_trip(values in proptest::collection::vec(
            proptest::prop_oneof![proptest::prelude::any::<u64>(), 0..3_u64, proptest::prelude::any::<u8>().prop_map(|v| f64::from(v).to_bits())],
            0..200,
        )) {
            let mut bytes = Vec::new();
            put(&mut bytes, &values);
            let mut back = Vec::new();
            read(&bytes, values.len(), &mut back).unwrap();
            assert_eq!(back, values);
        }
    }

    use proptest::strategy::Strategy;
}
