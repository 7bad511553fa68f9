//! Credit: how much a peer with the resume profile may send to each subscription.
//!
//! Totals on the wire count from the subscribe request and only grow, as QUIC's `MAX_DATA` does, so
//! that a grant can be neither lost nor applied twice.

use super::load::Load;

/// Bounds on the changes that are on their way or queued for the application, over all
/// subscriptions of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Number of changes in all.
    pub messages: u64,
    /// Weight of all changes, in bytes.
    pub bytes: u64,
    /// Number of changes of one subscription. It holds for credit only: a plain peer cannot be held
    /// back, so one subscription may use the whole total there.
    pub messages_per_subscription: u64,
}

impl Default for Limits {
    /// 16,384 changes and 8 MiB in all, 1,024 changes per subscription.
    fn default() -> Self {
        Self {
            messages: 16_384,
            bytes: 8 << 20,
            messages_per_subscription: 1_024,
        }
    }
}

impl Limits {
    /// Returns the capacity of one of `subscriptions`, at least one change and one byte.
    ///
    /// Shares shrink as subscriptions are added, but a grant is never taken back: until deliveries
    /// use it up, n subscriptions made one after another on one stream can hold up to
    /// 1 + ln(n / 16) times the total. The next restore grants even shares.
    pub(super) fn share(&self, subscriptions: usize) -> Load {
        let count = (subscriptions as u64).max(1);
        let messages = (self.messages / count).min(self.messages_per_subscription);
        Load {
            messages: messages.max(1),
            bytes: (self.bytes / count).max(1),
        }
    }
}

/// The credit of one subscription since its subscribe request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    pub(super) granted: Load,
    used: Load,
}

impl Credit {
    /// Returns the first grant: the share less the changes that are still queued.
    pub(super) fn new(share: Load, queued: Load) -> Self {
        Self {
            granted: Load {
                messages: share.messages.saturating_sub(queued.messages),
                bytes: share.bytes.saturating_sub(queued.bytes),
            },
            used: Load::default(),
        }
    }

    /// Counts a delivery. Returns `false` if the credit did not allow it.
    pub(super) fn spend(&mut self, weight: u64) -> bool {
        // One byte left is enough: the peer cannot split a change to fit the rest.
        let allowed =
            self.used.messages < self.granted.messages && self.used.bytes < self.granted.bytes;
        // Also when it was not allowed: the caller ends the stream then, and until it does the
        // account stays true.
        self.used.add(weight);
        allowed
    }

    /// Grants the free capacity of the queue, and returns the new totals if they are worth a
    /// message: half a share of either kind.
    ///
    /// A grant is never taken back. A subscription that has used up everything and whose queue is
    /// empty always gets a grant, so that nothing stalls.
    pub(super) fn grant(&mut self, share: Load, queued: Load) -> Option<Load> {
        let target = Load {
            messages: self.used.messages + share.messages.saturating_sub(queued.messages),
            bytes: self.used.bytes + share.bytes.saturating_sub(queued.bytes),
        };
        let more_messages = target.messages.saturating_sub(self.granted.messages);
        let more_bytes = target.bytes.saturating_sub(self.granted.bytes);
        // A grant per change would cost as many messages as the deliveries themselves.
        if more_messages < (share.messages / 2).max(1) && more_bytes < (share.bytes / 2).max(1) {
            return None;
        }
        self.granted.messages += more_messages;
        self.granted.bytes += more_bytes;
        Some(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Load = Load {
        messages: 4,
        bytes: 100,
    };

    #[test]
    fn shares_are_at_least_one_and_at_most_the_cap() {
        let limits = Limits::default();
        assert_eq!(limits.share(0).messages, 1_024);
        assert_eq!(limits.share(16).messages, 1_024);
        assert_eq!(limits.share(128).messages, 128);
        assert_eq!(limits.share(6_000).messages, 2);
        assert_eq!(limits.share(100_000).messages, 1);
        assert_eq!(limits.share(usize::MAX).bytes, 1);
    }

    #[test]
    fn credit_after_a_cut_is_capacity_less_what_is_queued() {
        let queued = Load {
            messages: 3,
            bytes: 250,
        };
        let credit = Credit::new(SHARE, queued);
        assert_eq!((credit.granted.messages, credit.granted.bytes), (1, 0));
    }

    #[test]
    fn grants_come_in_batches_of_half_a_share() {
        let mut credit = Credit::new(SHARE, Load::default());
        for _ in 0..2 {
            assert!(credit.spend(1));
        }
        let one_left = Load {
            messages: 1,
            bytes: 1,
        };
        assert_eq!(credit.grant(SHARE, one_left), None);
        let granted = credit
            .grant(SHARE, Load::default())
            .expect("two were taken");
        assert_eq!((granted.messages, granted.bytes), (6, 102));
    }

    #[test]
    fn at_a_share_of_one_each_change_is_granted_by_itself() {
        let share = Load {
            messages: 1,
            bytes: 1,
        };
        let mut credit = Credit::new(share, Load::default());
        for round in 1..=3 {
            assert_eq!(credit.grant(share, Load::default()), None, "none was used");
            assert!(credit.spend(1_000), "round {round}");
            assert!(!credit.clone().spend(1), "round {round}");
            let granted = credit.grant(share, Load::default()).expect("all was taken");
            assert_eq!(granted.messages, round + 1);
            assert!(granted.bytes > credit.used.bytes);
        }
    }

    #[test]
    fn a_shrunken_share_withholds_grants_until_it_is_met() {
        let mut credit = Credit::new(SHARE, Load::default());
        let smaller = Load {
            messages: 2,
            bytes: 50,
        };
        credit.spend(10);
        credit.spend(10);
        assert_eq!(credit.grant(smaller, Load::default()), None);
        credit.spend(10);
        credit.spend(10);
        let granted = credit.grant(smaller, Load::default()).expect("used up");
        assert_eq!((granted.messages, granted.bytes), (6, 100));
    }

    #[test]
    fn half_a_share_of_bytes_is_worth_a_grant() {
        for (weight, expected) in [(49, None), (50, Some((5, 150)))] {
            let mut credit = Credit::new(SHARE, Load::default());
            assert!(credit.spend(weight));
            let granted = credit.grant(SHARE, Load::default());
            let granted = granted.map(|total| (total.messages, total.bytes));
            assert_eq!(granted, expected, "{weight}");
        }
    }

    #[test]
    fn one_byte_left_is_enough_to_send_and_none_is_not() {
        for (first, is_left) in [(99, true), (100, false), (5_000, false)] {
            let mut credit = Credit::new(SHARE, Load::default());
            assert!(credit.spend(first));
            assert_eq!(credit.spend(5_000), is_left, "{first}");
            assert!(!credit.spend(1));
        }
    }
}
