//! The flow control of one subscription.

/// The number of messages and bytes that a peer still accepts.
#[derive(Debug)]
pub(super) enum Credit {
    /// The peer grants no credit; only its stream's queue bounds it.
    Unlimited,
    /// Totals since the subscribe request.
    Limited { messages: Meter, bytes: Meter },
}

/// An amount used of a total that only grows.
#[derive(Debug, Default)]
pub(super) struct Meter {
    used: u64,
    allowed: u64,
}

impl Credit {
    pub(super) fn limited(messages: u64, bytes: u64) -> Self {
        let meter = |allowed| Meter { used: 0, allowed };
        Self::Limited {
            messages: meter(messages),
            bytes: meter(bytes),
        }
    }

    /// Returns true if one more delivery, of any size, may be sent.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Limited { messages, bytes } => {
                // The last delivery may exceed the bytes: an event larger than the rest would
                // otherwise never be sent.
                messages.used < messages.allowed && bytes.used < bytes.allowed
            }
        }
    }

    /// Uses the credit of one delivery.
    pub(super) fn charge(&mut self, weight: usize) {
        debug_assert!(self.is_open(), "a delivery without credit");
        match self {
            Self::Unlimited => {}
            Self::Limited { messages, bytes } => {
                messages.used += 1;
                // The event and not the message, which depends on what else shares it: the client
                // must count alike.
                bytes.used = bytes.used.saturating_add(weight as u64);
            }
        }
    }

    /// Takes new totals. A smaller total than before has no effect.
    pub(super) fn grant(&mut self, total_messages: u64, total_bytes: u64) {
        match self {
            Self::Unlimited => {}
            Self::Limited { messages, bytes } => {
                // Totals instead of increments: a grant that is repeated does no harm.
                messages.allowed = messages.allowed.max(total_messages);
                bytes.allowed = bytes.allowed.max(total_bytes);
            }
        }
    }
}
