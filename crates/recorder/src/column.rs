//! One series in a head or a segment: the rows at which it was present, and its values.

use crate::{
    bytes::{Input, Malformed, put_count, put_signed},
    codec::{Decoder, Encoder, Prediction, Predictor, decimal},
    rows::GROUP,
};

/// A flag of a chunk: one run covers all rows, and no runs follow.
const WHOLE: u8 = 1;
/// A flag of a chunk: times of lines follow.
const TIMESTAMPS: u8 = 2;
/// A flag of a chunk: another column of the block predicts this one, and the values are the rest.
const PREDICTED: u8 = 4;
/// A flag beside the slot of the other column: the rest is the sum of both, not the difference.
const OPPOSITE: u8 = 0x80;

const _: () = assert!(GROUP <= OPPOSITE as usize);

/// The values of a series. Rows count the successful scrapes of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    /// The rows at which the series was present: half-open, ascending, never adjacent.
    pub(crate) runs: Vec<(u32, u32)>,
    /// The values at these rows.
    pub(crate) values: Vec<u64>,
    /// The times of lines, by row, as an offset to the time of the scrape.
    pub(crate) timestamps: Vec<(u32, i64)>,
}

impl Column {
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.values.clear();
        self.timestamps.clear();
    }

    /// Encodes the column of a slot as a chunk. `rows` are the rows of the source. There is at least one
    /// value.
    pub(crate) fn put(
        &self,
        slot: usize,
        (encoder, predictor): (&mut Encoder, &mut Predictor),
        rows: u32,
        out: &mut Vec<u8>,
    ) {
        let whole = self.runs == [(0, rows)];
        let has_timestamps = !self.timestamps.is_empty();
        // Values at the same index are of the same row only in columns that have all rows.
        let predicted = whole
            .then(|| predictor.predict(slot, &self.values))
            .flatten();
        out.push(
            (u8::from(whole) * WHOLE)
                | (u8::from(has_timestamps) * TIMESTAMPS)
                | (u8::from(predicted.is_some()) * PREDICTED),
        );
        if !whole {
            put_count(out, self.runs.len());
            let mut end = 0;
            for (from, to) in &self.runs {
                put_count(out, (from - end) as usize);
                // A run is never empty.
                put_count(out, (to - from - 1) as usize);
                end = *to;
            }
        }
        if has_timestamps {
            put_count(out, self.timestamps.len());
            let (mut next, mut before) = (0, 0);
            for (row, offset) in &self.timestamps {
                put_count(out, (row - next) as usize);
                put_signed(out, offset.wrapping_sub(before));
                (next, before) = (row + 1, *offset);
            }
        }
        if let Some((prediction, rest)) = predicted {
            out.push(prediction.slot | (u8::from(prediction.is_opposite) * OPPOSITE));
            out.push(prediction.exponent);
            encoder.encode(rest, out);
        } else {
            encoder.encode(&self.values, out);
        }
    }

    /// Replaces the column by the content of a chunk. With a prediction, the values are what that leaves.
    pub(crate) fn read(
        &mut self,
        decoder: &mut Decoder,
        rows: u32,
        bytes: &[u8],
    ) -> Result<Option<Prediction>, Malformed> {
        self.clear();
        let mut input = Input::new(bytes);
        let shape = input.byte()?;
        // An unknown flag would change the meaning of the bytes behind it.
        if shape & !(WHOLE | TIMESTAMPS | PREDICTED) != 0 || rows == 0 {
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
        if shape & TIMESTAMPS != 0 {
            let (mut next, mut before) = (0, 0_i64);
            for _ in 0..input.count_up_to(rows as usize)? {
                let at = row(next, input.count_up_to(rows as usize)?)?;
                before = before.wrapping_add(input.signed()?);
                self.timestamps.push((at, before));
                next = at + 1;
            }
        }
        let mut prediction = None;
        if shape & PREDICTED != 0 {
            let (slot, exponent) = (input.byte()?, input.byte()?);
            if shape & WHOLE == 0 || decimal::checked(exponent).is_none() {
                return Err(Malformed);
            }
            prediction = Some(Prediction {
                slot: slot & !OPPOSITE,
                is_opposite: slot & OPPOSITE != 0,
                exponent,
            });
        }
        decoder.decode(input.rest(), count, &mut self.values)?;
        Ok(prediction)
    }

    /// Completes a column that another one predicts.
    pub(crate) fn complete(
        &mut self,
        prediction: Prediction,
        predicting: &[u64],
    ) -> Result<(), Malformed> {
        if predicting.len() != self.values.len() {
            return Err(Malformed);
        }
        prediction.restore(predicting, &mut self.values);
        Ok(())
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
            .prop_map(|(gaps, at_once, after, seed, timestamps)| {
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
                column.timestamps = timestamps
                    .into_iter()
                    .filter(|(row, _)| *row < end)
                    .collect();
                (column, end + after)
            })
    }

    fn put(column: &Column, rows: u32, out: &mut Vec<u8>) {
        let codec = (&mut Encoder::default(), &mut Predictor::default());
        column.put(0, codec, rows, out);
    }

    proptest! {
        #[test]
        fn columns_round_trip((column, rows) in column()) {
            let mut bytes = Vec::new();
            put(&column, rows, &mut bytes);
            let mut back = Column::default();
            back.read(&mut Decoder::default(), rows, &bytes).unwrap();
            assert_eq!(back, column);
        }

        #[test]
        fn damaged_column_does_not_panic((column, rows) in column(), at in any::<prop::sample::Index>(), mask in 1..=u8::MAX) {
            let mut bytes = Vec::new();
            put(&column, rows, &mut bytes);
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
