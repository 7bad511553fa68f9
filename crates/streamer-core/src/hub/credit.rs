//! The flow control of one subscription.

/// The number of messages and bytes that a peer still accepts, as totals since the subscribe request.
#[derive(Debug)]
pub(super) struct Credit {
    messages: Meter,
    bytes: Meter,
}

/// An amount used of a total that only grows.
#[derive(Debug)]
struct Meter {
    used: u64,
    allowed: u64,
}

/// The total of a peer that grants no credit; only its stream's queue bounds it. A value and no variant,
/// because there are as many as subscriptions.
const UNLIMITED: u64 = u64::MAX;

impl Credit {
    /// Returns the credit of a peer that grants none.
    pub(super) fn unlimited() -> Self {
        let meter = || Meter {
            used: 0,
            allowed: UNLIMITED,
        };
        Self {
            messages: meter(),
            bytes: meter(),
        }
    }

    pub(super) fn limited(messages: u64, bytes: u64) -> Self {
        let meter = |allowed: u64| Meter {
            used: 0,
            allowed: allowed.min(UNLIMITED - 1),
        };
        Self {
            messages: meter(messages),
            bytes: meter(bytes),
        }
    }

    pub(super) fn is_unlimited(&self) -> bool {
        self.messages.allowed == UNLIMITED
    }

    /// Returns true if one more delivery, of any size, may be sent.
    pub(super) fn is_open(&self) -> bool {
        // The last delivery may exceed the bytes: an event larger than the rest would otherwise never
        // be sent.
        self.messages.used < self.messages.allowed && self.bytes.used < self.bytes.allowed
    }

    /// Returns the number of further deliveries that may be sent, at most `max`.
    pub(super) fn messages_left(&self, max: usize) -> usize {
        let left = self.messages.allowed.saturating_sub(self.messages.used);
        usize::try_from(left).unwrap_or(usize::MAX).min(max)
    }

    /// Uses the credit of one delivery.
    pub(super) fn charge(&mut self, weight: usize) {
        debug_assert!(self.is_open(), "a delivery without credit");
        // Without a limit nothing is counted: no total is ever used up.
        if !self.is_unlimited() {
            self.messages.used += 1;
            // The event and not the message, which depends on what else shares it: the client must
            // count alike.
            self.bytes.used = self.bytes.used.saturating_add(weight as u64);
        }
    }

    /// Takes new totals. A smaller total than before has no effect.
    pub(super) fn grant(&mut self, total_messages: u64, total_bytes: u64) {
        // Totals instead of increments: a grant that is repeated does no harm.
        let raise = |meter: &mut Meter, total: u64| {
            meter.allowed = meter.allowed.max(total.min(UNLIMITED - 1));
        };
        raise(&mut self.messages, total_messages);
        raise(&mut self.bytes, total_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_a_peer_are_bounds_and_never_none() {
        let mut credit = Credit::limited(u64::MAX, u64::MAX);
        credit.grant(u64::MAX, u64::MAX);
        assert!(!credit.is_unlimited());
        let mut credit = Credit::limited(3, 100);
        for left in [3, 2, 1] {
            assert_eq!(
                (credit.messages_left(10), credit.messages_left(1)),
                (left, 1)
            );
            credit.charge(1);
        }
        assert_eq!(credit.messages_left(10), 0);
        credit.grant(5, 0);
        assert_eq!(credit.messages_left(10), 2);
    }
}
