//! Prediction of a column by another one of the same block.
//!
//! Sums and siblings move together: a count and a bucket, the bytes received and sent on a loopback
//! interface, what is free and what is available. If two columns are decimals of as many digits, their
//! sum or difference may be a constant, or much shorter than either.

use super::decimal;

/// The number of columns that are tried.
const CANDIDATES: usize = 16;

/// The number of differences by which columns are compared.
const SAMPLES: usize = 128;

/// The number of changes below which a column is short in any form.
const CHANGES_MIN: usize = 16;

/// The prediction of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prediction {
    /// The slot of the column that predicts. Nothing predicts that one.
    pub(crate) slot: u8,
    /// The column falls where the other rises: what is stored is the sum of both.
    pub(crate) is_opposite: bool,
    /// The exponent at which both columns are integers.
    pub(crate) exponent: u8,
}

/// A column that may predict others.
#[derive(Debug)]
struct Candidate {
    slot: u8,
    exponent: u8,
    integers: Vec<i64>,
}

/// The columns of a block that may predict the next ones.
#[derive(Debug, Default)]
pub(crate) struct Predictor {
    candidates: Vec<Candidate>,
    /// The index of the candidate that the next one replaces.
    next: usize,
    integers: Vec<i64>,
    rest: Vec<u64>,
}

impl Predictor {
    /// Forgets the columns of the last block.
    pub(crate) fn clear(&mut self) {
        self.candidates.clear();
        self.next = 0;
    }

    /// Returns the prediction of a column, and the values to store instead. A column without one may
    /// predict later ones.
    pub(crate) fn predict(&mut self, slot: usize, values: &[u64]) -> Option<(Prediction, &[u64])> {
        let pairs = values.windows(2);
        let changes = pairs.filter(|pair| pair[0] != pair[1]).take(CHANGES_MIN);
        if changes.count() < CHANGES_MIN {
            return None;
        }
        let exponent = decimal::to_integers(values, &mut self.integers)?;
        if let Some(prediction) = self.best(exponent) {
            return Some((prediction, &self.rest));
        }
        let candidate = Candidate {
            slot: slot as u8,
            exponent,
            integers: self.integers.clone(),
        };
        if self.candidates.len() < CANDIDATES {
            self.candidates.push(candidate);
        } else {
            self.candidates[self.next] = candidate;
            self.next = (self.next + 1) % CANDIDATES;
        }
        None
    }

    /// Returns the prediction that leaves least of the column, at most half, with the rest in `rest`.
    fn best(&mut self, exponent: u8) -> Option<Prediction> {
        let own = cost(&self.integers, |at| self.integers[at]);
        let of_exponent = self
            .candidates
            .iter()
            .filter(|candidate| candidate.exponent == exponent);
        let tried = of_exponent.flat_map(|candidate| {
            let cost = |is_opposite| {
                let rest = |at| rest_of(self.integers[at], candidate.integers[at], is_opposite);
                cost(&self.integers, rest)
            };
            [false, true].map(|is_opposite| (cost(is_opposite), candidate, is_opposite))
        });
        let (cost, candidate, is_opposite) = tried.min_by_key(|(cost, ..)| *cost)?;
        // A sample may mislead, and a prediction takes time to read.
        let is_short = cost * 2 < own;
        let is_exact = is_short && put_rest(&self.integers, candidate, is_opposite, &mut self.rest);
        is_exact.then_some(Prediction {
            slot: candidate.slot,
            is_opposite,
            exponent,
        })
    }
}

/// Returns the bits of the differences between neighbours, in a sample of the column.
fn cost(integers: &[i64], value: impl Fn(usize) -> i64) -> u32 {
    let step = (integers.len() / SAMPLES).max(1);
    let pairs = (1..integers.len()).step_by(step);
    pairs
        .map(|at| {
            let difference = value(at).wrapping_sub(value(at - 1));
            64 - difference.unsigned_abs().leading_zeros()
        })
        .sum()
}

/// Returns what the prediction leaves of an integer.
fn rest_of(integer: i64, predicting: i64, is_opposite: bool) -> i64 {
    if is_opposite {
        integer.wrapping_add(predicting)
    } else {
        integer.wrapping_sub(predicting)
    }
}

/// Replaces `rest` by what is left of the column, as values. Returns false if one of them is not exact.
fn put_rest(
    integers: &[i64],
    candidate: &Candidate,
    is_opposite: bool,
    rest: &mut Vec<u64>,
) -> bool {
    rest.clear();
    let pairs = integers.iter().zip(&candidate.integers);
    for (integer, predicting) in pairs {
        let integer = rest_of(*integer, *predicting, is_opposite);
        if integer.unsigned_abs() > decimal::EXACT {
            return false;
        }
        rest.push(decimal::restored(integer, 0));
    }
    true
}

impl Prediction {
    /// Turns what is left of a column into its values. `predicting` are the other column's values.
    pub(crate) fn restore(self, predicting: &[u64], values: &mut [u64]) {
        let pairs = values.iter_mut().zip(predicting);
        if self.exponent == 0 {
            // Doubles hold these integers exactly, and their sums: nothing is converted.
            let sign = if self.is_opposite { -1.0 } else { 1.0 };
            for (value, predicting) in pairs {
                let sum = f64::from_bits(*value) + sign * f64::from_bits(*predicting);
                *value = sum.to_bits();
            }
            return;
        }
        let exponent = usize::from(self.exponent);
        for (value, predicting) in pairs {
            let predicting = decimal::nearest(*predicting, exponent);
            // What was subtracted is added.
            let integer = rest_of(decimal::nearest(*value, 0), predicting, !self.is_opposite);
            *value = decimal::restored(integer, exponent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter with uneven steps.
    fn counter(seed: i64) -> Vec<i64> {
        let mut integer = 1_000_003;
        let steps = (0..256).map(|at| (at * at * (seed + 7)) % 1_009);
        let counter = steps.map(|step| {
            integer += step;
            integer
        });
        counter.collect()
    }

    fn values(integers: impl IntoIterator<Item = i64>, exponent: usize) -> Vec<u64> {
        let values = integers.into_iter();
        values
            .map(|integer| decimal::restored(integer, exponent))
            .collect()
    }

    #[test]
    fn columns_that_move_together_predict_each_other() {
        let (received, other) = (counter(1), counter(5));
        let sibling = received
            .iter()
            .zip(0..)
            .map(|(integer, at)| integer + at / 64);
        let opposite = received.iter().map(|integer| 1_000_000_007 - integer);
        for (column, expected) in [
            (values(sibling, 3), Some((1, false))),
            (values(opposite, 3), Some((1, true))),
            (values(other.iter().copied(), 3), None),
            // The same integers at another exponent.
            (values(received.iter().copied(), 0), None),
            (vec![f64::NAN.to_bits(); 256], None),
        ] {
            let mut predictor = Predictor::default();
            let first = values(received.iter().copied(), 3);
            assert_eq!(predictor.predict(1, &first), None);
            let predicted = predictor.predict(2, &column);
            let found = predicted.map(|(prediction, _)| (prediction.slot, prediction.is_opposite));
            assert_eq!(found, expected);
            if let Some((prediction, rest)) = predicted {
                let mut restored = rest.to_vec();
                prediction.restore(&first, &mut restored);
                assert_eq!(restored, column);
            }
        }
    }

    #[test]
    fn predicted_column_predicts_no_other() {
        let mut predictor = Predictor::default();
        let integers = counter(1);
        for (slot, expected) in [(1, None), (2, Some(1)), (3, Some(1))] {
            let column = values(integers.iter().map(|integer| integer + slot), 0);
            let predicted = predictor.predict(slot as usize, &column);
            assert_eq!(predicted.map(|(prediction, _)| prediction.slot), expected);
        }
    }

    #[test]
    fn only_some_columns_of_a_block_are_tried() {
        let mut predictor = Predictor::default();
        for (slot, seed) in (0..2 * CANDIDATES).zip((0..).step_by(11)) {
            predictor.predict(slot, &values(counter(seed), 0));
        }
        assert_eq!(predictor.candidates.len(), CANDIDATES);
        let first = values(counter(0), 0);
        assert_eq!(predictor.predict(100, &first), None);
        predictor.clear();
        assert!(predictor.candidates.is_empty());
    }
}
