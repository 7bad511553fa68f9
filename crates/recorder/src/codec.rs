//! One series' values over the scrapes of a chunk, in as few bytes as they need, bit for bit.
//!
//! First what does not change is left out: a column is the places of its changes and the values
//! there. Those are integers whenever moving the decimal point makes all of them integers, and are
//! then kept as the shortest of varint differences, packed values, packed differences and packed
//! differences of differences; otherwise their bit patterns are kept as they are or as what changed
//! in them. What stays large goes through pco as well, and the smaller one is kept.

mod decimal;
mod entropy;
mod pack;
mod xor;

use crate::bytes::{Input, Malformed, put_count, put_signed, varint_len, zigzag};

/// Where the values of a column stand. The low two bits of a chunk's first byte.
mod places {
    /// One value, everywhere.
    pub(super) const ONE: u8 = 0;
    /// At the changes; the distances between them follow.
    pub(super) const GAPS: u8 = 1;
    /// At the changes; a bit per place follows.
    pub(super) const BITMAP: u8 = 2;
    /// One at every place.
    pub(super) const ALL: u8 = 3;
}

/// How the values are written. Bits 2 to 5 of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Patterns = 0,
    Xor = 1,
    FloatEntropy = 2,
    Varints = 3,
    Packed = 4,
    Differences = 5,
    SecondDifferences = 6,
    IntegerEntropy = 7,
}

impl Method {
    const ALL: [Self; 8] = [
        Self::Patterns,
        Self::Xor,
        Self::FloatEntropy,
        Self::Varints,
        Self::Packed,
        Self::Differences,
        Self::SecondDifferences,
        Self::IntegerEntropy,
    ];
}

/// Below this many bytes pco is not asked; its fixed cost in time is not worth what it may save.
const ENTROPY_FROM: usize = 64;

/// Encodes columns; holds the room it works in.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    changes: Vec<u64>,
    gaps: Vec<i64>,
    integers: Vec<i64>,
    differences: Vec<i64>,
    sparse: Vec<u8>,
    dense: Vec<u8>,
    floats: Vec<f64>,
    trial: Vec<u8>,
}

impl Encoder {
    /// Appends the chunk of `values`, of which there is at least one.
    pub(crate) fn encode(&mut self, values: &[u64], out: &mut Vec<u8>) {
        let (mut changes, mut gaps) = (
            std::mem::take(&mut self.changes),
            std::mem::take(&mut self.gaps),
        );
        changes.clear();
        gaps.clear();
        changes.push(values[0]);
        let mut last = 0;
        for (at, pair) in values.windows(2).enumerate() {
            if pair[0] != pair[1] {
                changes.push(pair[1]);
                gaps.push((at - last).cast_signed() as i64);
                last = at + 1;
            }
        }
        if gaps.is_empty() {
            self.put_values(places::ONE, &[], &changes, out);
        } else {
            self.put_shorter(values, &changes, &gaps, out);
        }
        (self.changes, self.gaps) = (changes, gaps);
    }

    /// Changes only, or a value at every place.
    fn put_shorter(&mut self, values: &[u64], changes: &[u64], gaps: &[i64], out: &mut Vec<u8>) {
        let (mut sparse, mut dense) = (
            std::mem::take(&mut self.sparse),
            std::mem::take(&mut self.dense),
        );
        sparse.clear();
        dense.clear();
        let bitmap = (values.len() - 1).div_ceil(8);
        let mut positions = Vec::new();
        let place = if varint_len(gaps.len() as u64) + pack::packed_len(gaps) <= bitmap {
            put_count(&mut positions, gaps.len());
            pack::put_packed(&mut positions, gaps);
            places::GAPS
        } else {
            positions.resize(bitmap, 0);
            let mut at = 0;
            for gap in gaps {
                at += *gap as usize;
                positions[at / 8] |= 1 << (at % 8);
                at += 1;
            }
            places::BITMAP
        };
        // Looking at both costs twice; where one is clearly better the other is left out.
        if changes.len() * 8 <= values.len() * 7 {
            self.put_values(place, &positions, changes, &mut sparse);
        }
        if changes.len() * 4 > values.len() {
            self.put_values(places::ALL, &[], values, &mut dense);
        }
        let shorter = if dense.is_empty() || (!sparse.is_empty() && sparse.len() <= dense.len()) {
            &sparse
        } else {
            &dense
        };
        out.extend_from_slice(shorter);
        (self.sparse, self.dense) = (sparse, dense);
    }

    fn put_values(&mut self, place: u8, positions: &[u8], values: &[u64], out: &mut Vec<u8>) {
        let start = out.len();
        out.push(place);
        out.extend_from_slice(positions);
        let body = out.len();
        let exponent = decimal::to_integers(values, &mut self.integers);
        let method = if let Some(exponent) = exponent {
            out.push(exponent);
            self.put_integers(body, out)
        } else {
            self.put_patterns(values, body, out)
        };
        out[start] |= (method as u8) << 2;
    }

    fn put_integers(&mut self, body: usize, out: &mut Vec<u8>) -> Method {
        let integers = &self.integers;
        let first = integers[0];
        self.differences.clear();
        self.differences.extend(
            integers
                .windows(2)
                .map(|pair| pair[1].wrapping_sub(pair[0])),
        );
        let differences = &mut self.differences;
        let lead = varint_len(zigzag(first));
        let varints = lead
            + differences
                .iter()
                .map(|value| varint_len(zigzag(*value)))
                .sum::<usize>();
        let mut best = (varints, Method::Varints);
        if integers.len() > 2 {
            let packed = (pack::packed_len(integers), Method::Packed);
            let packed_differences = (lead + pack::packed_len(differences), Method::Differences);
            for candidate in [packed, packed_differences] {
                if candidate.0 < best.0 {
                    best = candidate;
                }
            }
        }
        let second_lead = differences
            .first()
            .map_or(0, |value| varint_len(zigzag(*value)));
        let mut seconds = Vec::new();
        if differences.len() > 2 && best.0 > 16 {
            seconds.extend(
                differences
                    .windows(2)
                    .map(|pair| pair[1].wrapping_sub(pair[0])),
            );
            let length = lead + second_lead + pack::packed_len(&seconds);
            if length < best.0 {
                best = (length, Method::SecondDifferences);
            }
        }
        if best.0 >= ENTROPY_FROM && integers.len() >= entropy::NUMBERS_MIN {
            self.trial.clear();
            if entropy::put(&mut self.trial, integers).is_some() && self.trial.len() < best.0 {
                out.extend_from_slice(&self.trial);
                return Method::IntegerEntropy;
            }
        }
        match best.1 {
            Method::Packed => pack::put_packed(out, integers),
            Method::Differences => {
                put_signed(out, first);
                pack::put_packed(out, differences);
            }
            Method::SecondDifferences => {
                put_signed(out, first);
                put_signed(out, differences[0]);
                pack::put_packed(out, &seconds);
            }
            Method::Varints
            | Method::Patterns
            | Method::Xor
            | Method::FloatEntropy
            | Method::IntegerEntropy => {
                put_signed(out, first);
                for difference in differences.iter() {
                    put_signed(out, *difference);
                }
            }
        }
        debug_assert_eq!(
            out.len() - body - 1,
            best.0,
            "the length of {:?} was foretold",
            best.1
        );
        best.1
    }

    fn put_patterns(&mut self, values: &[u64], body: usize, out: &mut Vec<u8>) -> Method {
        xor::put(out, values);
        let mut method = Method::Xor;
        if out.len() - body >= values.len() * 8 {
            out.truncate(body);
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            method = Method::Patterns;
        }
        if out.len() - body >= ENTROPY_FROM && values.len() >= entropy::NUMBERS_MIN {
            self.floats.clear();
            self.floats
                .extend(values.iter().map(|bits| f64::from_bits(*bits)));
            self.trial.clear();
            if entropy::put(&mut self.trial, &self.floats).is_some()
                && self.trial.len() < out.len() - body
            {
                out.truncate(body);
                out.extend_from_slice(&self.trial);
                method = Method::FloatEntropy;
            }
        }
        method
    }
}

/// Decodes columns; holds the room it works in.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    gaps: Vec<i64>,
    integers: Vec<i64>,
    changes: Vec<u64>,
}

impl Decoder {
    /// Appends the `count` values of the chunk `bytes`.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        count: usize,
        values: &mut Vec<u64>,
    ) -> Result<(), Malformed> {
        let mut input = Input::new(bytes);
        let head = input.byte()?;
        let method = *Method::ALL.get(usize::from(head >> 2)).ok_or(Malformed)?;
        if count == 0 {
            return Err(Malformed);
        }
        match head & 0b11 {
            places::ALL => self.read_values(method, input, count, values),
            places::ONE => {
                self.read_changes(method, input, 1)?;
                values.resize(values.len() + count, self.changes[0]);
                Ok(())
            }
            place => {
                let end = values.len() + count;
                self.gaps.clear();
                if place == places::GAPS {
                    let changes = input.count_up_to(count - 1)?;
                    pack::read_packed(&mut input, changes, &mut self.gaps)?;
                } else {
                    read_bitmap(input.take((count - 1).div_ceil(8))?, &mut self.gaps);
                }
                self.read_changes(method, input, self.gaps.len() + 1)?;
                for (gap, value) in self.gaps.iter().zip(&self.changes) {
                    let run = usize::try_from(*gap).map_err(|_| Malformed)?;
                    if run >= end - values.len() {
                        return Err(Malformed);
                    }
                    values.resize(values.len() + run + 1, *value);
                }
                values.resize(end, self.changes[self.gaps.len()]);
                Ok(())
            }
        }
    }

    fn read_changes(
        &mut self,
        method: Method,
        input: Input<'_>,
        count: usize,
    ) -> Result<(), Malformed> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        let read = self.read_values(method, input, count, &mut changes);
        self.changes = changes;
        read
    }

    fn read_values(
        &mut self,
        method: Method,
        mut input: Input<'_>,
        count: usize,
        values: &mut Vec<u64>,
    ) -> Result<(), Malformed> {
        match method {
            Method::Patterns => {
                let bytes = input.take(count.checked_mul(8).ok_or(Malformed)?)?;
                let patterns = bytes.as_chunks::<8>().0.iter();
                values.extend(patterns.map(|pattern| u64::from_le_bytes(*pattern)));
            }
            Method::Xor => return xor::read(input.rest(), count, values),
            Method::FloatEntropy => {
                values.extend(
                    entropy::read::<f64>(input.rest(), count)?
                        .iter()
                        .map(|value| value.to_bits()),
                );
                return Ok(());
            }
            Method::IntegerEntropy => {
                let exponent = input.byte()?;
                let integers = entropy::read::<i64>(input.rest(), count)?;
                return decimal::to_values(&integers, exponent, values).ok_or(Malformed);
            }
            Method::Varints | Method::Packed | Method::Differences | Method::SecondDifferences => {
                let exponent = input.byte()?;
                self.read_integers(method, &mut input, count)?;
                decimal::to_values(&self.integers, exponent, values).ok_or(Malformed)?;
            }
        }
        if input.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn read_integers(
        &mut self,
        method: Method,
        input: &mut Input<'_>,
        count: usize,
    ) -> Result<(), Malformed> {
        let integers = &mut self.integers;
        integers.clear();
        if method == Method::Packed {
            return pack::read_packed(input, count, integers);
        }
        integers.push(input.signed()?);
        match method {
            Method::Varints => {
                for _ in 1..count {
                    integers.push(input.signed()?);
                }
                sum_up(integers);
            }
            Method::SecondDifferences if count > 1 => {
                integers.push(input.signed()?);
                pack::read_packed(input, count - 2, integers)?;
                sum_up(&mut integers[1..]);
                sum_up(integers);
            }
            Method::Differences
            | Method::SecondDifferences
            | Method::Packed
            | Method::Patterns
            | Method::Xor
            | Method::FloatEntropy
            | Method::IntegerEntropy => {
                pack::read_packed(input, count - 1, integers)?;
                sum_up(integers);
            }
        }
        Ok(())
    }
}

/// Differences to sums, in place.
fn sum_up(integers: &mut [i64]) {
    let mut sum = 0_i64;
    for integer in integers {
        sum = sum.wrapping_add(*integer);
        *integer = sum;
    }
}

fn read_bitmap(bitmap: &[u8], gaps: &mut Vec<i64>) {
    let mut next = 0;
    for (at, byte) in bitmap.iter().enumerate() {
        let mut bits = *byte;
        while bits != 0 {
            let place = at * 8 + bits.trailing_zeros() as usize;
            gaps.push((place - next).cast_signed() as i64);
            next = place + 1;
            bits &= bits - 1;
        }
    }
}

#[cfg(test)]
mod tests;
