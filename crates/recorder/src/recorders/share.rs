//! Who makes room when several share a budget.

use crate::recorder::Claim;

/// What a member of so many keeps whatever the others write.
pub(super) fn guaranteed(budget: u64, members: usize) -> u64 {
    budget / 2 / members.max(1) as u64
}

/// Which of the claims, each with what it is guaranteed, lets its oldest part go: of those that have
/// more than that, the one that reaches back furthest. When none has, whoever needs room makes it
/// from its own.
pub(super) fn sparing(claims: &[(Claim, u64)]) -> Option<usize> {
    let all = claims.iter().enumerate();
    let sparing = all.filter(|(_, (claim, guaranteed))| claim.spares && claim.used > *guaranteed);
    let first = sparing.min_by_key(|(at, (claim, _))| (claim.oldest, *at));
    first.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(used: u64, oldest: i64, guaranteed: u64) -> (Claim, u64) {
        let claim = Claim {
            used,
            oldest: Some(oldest),
            spares: true,
        };
        (claim, guaranteed)
    }

    #[test]
    fn the_oldest_of_those_above_their_share_goes_first() {
        let claims = [claim(90, 5, 25), claim(20, 1, 25), claim(30, 4, 25)];
        assert_eq!(sparing(&claims), Some(2));
        assert_eq!(sparing(&claims[..2]), Some(0));
    }

    #[test]
    fn nobody_goes_below_what_is_guaranteed() {
        let claims = [claim(25, 5, 25), claim(20, 1, 25)];
        assert_eq!(sparing(&claims), None);
    }

    #[test]
    fn who_has_nothing_that_can_leave_is_passed_over() {
        let mut claims = [claim(90, 1, 25), claim(30, 2, 25)];
        claims[0].0.spares = false;
        assert_eq!(sparing(&claims), Some(1));
        claims[1].0.spares = false;
        assert_eq!(sparing(&claims), None);
    }

    #[test]
    fn a_record_that_nobody_asks_for_has_no_share() {
        let claims = [claim(20, 1, 25), claim(1, 9, 0)];
        assert_eq!(sparing(&claims), Some(1));
    }

    #[test]
    fn damaged_parts_without_a_time_go_before_all_others() {
        let mut claims = [claim(90, i64::MIN, 25), claim(90, 2, 25)];
        claims[1].0.oldest = None;
        assert_eq!(sparing(&claims), Some(1));
    }

    #[test]
    fn half_of_the_budget_is_guaranteed_in_equal_parts() {
        assert_eq!(guaranteed(1 << 20, 1), 1 << 19);
        assert_eq!(guaranteed(1 << 20, 4), 1 << 17);
        assert_eq!(guaranteed(1 << 20, 0), 1 << 19);
    }
}
