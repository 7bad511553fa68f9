//! How much may be on its way to, and waiting in, each subscription.
//!
//! Totals on the wire count from the subscribe request and only grow, as QUIC's `MAX_DATA` does, so
//! that a grant can be neither lost nor applied twice.

/// Bounds on what is on its way and waiting, of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes in all.
    pub messages: u64,
    /// Weight in all.
    pub bytes: u64,
    /// Changes of one subscription, however few there are. Not for plain peers, where a larger
    /// queue is the only defence against overflow.
    pub messages_per_subscription: u64,
}

impl Default for Limits {
    /// 16,384 changes and 8 MiB in all, 256 changes of one.
    fn default() -> Self {
        Self {
            messages: 16_384,
            bytes: 8 << 20,
            messages_per_subscription: 256,
        }
    }
}

impl Limits {
    /// The share of one of `subscriptions` towards a peer that keeps to credit.
    ///
    /// Shares shrink as subscriptions come, but what was granted stays granted: until deliveries
    /// use it up, n subscriptions made one after another on one stream can hold up to
    /// 1 + ln(n / 64) times the total. The next restore deals out even shares.
    pub(super) fn share(&self, subscriptions: usize) -> Share {
        let all = self.room(subscriptions);
        Share {
            messages: all.messages.min(self.messages_per_subscription.max(1)),
            ..all
        }
    }

    /// The part of the queue space of one of `subscriptions` with a peer that knows no credit.
    pub(super) fn room(&self, subscriptions: usize) -> Share {
        let of = (subscriptions as u64).max(1);
        Share {
            messages: (self.messages / of).max(1),
            bytes: (self.bytes / of).max(1),
        }
    }
}

/// What one subscription may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// Changes waiting in the queue of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Load {
    pub(super) fn add(&mut self, weight: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(weight);
    }

    pub(super) fn take(&mut self, messages: u64, bytes: u64) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether one more change may be queued; a change larger than the share fits an empty queue.
    pub(super) fn has_room(&self, share: Share) -> bool {
        self.messages < share.messages && self.bytes < share.bytes
    }

    /// Whether at least half of the share is free.
    pub(super) fn is_relieved(&self, share: Share) -> bool {
        self.messages <= share.messages / 2 && self.bytes <= share.bytes / 2
    }
}

/// Credit of one subscription since its subscribe request: what was granted, what was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) granted: Load,
    pub(super) used: Load,
}

impl Account {
    /// The first grant: capacity less what is still queued.
    pub(super) fn open(share: Share, queued: Load) -> Self {
        Self {
            granted: Load {
                messages: share.messages.saturating_sub(queued.messages),
                bytes: share.bytes.saturating_sub(queued.bytes),
            },
            used: Load::default(),
        }
    }

    /// Counts a delivery. `false` if it should not have been sent.
    pub(super) fn spend(&mut self, weight: u64) -> bool {
        let allowed =
            self.used.messages < self.granted.messages && self.used.bytes < self.granted.bytes;
        self.used.add(weight);
        allowed
    }

    /// Grants what the queue has room for, if that is worth a message: half a share of either kind.
    /// Never takes back. Whoever has used up everything and whose queue is empty is always granted,
    /// so that nothing stalls.
    pub(super) fn grant(&mut self, share: Share, queued: Load) -> Option<Load> {
        let target = Load {
            messages: self.used.messages + share.messages.saturating_sub(queued.messages),
            bytes: self.used.bytes + share.bytes.saturating_sub(queued.bytes),
        };
        let more_messages = target.messages.saturating_sub(self.granted.messages);
        let more_bytes = target.bytes.saturating_sub(self.granted.bytes);
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

    const SHARE: Share = Share {
        messages: 4,
        bytes: 100,
    };

    #[test]
    fn shares_are_at_least_one_and_at_most_the_cap() {
        let limits = Limits::default();
        assert_eq!(limits.share(0).messages, 256);
        assert_eq!(limits.share(64).messages, 256);
        assert_eq!(limits.share(128).messages, 128);
        assert_eq!(limits.share(6_000).messages, 2);
        assert_eq!(limits.share(100_000).messages, 1);
        assert_eq!(limits.share(usize::MAX).bytes, 1);
        assert_eq!(limits.room(1).messages, 16_384);
    }

    #[test]
    fn credit_after_a_cut_is_capacity_less_what_is_queued() {
        let queued = Load {
            messages: 3,
            bytes: 250,
        };
        let account = Account::open(SHARE, queued);
        assert_eq!((account.granted.messages, account.granted.bytes), (1, 0));
    }

    #[test]
    fn grants_come_in_batches_of_half_a_share() {
        let mut account = Account::open(SHARE, Load::default());
        for _ in 0..2 {
            assert!(account.spend(1));
        }
        let one_left = Load {
            messages: 1,
            bytes: 1,
        };
        assert_eq!(account.grant(SHARE, one_left), None);
        let granted = account
            .grant(SHARE, Load::default())
            .expect("two were taken");
        assert_eq!((granted.messages, granted.bytes), (6, 102));
    }

    #[test]
    fn at_a_share_of_one_each_change_is_granted_by_itself() {
        let share = Share {
            messages: 1,
            bytes: 1,
        };
        let mut account = Account::open(share, Load::default());
        for round in 1..=3 {
            assert!(account.spend(1_000), "round {round}");
            assert!(!account.clone().spend(1), "round {round}");
            let granted = account
                .grant(share, Load::default())
                .expect("all was taken");
            assert_eq!(granted.messages, round + 1);
            assert!(granted.bytes > account.used.bytes);
        }
    }

    #[test]
    fn a_shrunken_share_withholds_grants_until_it_is_met() {
        let mut account = Account::open(SHARE, Load::default());
        let smaller = Share {
            messages: 2,
            bytes: 50,
        };
        account.spend(10);
        account.spend(10);
        assert_eq!(account.grant(smaller, Load::default()), None);
        account.spend(10);
        account.spend(10);
        let granted = account.grant(smaller, Load::default()).expect("used up");
        assert_eq!((granted.messages, granted.bytes), (6, 100));
    }

    #[test]
    fn one_byte_left_is_enough_to_send_and_none_is_not() {
        let mut account = Account::open(SHARE, Load::default());
        assert!(account.spend(99));
        assert!(account.spend(5_000));
        assert!(!account.spend(1));
    }
}
