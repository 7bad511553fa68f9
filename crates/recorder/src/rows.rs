//! Rows: the changes of a group of slots from one scrape to the next.
//!
//! ```text
//!   row        := 0                                       nothing changed
//!               | 1 + (changes << 2 | has_timetimestamps << 1 | has_flips)
//!                 flips? change* timetimestamps?
//!   flips      := count, (gap to the slot)*               slots that appear or disappear
//!   change     := gap << 1 | 0, integer difference
//!               | gap << 1 | 1, low << 3 | count - 1, count bytes to XOR with, from byte `low` on
//!   timetimestamps := count, (slot, offset to the scrape)*
//! ```

use crate::bytes::{Input, Malformed, put_count, put_signed, put_varint, zigzag};

/// The number of slots of a group. A segment has one checksum per group.
pub(crate) const GROUP: usize = 128;

/// The maximum length of one slot in a row: two bytes for its flip, two for the gap, nine for the value.
/// A timestamp adds up to twelve.
pub(crate) const SLOT_ROW_BYTES_MAX: u64 = 13;

const INTEGER: u64 = 0;
const BYTES: u64 = 1;

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
    // One is added so that a zero byte alone means an unchanged row.
    put_count(
        out,
        1 + (count << 2 | usize::from(!timestamps.is_empty()) << 1 | usize::from(flips != 0)),
    );
    if flips != 0 {
        put_count(out, flips.count_ones() as usize);
        let mut from = 0;
        for slot in bits(flips) {
            out.push((slot - from) as u8);
            from = slot + 1;
        }
    }
    let mut from = 0;
    for &slot in &changed[..count] {
        let slot = usize::from(slot);
        put_change(out, (slot - from) as u64, values[slot], next[slot]);
        from = slot + 1;
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
    if let (Some(old), Some(new)) = (integer(old), integer(new)) {
        let difference = zigzag(new - old);
        // A varint of seven bytes holds 49 bits. Beyond that the changed bytes are at most as long.
        if difference < 1 << 49 {
            put_varint(out, gap << 1 | INTEGER);
            put_varint(out, difference);
            return;
        }
    }
    put_varint(out, gap << 1 | BYTES);
    let change = old ^ new;
    let low = change.trailing_zeros() / 8;
    let count = 8 - low - change.leading_zeros() / 8;
    // At least one byte changed, so that the count less one fits three bits.
    out.push((low << 3 | (count - 1)) as u8);
    out.extend_from_slice(&(change >> (8 * low)).to_le_bytes()[..count as usize]);
}

/// Returns the integer that a value equals, if the integer determines the value bit for bit.
fn integer(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    // The cast saturates and turns NaN into zero. The comparison of bits rejects both.
    let integer = value as i64;
    (integer.unsigned_abs() < 1 << 53 && (integer as f64).to_bits() == bits).then_some(integer)
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
    if changes > GROUP {
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
    let mut slot = 0;
    for _ in 0..changes {
        let token = input.varint()?;
        slot = usize::try_from(token >> 1)
            .ok()
            .and_then(|gap| gap.checked_add(slot))
            .ok_or(Malformed)?;
        let value = state.values.get_mut(slot).ok_or(Malformed)?;
        if token & 1 == INTEGER {
            // The writer takes this form only between two exact integers.
            let old = integer(*value).ok_or(Malformed)?;
            *value = (old.wrapping_add(input.signed()?) as f64).to_bits();
        } else {
            let shape = u32::from(input.byte()?);
            let (low, count) = (shape >> 3, (shape & 7) + 1);
            if low + count > 8 {
                return Err(Malformed);
            }
            let mut bytes = [0; 8];
            bytes[low as usize..(low + count) as usize]
                .copy_from_slice(input.take(count as usize)?);
            *value ^= u64::from_le_bytes(bytes);
        }
        on_event(Event::Value(slot as u8, *value));
        slot += 1;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (-9_i64..9).prop_map(|v| (v as f64).to_bits()),
            Just((-0.0_f64).to_bits()),
            any::<f64>().prop_map(f64::to_bits),
            (0..1_u64 << 53).prop_map(|v| (v as f64).to_bits())
        ]
    }

    fn states() -> impl Strategy<Value = (Vec<u64>, u128)> {
        (
            prop::collection::vec(values(), GROUP),
            prop_oneof![any::<u128>(), Just(u128::MAX), Just(0)],
        )
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
