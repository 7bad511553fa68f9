//! The groups that are listed under a range of one field, or under its presence.

use super::{
    SubscriptionKey,
    access::Access,
    condition::{Conditions, Kind, Scalar, Type},
    ids::{Entry, FieldId, GroupId},
    intervals::{Interval, Intervals},
    key_list::KeyList,
    members::Members,
    values::ValueRef,
};

/// The groups that are listed under ranges of a field, or under its presence.
#[derive(Debug, Default)]
pub(super) struct FieldIndex {
    /// Groups listed under a value that the field contains; without any, arrays are not looked into.
    pub(super) containing: u32,
    /// Groups listed under a value that the field equals.
    pub(super) equalling: u32,
    /// Boxed, because most fields are only ever compared for equality.
    ranges: Option<Box<[Ranges; 3]>>,
    /// Subscriptions whose only condition is that the field differs from a value.
    differing: Option<Box<KeyList>>,
    present: Option<Members<Entry>>,
}

/// Ranges over one type of values. Kept apart by the ends they have, because one range without an upper
/// end would make every leaf around it reach to the end.
#[derive(Debug, Default)]
struct Ranges {
    two_sided: Intervals,
    from: Intervals,
    up_to: Intervals,
}

impl FieldIndex {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            containing,
            equalling,
            ranges,
            differing,
            present,
        } = self;
        let lists = ranges.is_some() || differing.is_some() || present.is_some();
        *containing == 0 && *equalling == 0 && !lists
    }

    /// Counts a group that is listed under a value of the field, or no longer is.
    pub(super) fn count(&mut self, kind: Kind, listed: bool) {
        let count = match kind {
            Kind::Equals => &mut self.equalling,
            Kind::Contains => &mut self.containing,
            // Its groups have a list of their own.
            Kind::Differs => return,
        };
        // Exact, because a wrong zero would hide every group listed here.
        *count = if listed { *count + 1 } else { *count - 1 };
    }

    pub(super) fn insert_range(
        &mut self,
        of: Type,
        group: GroupId,
        field: FieldId,
        conditions: &Conditions,
    ) {
        let interval = interval(of, group, field, conditions);
        let ranges = self.ranges.get_or_insert_default();
        ranges[of as usize].of_shape(interval).insert(interval);
    }

    pub(super) fn remove_range(
        &mut self,
        of: Type,
        group: GroupId,
        field: FieldId,
        conditions: &Conditions,
    ) {
        let interval = interval(of, group, field, conditions);
        let Some(ranges) = &mut self.ranges else {
            return;
        };
        ranges[of as usize].of_shape(interval).remove(interval);
        // The field can only be released with nothing listed.
        if ranges.iter().all(Ranges::is_empty) {
            self.ranges = None;
        }
    }

    pub(super) fn insert_present(&mut self, group: GroupId) {
        insert(&mut self.present, Entry::new(group, false));
    }

    pub(super) fn remove_present(&mut self, group: GroupId) {
        remove(&mut self.present, Entry::new(group, false));
    }

    pub(super) fn insert_differing(&mut self, key: SubscriptionKey) {
        self.differing.get_or_insert_default().insert(key);
    }

    pub(super) fn remove_differing(&mut self, key: SubscriptionKey) {
        if let Some(differing) = &mut self.differing {
            differing.remove(key);
            if differing.len() == 0 {
                self.differing = None;
            }
        }
    }

    /// Returns the subscriptions whose only condition is that the field differs from a value.
    pub(super) fn differing(&self) -> Option<&KeyList> {
        self.differing.as_deref()
    }

    /// Appends the groups listed under the presence of the field or a range that the value lies in.
    pub(super) fn candidates(&self, value: ValueRef<'_>, out: &mut Vec<Entry>) {
        if let Some(present) = &self.present {
            // Null and objects count as present, too: `!=` holds for them.
            present.append_to(out);
        }
        let Some(ranges) = &self.ranges else {
            return;
        };
        let Some((of, key)) = Scalar::of_field(value).and_then(|value| value.ordered()) else {
            return;
        };
        let Ranges {
            two_sided,
            from,
            up_to,
        } = &ranges[of as usize];
        for intervals in [two_sided, from, up_to] {
            intervals.containing(key, |interval| {
                // At an end, equal keys may stand for different values.
                let inside = interval.low < key && key < interval.high;
                let entry = interval.entry;
                out.push(if inside { entry } else { entry.uncertain() });
            });
        }
    }

    /// Estimates the candidates of a range: of two-sided ones, those that its lower end lies in now; of
    /// one-sided ones, half.
    pub(super) fn range_cost(&self, of: Type, (low, high): (u64, u64)) -> usize {
        let ranges = self.ranges.as_deref().map(|ranges| &ranges[of as usize]);
        let len = |pick: fn(&Ranges) -> &Intervals| ranges.map_or(0, |it| pick(it).len());
        match (low, high) {
            // The constants make a value win against a range as long as few groups are listed.
            (u64::MIN, _) => len(|it| &it.up_to) / 2 + 4,
            (_, u64::MAX) => len(|it| &it.from) / 2 + 4,
            _ => ranges.map_or(0, |it| it.two_sided.count_containing(low, COUNTED_MAX)) + 2,
        }
    }
}

/// Ranges counted to choose an access; a million of them that overlap would hold up each insertion.
const COUNTED_MAX: usize = 64;

fn insert(list: &mut Option<Members<Entry>>, entry: Entry) {
    match list {
        Some(members) => members.insert(entry),
        None => *list = Some(Members::One(entry)),
    }
}

fn remove(list: &mut Option<Members<Entry>>, entry: Entry) {
    if let Some(members) = list
        && members.remove(entry)
    {
        *list = None;
    }
}

fn interval(of: Type, group: GroupId, field: FieldId, conditions: &Conditions) -> Interval {
    let (low, high) = conditions.range(field, of);
    let sole = Access::Range(field, of).is_sole(conditions);
    Interval {
        low,
        high,
        entry: Entry::new(group, sole),
    }
}

impl Ranges {
    fn of_shape(&mut self, interval: Interval) -> &mut Intervals {
        match (interval.low, interval.high) {
            (u64::MIN, _) => &mut self.up_to,
            (_, u64::MAX) => &mut self.from,
            _ => &mut self.two_sided,
        }
    }

    fn is_empty(&self) -> bool {
        self.two_sided.is_empty() && self.from.is_empty() && self.up_to.is_empty()
    }
}
