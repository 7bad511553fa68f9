//! The chunks of Prometheus: times as differences of differences, values as changed bits.
//!
//! ```text
//!   chunk   := number of samples (16 bits), first, second?, other*
//!   first   := time (signed varint), value (64 bits)
//!   second  := step (varint), change
//!   other   := change of the step: 0 | 10 14 bits | 110 17 bits | 1110 20 bits | 1111 64 bits; change
//!   change  := 0 | 10, the bits of the range before | 11, leading zeros (5), length (6), bits
//! ```

use steadfast_wire::prometheus::Sample;

/// The most samples of a chunk, as Prometheus writes them.
pub(super) const CHUNK_SAMPLES: usize = 120;

/// Encodes at most [`CHUNK_SAMPLES`] samples that are sorted by time.
pub(super) fn encode(samples: &[Sample]) -> Vec<u8> {
    debug_assert!(samples.len() <= CHUNK_SAMPLES);
    let mut bits = Bits(Vec::with_capacity(32 + samples.len() * 2), 0);
    bits.put(samples.len() as u64, 16);
    let Some((first, rest)) = samples.split_first() else {
        return bits.0;
    };
    let zigzag = (first.timestamp << 1 ^ first.timestamp >> 63).cast_unsigned();
    bits.put_varint(zigzag);
    bits.put(first.value.to_bits(), 64);
    let (mut before, mut step, mut range) = (first, None, None);
    for sample in rest {
        let next = sample.timestamp.wrapping_sub(before.timestamp);
        match step {
            None => bits.put_varint(next as u64),
            Some(step) => bits.put_step_change(next.wrapping_sub(step)),
        }
        bits.put_value_change(before.value.to_bits() ^ sample.value.to_bits(), &mut range);
        (before, step) = (sample, Some(next));
    }
    bits.0
}

/// Bytes, and the number of bits of the last one that are free.
struct Bits(Vec<u8>, u32);

impl Bits {
    /// Appends the lowest `count` bits of a number.
    fn put(&mut self, number: u64, mut count: u32) {
        while count > 0 {
            if self.1 == 0 {
                self.0.push(0);
                self.1 = 8;
            }
            let taken = count.min(self.1);
            count -= taken;
            self.1 -= taken;
            let piece = (number >> count) as u8 & (0xff_u16 >> (8 - taken)) as u8;
            if let Some(last) = self.0.last_mut() {
                *last |= piece << self.1;
            }
        }
    }

    fn put_varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.put(number & 0x7f | 0x80, 8);
            number >>= 7;
        }
        self.put(number, 8);
    }

    fn put_step_change(&mut self, change: i64) {
        // The range of `n` bits is one higher than that of two's complement.
        let fits = |bits: u32| -(1 << (bits - 1)) < change && change <= 1 << (bits - 1);
        match change {
            0 => self.put(0, 1),
            _ if fits(14) => {
                self.put(0b10, 2);
                self.put(change as u64, 14);
            }
            _ if fits(17) => {
                self.put(0b110, 3);
                self.put(change as u64, 17);
            }
            _ if fits(20) => {
                self.put(0b1110, 4);
                self.put(change as u64, 20);
            }
            _ => {
                self.put(0b1111, 4);
                self.put(change as u64, 64);
            }
        }
    }

    /// Appends the changed bits of a value. `range` are the zeros before and behind the last range of bits.
    fn put_value_change(&mut self, change: u64, range: &mut Option<(u32, u32)>) {
        if change == 0 {
            self.put(0, 1);
            return;
        }
        // Five bits hold the leading zeros.
        let (leading, trailing) = (change.leading_zeros().min(31), change.trailing_zeros());
        if let Some((before, behind)) = *range
            && leading >= before
            && trailing >= behind
        {
            self.put(0b10, 2);
            self.put(change >> behind, 64 - before - behind);
            return;
        }
        *range = Some((leading, trailing));
        let length = 64 - leading - trailing;
        self.put(0b11, 2);
        self.put(leading.into(), 5);
        // 64 is written as 0, which no change has.
        self.put((length & 63).into(), 6);
        self.put(change >> trailing, length);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a chunk as Prometheus does.
    pub(crate) fn decode(chunk: &[u8]) -> Vec<(i64, u64)> {
        let mut at = 0;
        let mut take = |count: u32| {
            (0..count).fold(0_u64, |number, _| {
                let bit = chunk[at / 8] >> (7 - at % 8) & 1;
                at += 1;
                number << 1 | u64::from(bit)
            })
        };
        let count = take(16);
        let varint = |take: &mut dyn FnMut(u32) -> u64| {
            let (mut number, mut shift) = (0_u64, 0);
            loop {
                let byte = take(8);
                number |= (byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return number;
                }
            }
        };
        let (mut samples, mut step, mut range) = (Vec::new(), 0_i64, (0, 0));
        for n in 0..count {
            let Some((time, value)) = samples.last().copied() else {
                let time = varint(&mut take);
                samples.push((
                    (time >> 1).cast_signed() ^ -(time & 1).cast_signed(),
                    take(64),
                ));
                continue;
            };
            step = if n == 1 {
                varint(&mut take).cast_signed()
            } else {
                let ones = (0..4).take_while(|_| take(1) == 1).count();
                let bits = [0, 14, 17, 20, 64][ones];
                let mut change = take(bits).cast_signed();
                if bits < 64 && bits > 0 && change > 1 << (bits - 1) {
                    change -= 1 << bits;
                }
                step.wrapping_add(change)
            };
            let mut change = 0;
            if take(1) == 1 {
                if take(1) == 1 {
                    let (leading, length) = (take(5) as u32, take(6) as u32);
                    let length = if length == 0 { 64 } else { length };
                    range = (leading, 64 - leading - length);
                }
                change = take(64 - range.0 - range.1) << range.1;
            }
            samples.push((i64::wrapping_add(time, step), value ^ change));
        }
        samples
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let step = prop_oneof![
            Just(1_000_i64),
            990..1_010_i64,
            0..100_000_i64,
            any::<u32>().prop_map(i64::from),
        ];
        let value = prop_oneof![
            any::<u64>(),
            (0..50_u32).prop_map(|value| f64::from(value).to_bits()),
            Just(f64::NAN.to_bits()),
            Just(0x7ff0_0000_0000_0002),
        ];
        let first = prop_oneof![
            Just(1_767_225_600_000_i64),
            any::<i32>().prop_map(i64::from)
        ];
        let rest = prop::collection::vec((step, value), 0..=CHUNK_SAMPLES);
        (first, rest).prop_map(|(mut timestamp, rest)| {
            let sample = |(step, bits): (i64, u64)| {
                timestamp += step;
                let value = f64::from_bits(bits);
                Sample { value, timestamp }
            };
            rest.into_iter().map(sample).collect()
        })
    }

    proptest! {
        #[test]
        fn chunk_decodes_to_its_samples(samples in samples()) {
            let expected: Vec<_> = samples
                .iter()
                .map(|sample| (sample.timestamp, sample.value.to_bits()))
                .collect();
            assert_eq!(decode(&encode(&samples)), expected);
        }
    }

    #[test]
    fn regular_samples_take_two_bits_each() {
        let samples: Vec<Sample> = (0..120)
            .map(|n| Sample {
                value: 1.0,
                timestamp: 1_767_225_600_000 + n * 1_000,
            })
            .collect();
        let chunk = encode(&samples);
        // 2 for the number, 6 and 8 for the first sample, 2 and a bit for the second, 2 bits for others.
        assert_eq!(
            chunk.len(),
            (8 * (2 + 6 + 8 + 2) + 1 + 2 * 118_usize).div_ceil(8)
        );
        assert_eq!(chunk[..2], [0, 120]);
    }
}
