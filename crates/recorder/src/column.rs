//! One series over the scrapes of a head or a segment: when it was there, and its values.

use crate::{
    bytes::{Input, Malformed, put_count, put_signed},
    codec::{Decoder, Encoder},
};

const WHOLE: u8 = 1;
const STAMPED: u8 = 2;

/// A series' scrapes. Rows count the scrapes of its source that succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    /// Rows at which it was there: half-open, ascending, apart from each other.
    pub(crate) runs: Vec<(u32, u32)>,
    /// Its values at these rows.
    pub(crate) values: Vec<u64>,
    /// How much later than the scrape the line said it was, for rows where it said so.
    pub(crate) stamps: Vec<(u32, i64)>,
}

impl Column {
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.values.clear();
        self.stamps.clear();
    }

    /// Appends it as a chunk, over `rows` rows. It has one value at least.
    pub(crate) fn put(&self, encoder: &mut Encoder, rows: u32, out: &mut Vec<u8>) {
        let whole = self.runs == [(0, rows)];
        let stamped = !self.stamps.is_empty();
        out.push((u8::from(whole) * WHOLE) | (u8::from(stamped) * STAMPED));
        if !whole {
            put_count(out, self.runs.len());
            let mut end = 0;
            for (from, to) in &self.runs {
                put_count(out, (from - end) as usize);
                put_count(out, (to - from - 1) as usize);
                end = *to;
            }
        }
        if stamped {
            put_count(out, self.stamps.len());
            let (mut next, mut before) = (0, 0);
            for (row, offset) in &self.stamps {
                put_count(out, (row - next) as usize);
                put_signed(out, offset.wrapping_sub(before));
                (next, before) = (row + 1, *offset);
            }
        }
        encoder.encode(&self.values, out);
    }

    /// Reads the chunk `bytes` over `rows` rows in place of what was here.
    pub(crate) fn read(
        &mut self,
        decoder: &mut Decoder,
        rows: u32,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        self.clear();
        let mut input = Input::new(bytes);
        let shape = input.byte()?;
        if shape & !(WHOLE | STAMPED) != 0 || rows == 0 {
            return Err(Malformed);
        }
        let row = |from: u32, by: usize| -> Result<u32, Malformed> {
            let row = u64::from(from) + by as u64;
            if row < u64::from(rows) {
                Ok(row as u32)
            } else {
                Err(Malformed)
            }
        };
        let mut count = 0;
        if shape & WHOLE != 0 {
            self.runs.push((0, rows));
            count = rows as usize;
        } else {
            let mut end = 0;
            for _ in 0..input.count_up_to(rows as usize)? {
                let from = row(end, input.count_up_to(rows as usize)?)?;
                end = row(from, input.count_up_to(rows as usize)?)? + 1;
                self.runs.push((from, end));
                count += (end - from) as usize;
            }
        }
        if shape & STAMPED != 0 {
            let (mut next, mut before) = (0, 0_i64);
            for _ in 0..input.count_up_to(rows as usize)? {
                let at = row(next, input.count_up_to(rows as usize)?)?;
                before = before.wrapping_add(input.signed()?);
                self.stamps.push((at, before));
                next = at + 1;
            }
        }
        decoder.decode(input.rest(), count, &mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column() -> impl Strategy<Value = (Column, u32)> {
        let runs = prop::collection::vec((1..5_u32, 1..9_u32), 1..9);
        (
            runs,
            any::<bool>(),
            0..3_u32,
            any::<u64>(),
            prop::collection::btree_map(0..20_u32, any::<i64>(), 0..4),
        )
            .prop_map(|(gaps, at_once, after, seed, stamps)| {
                let mut column = Column::default();
                let mut end = 0;
                for (index, (gap, length)) in gaps.into_iter().enumerate() {
                    let from = end + if index == 0 && at_once { 0 } else { gap };
                    end = from + length;
                    column.runs.push((from, end));
                    column
                        .values
                        .extend((0..length).map(|step| seed.rotate_left(step)));
                }
                column.stamps = stamps.into_iter().filter(|(row, _)| *row < end).collect();
                (column, end + after)
            })
    }

    proptest! {
        #[test]
        fn a_column_comes_back((column, rows) in column()) {
            let mut bytes = Vec::new();
            column.put(&mut Encoder::default(), rows, &mut bytes);
            let mut back = Column::default();
            back.read(&mut Decoder::default(), rows, &bytes).unwrap();
            assert_eq!(back, column);
        }

        #[test]
        fn a_damaged_column_is_no_panic((column, rows) in column(), at in any::<prop::sample::Index>(), mask in 1..=u8::MAX) {
            let mut bytes = Vec::new();
            column.put(&mut Encoder::default(), rows, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            let mut back = Column::default();
            if back.read(&mut Decoder::default(), rows, &bytes).is_ok() {
                let rows: u32 = back.runs.iter().map(|(from, to)| to - from).sum();
                assert_eq!(rows as usize, back.values.len());
            }
        }
    }
}
