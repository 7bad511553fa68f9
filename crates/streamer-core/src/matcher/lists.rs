//! The lists of one event, hashed once.

use std::hash::{BuildHasher as _, Hash as _, Hasher};

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use serde_json::Value as Json;

use super::{ids::FieldId, postings::spread};
use crate::filter::{Number, Value, equal};

/// The elements of the event's long lists by hash, made when the first condition asks. Without them, a
/// document of 1 MB and a filter of 63 `contains` would cost 30 million comparisons.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<(FieldId, HashTable<(u32, u32)>)>);

/// Elements up to which a list is scanned.
const SCANNED_MAX: usize = 16;

impl Lists {
    /// Returns whether an element of the list equals the value, and adds the elements looked at to
    /// `used`.
    pub(super) fn contains(
        &mut self,
        field: FieldId,
        elements: &[Json],
        value: &Value,
        hasher: &FixedState,
        used: &mut u64,
    ) -> bool {
        if elements.len() <= SCANNED_MAX {
            *used += elements.len() as u64 / 4;
            return elements.iter().any(|element| equal(element, value));
        }
        let known = self.0.iter().position(|(known, _)| *known == field);
        let at = known.unwrap_or_else(|| {
            *used += elements.len() as u64;
            self.0.push((field, table(elements, hasher)));
            self.0.len() - 1
        });
        let table = &self.0[at].1;
        let mut state = hasher.build_hasher();
        value.hash_canonical(&mut state);
        let hash = state.finish() as u32;
        let same = |&(known, at): &(u32, u32)| {
            known == hash
                && elements
                    .get(at as usize)
                    .is_some_and(|element| equal(element, value))
        };
        table.find(spread(hash), same).is_some()
    }
}

fn table(elements: &[Json], hasher: &FixedState) -> HashTable<(u32, u32)> {
    let mut table = HashTable::new();
    for (at, element) in elements.iter().enumerate() {
        let mut state = hasher.build_hasher();
        if hash_json(element, &mut state) {
            let hash = state.finish() as u32;
            let same = |(known, other): &(u32, u32)| {
                *known == hash && elements[*other as usize] == *element
            };
            table
                .entry(spread(hash), same, |(known, _)| spread(*known))
                .or_insert((hash, at as u32));
        }
    }
    table
}

/// Hashes JSON as [`Value::hash_canonical`] hashes an equal value. Returns false for what no value of a
/// filter equals: null, objects, and lists with those.
fn hash_json(json: &Json, state: &mut impl Hasher) -> bool {
    match json {
        Json::String(text) => text.as_str().hash(state),
        Json::Number(number) => match Number::of_json(number) {
            Some(number) => number.hash(state),
            None => return false,
        },
        Json::Bool(bool) => bool.hash(state),
        Json::Array(elements) => {
            elements.len().hash(state);
            return elements.iter().all(|element| hash_json(element, state));
        }
        Json::Null | Json::Object(_) => return false,
    }
    true
}
