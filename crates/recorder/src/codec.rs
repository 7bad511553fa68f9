//! Lossless compression of a column: the values of one series, bit for bit.
//!
//! Repeated values are left out first: a chunk has the positions of changes and the values there.
//! Values that a shift of the decimal point turns into integers are stored as the shortest of varint
//! differences, packed values, packed differences and packed second differences. Other values are
//! stored as bit patterns, raw or XOR with the value before. Chunks that stay large are compressed
//! with pco as well, and the smaller result is stored.
//!
//! ```text
//!   chunk := positions | method << 2, position list?, exponent?, values
//! ```

pub(crate) mod decimal;
mod entropy;
mod pack;
mod prediction;
mod xor;

pub(crate) use self::prediction::{Prediction, Predictor};
use crate::bytes::{Input, Malformed, put_count, put_signed, varint_len, zigzag};

/// The positions that a chunk has values for. The low two bits of its first byte.
mod positions {
    /// One value for all positions.
    pub(super) const CONSTANT: u8 = 0;
    /// The first position and changes. The distances between changes follow.
    pub(super) const GAPS: u8 = 1;
    /// The first position and changes. A bit per position follows.
    pub(super) const BITMAP: u8 = 2;
    /// All positions.
    pub(super) const ALL: u8 = 3;
}

/// The form of the values. Bits 2 to 5 of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Raw = 0,
    Xor = 1,
    FloatPco = 2,
    Varints = 3,
    Packed = 4,
    Deltas = 5,
    DeltasOfDeltas = 6,
    IntegerPco = 7,
}

impl Method {
    const ALL: [Self; 8] = [
        Self::Raw,
        Self::Xor,
        Self::FloatPco,
        Self::Varints,
        Self::Packed,
        Self::Deltas,
        Self::DeltasOfDeltas,
        Self::IntegerPco,
    ];
}

/// The length from which pco is tried. Below it the saving is not worth pco's fixed cost in time.
const PCO_BYTES_MIN: usize = 64;

/// An encoder of columns. It reuses its buffers.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    changes: Vec<u64>,
    gaps: Vec<i64>,
    integers: Vec<i64>,
    deltas: Vec<i64>,
    deltas_of_deltas: Vec<i64>,
    sparse: Vec<u8>,
    dense: Vec<u8>,
    floats: Vec<f64>,
    trial: Vec<u8>,
}

impl Encoder {
    /// Appends the chunk of `values`, which are not empty.
    pub(crate) fn encode(&mut self, values: &[u64], out: &mut Vec<u8>) {
        // Taken out of `self`, which the calls below borrow whole.
        let (mut changes, mut gaps) = (
            std::mem::take(&mut self.changes),
            std::mem::take(&mut self.gaps),
        );
        changes.clear();
        gaps.clear();
        changes.push(values[0]);
        let mut last = 0;
        for (at, pair) in values.windows(2).enumerate() {
            // Bit patterns are compared: NaN equals itself, and 0.0 differs from -0.0.
            if pair[0] != pair[1] {
                changes.push(pair[1]);
                gaps.push((at - last).cast_signed() as i64);
                last = at + 1;
            }
        }
        if gaps.is_empty() {
            self.put_values(positions::CONSTANT, &[], &changes, out);
        } else {
            self.put_shorter(values, &changes, &gaps, out);
        }
        (self.changes, self.gaps) = (changes, gaps);
    }

    /// Appends the shorter of two chunks: one with changes only, one with all values.
    fn put_shorter(&mut self, values: &[u64], changes: &[u64], gaps: &[i64], out: &mut Vec<u8>) {
        let (mut sparse, mut dense) = (
            std::mem::take(&mut self.sparse),
            std::mem::take(&mut self.dense),
        );
        sparse.clear();
        dense.clear();
        let bitmap = (values.len() - 1).div_ceil(8);
        let mut list = Vec::new();
        let kind = if varint_len(gaps.len() as u64) + pack::packed_len(gaps) <= bitmap {
            put_count(&mut list, gaps.len());
            pack::put_packed(&mut list, gaps);
            positions::GAPS
        } else {
            list.resize(bitmap, 0);
            let mut at = 0;
            for gap in gaps {
                at += *gap as usize;
                list[at / 8] |= 1 << (at % 8);
                at += 1;
            }
            positions::BITMAP
        };
        // Encoding both costs twice the time, so that the clearly longer one is skipped.
        if changes.len() * 8 <= values.len() * 7 {
            self.put_values(kind, &list, changes, &mut sparse);
        }
        if changes.len() * 4 > values.len() {
            self.put_values(positions::ALL, &[], values, &mut dense);
        }
        let shorter = if dense.is_empty() || (!sparse.is_empty() && sparse.len() <= dense.len()) {
            &sparse
        } else {
            &dense
        };
        out.extend_from_slice(shorter);
        (self.sparse, self.dense) = (sparse, dense);
    }

    fn put_values(&mut self, kind: u8, list: &[u8], values: &[u64], out: &mut Vec<u8>) {
        let start = out.len();
        out.push(kind);
        out.extend_from_slice(list);
        // Integers compress better than any form of bit patterns, so that the latter are not tried.
        let exponent = decimal::to_integers(values, &mut self.integers);
        let method = if let Some(exponent) = exponent {
            out.push(exponent);
            self.put_integers(out)
        } else {
            self.put_patterns(values, out)
        };
        out[start] |= (method as u8) << 2;
    }

    /// Appends `self.integers` in the shortest form.
    fn put_integers(&mut self, out: &mut Vec<u8>) -> Method {
        let (method, len) = self.choose_integer_method();
        if len >= PCO_BYTES_MIN && self.integers.len() >= entropy::NUMBERS_MIN {
            // What pco saves depends on the values: only trying tells.
            self.trial.clear();
            if entropy::put(&mut self.trial, &self.integers).is_some() && self.trial.len() < len {
                out.extend_from_slice(&self.trial);
                return Method::IntegerPco;
            }
        }
        let start = out.len();
        let first = self.integers[0];
        match method {
            Method::Packed => pack::put_packed(out, &self.integers),
            Method::Varints => {
                put_signed(out, first);
                for delta in &self.deltas {
                    put_signed(out, *delta);
                }
            }
            Method::Deltas => {
                put_signed(out, first);
                pack::put_packed(out, &self.deltas);
            }
            Method::DeltasOfDeltas => {
                put_signed(out, first);
                put_signed(out, self.deltas[0]);
                pack::put_packed(out, &self.deltas_of_deltas);
            }
            Method::Raw | Method::Xor | Method::FloatPco | Method::IntegerPco => {
                unreachable!("only forms of integers are compared")
            }
        }
        debug_assert_eq!(out.len() - start, len, "the length of {method:?}");
        method
    }

    /// Computes the differences, and the shortest form with its length. The first of several equally
    /// short forms wins.
    fn choose_integer_method(&mut self) -> (Method, usize) {
        let integers = &self.integers;
        put_deltas(integers, &mut self.deltas);
        let len_of = |integer: &i64| varint_len(zigzag(*integer));
        let first = len_of(&integers[0]);
        let varints = first + self.deltas.iter().map(len_of).sum::<usize>();
        let mut best = (Method::Varints, varints);
        let mut consider = |method, len| {
            if len < best.1 {
                best = (method, len);
            }
            best.1
        };
        if integers.len() <= 2 {
            return best;
        }
        consider(Method::Packed, pack::packed_len(integers));
        let len = consider(Method::Deltas, first + pack::packed_len(&self.deltas));
        // Second differences pay for themselves only where first ones vary.
        if self.deltas.len() > 2 && len > 16 {
            put_deltas(&self.deltas, &mut self.deltas_of_deltas);
            let packed = pack::packed_len(&self.deltas_of_deltas);
            let len = first + len_of(&self.deltas[0]) + packed;
            consider(Method::DeltasOfDeltas, len);
        }
        best
    }

    fn put_patterns(&mut self, values: &[u64], out: &mut Vec<u8>) -> Method {
        let body = out.len();
        xor::put(out, values);
        let mut method = Method::Xor;
        // XOR makes unrelated patterns longer.
        if out.len() - body >= values.len() * 8 {
            out.truncate(body);
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            method = Method::Raw;
        }
        if out.len() - body >= PCO_BYTES_MIN && values.len() >= entropy::NUMBERS_MIN {
            self.floats.clear();
            self.floats
                .extend(values.iter().map(|bits| f64::from_bits(*bits)));
            self.trial.clear();
            if entropy::put(&mut self.trial, &self.floats).is_some()
                && self.trial.len() < out.len() - body
            {
                out.truncate(body);
                out.extend_from_slice(&self.trial);
                method = Method::FloatPco;
            }
        }
        method
    }
}

/// A decoder of columns. It reuses its buffers.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    gaps: Vec<i64>,
    integers: Vec<i64>,
    changes: Vec<u64>,
}

impl Decoder {
    /// Appends the `count` values of a chunk.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        count: usize,
        values: &mut Vec<u64>,
    ) -> Result<(), Malformed> {
        let mut input = Input::new(bytes);
        let head = input.byte()?;
        let method = *Method::ALL.get(usize::from(head >> 2)).ok_or(Malformed)?;
        // No writer makes an empty chunk, and the runs below need a first value.
        if count == 0 {
            return Err(Malformed);
        }
        match head & 0b11 {
            positions::ALL => self.read_values(method, input, count, values),
            positions::CONSTANT => {
                self.read_changes(method, input, 1)?;
                values.resize(values.len() + count, self.changes[0]);
                Ok(())
            }
            list => {
                let end = values.len() + count;
                self.gaps.clear();
                if list == positions::GAPS {
                    let changes = input.count_up_to(count - 1)?;
                    pack::read_packed(&mut input, changes, &mut self.gaps)?;
                } else {
                    read_bitmap(input.take((count - 1).div_ceil(8))?, &mut self.gaps);
                }
                self.read_changes(method, input, self.gaps.len() + 1)?;
                for (gap, value) in self.gaps.iter().zip(&self.changes) {
                    let run = usize::try_from(*gap).map_err(|_| Malformed)?;
                    // Each run must leave space for the next change, or a damaged gap could ask for
                    // memory, or hide the last value.
                    if run + 1 >= end - values.len() {
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
            Method::Raw => {
                let bytes = input.take(count.checked_mul(8).ok_or(Malformed)?)?;
                let patterns = bytes.as_chunks::<8>().0.iter();
                values.extend(patterns.map(|pattern| u64::from_le_bytes(*pattern)));
            }
            // It checks by itself that no bytes are left.
            Method::Xor => return xor::read(input.rest(), count, values),
            Method::FloatPco => {
                values.extend(
                    entropy::read::<f64>(input.rest(), count)?
                        .iter()
                        .map(|value| value.to_bits()),
                );
                return Ok(());
            }
            Method::IntegerPco => {
                let exponent = input.byte()?;
                let integers = entropy::read::<i64>(input.rest(), count)?;
                return decimal::to_values(&integers, exponent, values).ok_or(Malformed);
            }
            Method::Varints | Method::Packed | Method::Deltas | Method::DeltasOfDeltas => {
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
        // All other forms begin with the first integer. `decode` has rejected empty chunks.
        if method == Method::Packed {
            return pack::read_packed(input, count, integers);
        }
        integers.push(input.signed()?);
        match method {
            Method::Varints => {
                for _ in 1..count {
                    integers.push(input.signed()?);
                }
                integrate(integers);
            }
            Method::DeltasOfDeltas if count > 1 => {
                integers.push(input.signed()?);
                pack::read_packed(input, count - 2, integers)?;
                integrate(&mut integers[1..]);
                integrate(integers);
            }
            Method::Deltas
            | Method::DeltasOfDeltas
            | Method::Packed
            | Method::Raw
            | Method::Xor
            | Method::FloatPco
            | Method::IntegerPco => {
                pack::read_packed(input, count - 1, integers)?;
                integrate(integers);
            }
        }
        Ok(())
    }
}

/// Appends the differences of neighbours in place of the content of `deltas`.
fn put_deltas(integers: &[i64], deltas: &mut Vec<i64>) {
    deltas.clear();
    let pairs = integers.windows(2);
    deltas.extend(pairs.map(|pair| pair[1].wrapping_sub(pair[0])));
}

/// Replaces differences by their running sums.
fn integrate(integers: &mut [i64]) {
    let mut sum = 0_i64;
    for integer in integers {
        sum = sum.wrapping_add(*integer);
        *integer = sum;
    }
}

fn read_bitmap(bitmap: &[u8], gaps: &mut Vec<i64>) {
    let mut next = 0;
    for (at, byte) in bitmap.iter().enumerate() {
        // The writer leaves the surplus bits of the last byte at zero.
        let mut bits = *byte;
        while bits != 0 {
            let position = at * 8 + bits.trailing_zeros() as usize;
            gaps.push((position - next).cast_signed() as i64);
            next = position + 1;
            bits &= bits - 1;
        }
    }
}

#[cfg(test)]
mod tests;
