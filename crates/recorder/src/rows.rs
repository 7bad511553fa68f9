//! Rows: the changes of a group of slots from one scrape to the next.
//!
//! ```text
//!   row        := 0                                       nothing changed
//!               | 1 + (changes << 2 | has_timestamps << 1 | has_flips)
//!                 flips? change* timestamps?
//!               | 1 + (129 << 2 | has_timestamps << 1 | has_flips)
//!                 flips? set dense* timestamps?
//!   flips      := count, (gap to the slot)*               slots that appear or disappear
//!   change     := gap << 1 | 0, difference
//!               | gap << 1 | 1, patch
//!   set        := a bit per slot of the group             slots that change
//!   dense      := difference + 1                          one per slot of the set
//!               | 0, patch
//!   patch      := low << 3 | count - 1, count bytes to XOR with, from byte `low` on
//!   timestamps := count, (slot, offset to the scrape)*
//! ```
//!
//! A difference is one of integers, or of decimals with the number of digits that the old value has:
//! three, six or nine. Format 1 knows neither decimals nor sets, but is otherwise the same.

use crate::{
    bytes::{Input, Malformed, put_count, put_signed, put_varint, unzigzag, zigzag},
    codec::decimal,
};

/// The number of slots of a group. A segment has one checksum per group.
pub(crate) const GROUP: usize = 128;

/// The maximum length of one slot in a row: two bytes for its flip, two for the gap, nine for the value.
/// A timestamp adds up to twelve.
pub(crate) const SLOT_ROW_BYTES_MAX: u64 = 13;

const DIFFERENCE: u64 = 0;
const PATCH: u64 = 1;

/// The number of changes that stands for a set of slots. No row has so many.
const SET: usize = GROUP + 1;

/// The length of a set.
const SET_BYTES: usize = GROUP / 8;

/// A varint of seven bytes holds 49 bits. A larger difference is not shorter than a patch.
const DIFFERENCE_END: u64 = (1 << 49) - 1;

/// A group at one scrape.
#[derive(Clone, Debug)]
pub(crate) struct GroupState {
    pub(crate) values: [u64; GROUP],
    pub(crate) present: u128,
}

impl Default for GroupState {
    fn default() -> Self {
        Self {
            values: [0; GROUP],
            present: 0,
        }
    }
}

/// An item of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The slot appeared if it was absent, and disappeared otherwise.
    Flip(u8),
    /// The new value of the slot.
    Value(u8, u64),
    /// The time of the slot's line, as an offset to the time of the scrape.
    Timestamp(u8, i64),
}

/// Appends the row that leads from (`values`, `present`) to (`next`, `seen`). `timestamps` are sorted by
/// slot.
pub(crate) fn put_row(
    out: &mut Vec<u8>,
    (values, present): (&[u64], u128),
    (next, seen): (&[u64], u128),
    timestamps: &[(u8, i64)],
) {
    let flips = present ^ seen;
    let mut changed = [0_u8; GROUP];
    let mut count = 0;
    if seen == u128::MAX {
        // The usual case, without a branch per slot.
        for (slot, (old, new)) in values.iter().zip(next).enumerate() {
            changed[count] = slot as u8;
            count += usize::from(old != new);
        }
    } else {
        for slot in bits(seen) {
            if values[slot] != next[slot] {
                changed[count] = slot as u8;
                count += 1;
            }
        }
    }
    if flips == 0 && count == 0 && timestamps.is_empty() {
        out.push(0);
        return;
    }
    // A gap takes a byte or two.
    let is_dense = count > SET_BYTES + 1;
    let shown_count = if is_dense { SET } else { count };
    // One is added so that a zero byte alone means an unchanged row.
    put_count(
        out,
        1 + (shown_count << 2 | usize::from(!timestamps.is_empty()) << 1 | usize::from(flips != 0)),
    );
    if flips != 0 {
        put_count(out, flips.count_ones() as usize);
        let mut from = 0;
        for slot in bits(flips) {
            out.push((slot - from) as u8);
            from = slot + 1;
        }
    }
    let changed = changed[..count].iter().map(|slot| usize::from(*slot));
    if is_dense {
        let set = changed.clone().fold(0_u128, |set, slot| set | 1 << slot);
        out.extend_from_slice(&set.to_le_bytes());
        for slot in changed {
            put_dense_change(out, values[slot], next[slot]);
        }
    } else {
        let mut from = 0;
        for slot in changed {
            put_change(out, (slot - from) as u64, values[slot], next[slot]);
            from = slot + 1;
        }
    }
    if !timestamps.is_empty() {
        put_count(out, timestamps.len());
        for (slot, offset) in timestamps {
            out.push(*slot);
            put_signed(out, *offset);
        }
    }
}

fn put_change(out: &mut Vec<u8>, gap: u64, old: u64, new: u64) {
    if let Some(difference) = difference(old, new) {
        put_varint(out, gap << 1 | DIFFERENCE);
        put_varint(out, difference);
    } else {
        put_varint(out, gap << 1 | PATCH);
        put_patch(out, old, new);
    }
}

fn put_dense_change(out: &mut Vec<u8>, old: u64, new: u64) {
    if let Some(difference) = difference(old, new) {
        put_varint(out, difference + 1);
    } else {
        out.push(0);
        put_patch(out, old, new);
    }
}

/// Returns the zigzag of the difference, if it is short and leads back to the new value bit for bit.
fn difference(old: u64, new: u64) -> Option<u64> {
    let (old, exponent) = decimal(old)?;
    let difference = zigzag(decimal::scaled(new, exponent)? - old);
    (difference < DIFFERENCE_END).then_some(difference)
}

/// Returns the decimal that a value equals, as an integer and its exponent: exporters print seconds
/// with milli-, micro- or nanoseconds. Writers and readers know the old value, so that the exponent is
/// not stored.
fn decimal(bits: u64) -> Option<(i64, usize)> {
    let integer = |exponent| Some((decimal::scaled(bits, exponent)?, exponent));
    let (nano, _) = match integer(0) {
        None => match integer(9) {
            // So large that nanoseconds exceed what a double holds.
            None => return integer(6).or_else(|| integer(3)),
            Some(nano) => nano,
        },
        integer => return integer,
    };
    // Divisions of integers by constants are cheap, other than those of `scaled`.
    Some(match (nano % 1_000, nano % 1_000_000) {
        (_, 0) => (nano / 1_000_000, 3),
        (0, _) => (nano / 1_000, 6),
        _ => (nano, 9),
    })
}

fn put_patch(out: &mut Vec<u8>, old: u64, new: u64) {
    let change = old ^ new;
    let low = change.trailing_zeros() / 8;
    let count = 8 - low - change.leading_zeros() / 8;
    // At least one byte changed, so that the count less one fits three bits.
    out.push((low << 3 | (count - 1)) as u8);
    out.extend_from_slice(&(change >> (8 * low)).to_le_bytes()[..count as usize]);
}

/// Iterates over the positions of the ones.
pub(crate) fn bits(mut set: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let at = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(at)
    })
}

/// Reads one row, applies it to `state` and passes its items to `on_event`.
pub(crate) fn read_row(
    input: &mut Input<'_>,
    state: &mut GroupState,
    mut on_event: impl FnMut(Event),
) -> Result<(), Malformed> {
    let Some(head) = input.count()?.checked_sub(1) else {
        return Ok(());
    };
    let changes = head >> 2;
    // Bounds the work that a damaged count can cause.
    if changes > SET {
        return Err(Malformed);
    }
    if head & 1 != 0 {
        let mut slot = 0;
        for _ in 0..input.count_up_to(GROUP)? {
            slot += usize::from(input.byte()?);
            if slot >= GROUP {
                return Err(Malformed);
            }
            state.present ^= 1 << slot;
            on_event(Event::Flip(slot as u8));
            slot += 1;
        }
    }
    if changes == SET {
        let set = input.take(SET_BYTES)?;
        let set = u128::from_le_bytes(set.try_into().map_err(|_| Malformed)?);
        for slot in bits(set) {
            let value = &mut state.values[slot];
            match input.varint()?.checked_sub(1) {
                Some(difference) => apply_difference(value, difference)?,
                None => apply_patch(value, input)?,
            }
            on_event(Event::Value(slot as u8, *value));
        }
    } else {
        let mut slot = 0;
        for _ in 0..changes {
            let token = input.varint()?;
            slot = usize::try_from(token >> 1)
                .ok()
                .and_then(|gap| gap.checked_add(slot))
                .ok_or(Malformed)?;
            let value = state.values.get_mut(slot).ok_or(Malformed)?;
            if token & 1 == DIFFERENCE {
                apply_difference(value, input.varint()?)?;
            } else {
                apply_patch(value, input)?;
            }
            on_event(Event::Value(slot as u8, *value));
            slot += 1;
        }
    }
    if head & 2 != 0 {
        for _ in 0..input.count_up_to(GROUP)? {
            let slot = input.byte()?;
            if usize::from(slot) >= GROUP {
                return Err(Malformed);
            }
            on_event(Event::Timestamp(slot, input.signed()?));
        }
    }
    Ok(())
}

fn apply_difference(value: &mut u64, difference: u64) -> Result<(), Malformed> {
    // The writer takes this form only between two decimals.
    let (old, exponent) = decimal(*value).ok_or(Malformed)?;
    *value = decimal::restored(old.wrapping_add(unzigzag(difference)), exponent);
    Ok(())
}

fn apply_patch(value: &mut u64, input: &mut Input<'_>) -> Result<(), Malformed> {
    let shape = u32::from(input.byte()?);
    let (low, count) = (shape >> 3, (shape & 7) + 1);
    if low + count > 8 {
        return Err(Malformed);
    }
    let mut bytes = [0; 8];
    bytes[low as usize..(low + count) as usize].copy_from_slice(input.take(count as usize)?);
    *value ^= u64::from_le_bytes(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (-9_i64..9).prop_map(|v| (v as f64).to_bits()),
            (any::<i32>(), 0..11_i32)
                .prop_map(|(v, digits)| (f64::from(v) / 10_f64.powi(digits)).to_bits()),
            Just((-0.0_f64).to_bits()),
            Just(0x7ff8_0000_dead_beef),
            Just(f64::NEG_INFINITY.to_bits()),
            any::<f64>().prop_map(f64::to_bits),
            (0..=1_u64 << 53).prop_map(|v| (v as f64).to_bits())
        ]
    }

    /// States of which all values differ from one to the next, or a few.
    fn states() -> impl Strategy<Value = (Vec<u64>, u128)> {
        let few = prop::collection::btree_map(0..GROUP, values(), 0..24).prop_map(|changes| {
            let mut values = vec![0.003_f64.to_bits(); GROUP];
            for (slot, value) in changes {
                values[slot] = value;
            }
            values
        });
        (
            prop_oneof![prop::collection::vec(values(), GROUP), few],
            prop_oneof![any::<u128>(), Just(u128::MAX), Just(0)],
        )
    }

    fn row(old: &[f64], new: &[f64]) -> Vec<u8> {
        let group = |values: &[f64]| {
            let mut group: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
            group.resize(GROUP, 0);
            group
        };
        let mut bytes = Vec::new();
        let (old, new) = (group(old), group(new));
        put_row(&mut bytes, (&old, u128::MAX), (&new, u128::MAX), &[]);
        bytes
    }

    #[test]
    fn change_takes_the_length_of_its_difference() {
        // A head, a gap, and the difference of integers, in milli-, micro- and nanoseconds, or a patch.
        for (old, new, difference) in [
            (7.0, 8.0, 1),
            (1_512.54, 1_512.57, 1),
            (0.000_162, 0.000_149, 1),
            (0.000_162_893, 0.000_158_753, 2),
            (0.0, 0.5, 3),
            (0.1 + 0.2, 0.3, 2),
        ] {
            assert_eq!(row(&[old], &[new]).len(), 2 + difference, "{old} to {new}");
        }
        let old: Vec<f64> = (0..GROUP).map(|slot| slot as f64 + 0.25).collect();
        let new: Vec<f64> = old.iter().map(|value| value + 0.01).collect();
        assert_eq!(row(&old, &new).len(), 2 + SET_BYTES + GROUP);
    }

    proptest! {
        #[test]
        fn row_leads_from_each_state_to_the_next(
            rows in prop::collection::vec((states(), prop::collection::btree_map(0..GROUP as u8, any::<i64>(), 0..3)), 1..5),
        ) {
            let mut state = GroupState::default();
            for ((next, seen), timestamps) in rows {
                let timestamps: Vec<_> = timestamps.into_iter().collect();
                let mut bytes = Vec::new();
                put_row(&mut bytes, (&state.values, state.present), (&next, seen), &timestamps);
                let most = SLOT_ROW_BYTES_MAX * GROUP as u64 + timestamps.len() as u64 * 12 + 8;
                assert!(bytes.len() as u64 <= most, "{} of {most}", bytes.len());
                let mut found = Vec::new();
                let mut input = Input::new(&bytes);
                read_row(&mut input, &mut state, |event| if let Event::Timestamp(slot, offset) = event { found.push((slot, offset)) }).unwrap();
                assert!(input.is_empty());
                assert_eq!(found, timestamps);
                assert_eq!(state.present, seen);
                for slot in bits(seen) {
                    assert_eq!(state.values[slot], next[slot]);
                }
            }
        }

        #[test]
        fn invalid_row_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            read_row(&mut Input::new(&bytes), &mut GroupState::default(), |_| ()).ok();
        }
    }
}
