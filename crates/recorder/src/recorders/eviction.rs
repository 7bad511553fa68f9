//! The choice of the recorder that evicts when several share a budget.

use crate::recorder::Usage;

/// Returns the share of the budget that is reserved for each recorder.
pub(super) fn reserved(budget: u64, recorders: usize) -> u64 {
    // Half: with the whole, a page of fifty series would get a month and a large one an hour.
    budget / 2 / recorders.max(1) as u64
}

/// Chooses the recorder that evicts its oldest part, given the usage and the reserved share of each: of
/// those that exceed their share, the one with the oldest data. `None` if no recorder does; the one that
/// needs space then evicts its own data.
pub(super) fn choose(usages: &[(Usage, u64)]) -> Option<usize> {
    let all = usages.iter().enumerate();
    let over = all.filter(|(_, (usage, reserved))| usage.can_evict && usage.used > *reserved);
    // Damaged parts have no time. `None` sorts first, so that they go first.
    let oldest = over.min_by_key(|(at, (usage, _))| (usage.oldest, *at));
    oldest.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(used: u64, oldest: i64, reserved: u64) -> (Usage, u64) {
        let usage = Usage {
            used,
            oldest: Some(oldest),
            can_evict: true,
        };
        (usage, reserved)
    }

    #[test]
    fn oldest_above_its_share_evicts_first() {
        let mut without_parts = usage(90, 1, 25);
        without_parts.0.can_evict = false;
        let mut damaged = usage(90, 2, 25);
        damaged.0.oldest = None;
        for (usages, chosen, case) in [
            (
                vec![usage(90, 5, 25), usage(20, 1, 25), usage(30, 4, 25)],
                Some(2),
                "the oldest",
            ),
            (
                vec![usage(90, 5, 25), usage(20, 1, 25)],
                Some(0),
                "the only one above its share",
            ),
            (
                vec![usage(25, 5, 25), usage(20, 1, 25)],
                None,
                "all within their shares",
            ),
            (
                vec![without_parts, usage(30, 2, 25)],
                Some(1),
                "one has no parts",
            ),
            (vec![without_parts, without_parts], None, "none has parts"),
            (
                vec![usage(20, 1, 25), usage(1, 9, 0)],
                Some(1),
                "a record without recorder",
            ),
            (
                vec![usage(90, i64::MIN, 25), damaged],
                Some(1),
                "damaged parts have no time",
            ),
        ] {
            assert_eq!(choose(&usages), chosen, "{case}");
        }
    }

    #[test]
    fn half_of_the_budget_is_reserved_in_equal_shares() {
        assert_eq!(reserved(1 << 20, 1), 1 << 19);
        assert_eq!(reserved(1 << 20, 4), 1 << 17);
        assert_eq!(reserved(1 << 20, 0), 1 << 19);
    }
}
