//! How much more a peer lets come.

/// How much more may be sent.
#[derive(Debug)]
pub(super) enum Credit {
    /// The peer grants none; its stream's queue is the only bound.
    Unlimited,
    /// Totals since the subscribe request.
    Limited { messages: Meter, bytes: Meter },
}

/// Something counted against a total that only grows.
#[derive(Debug)]
pub(super) struct Meter {
    used: u64,
    allowed: u64,
}

impl Credit {
    /// What a subscribe request allows.
    pub(super) fn new(messages: u64, bytes: u64) -> Self {
        Self::Limited {
            messages: Meter {
                used: 0,
                allowed: messages,
            },
            bytes: Meter {
                used: 0,
                allowed: bytes,
            },
        }
    }

    /// Whether one more delivery may go, of whatever size.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Limited { messages, bytes } => {
                messages.used < messages.allowed && bytes.used < bytes.allowed
            }
        }
    }

    /// A delivery goes.
    pub(super) fn charge(&mut self, weight: usize) {
        debug_assert!(self.is_open(), "a delivery without credit");
        match self {
            Self::Unlimited => {}
            Self::Limited { messages, bytes } => {
                messages.used += 1;
                bytes.used = bytes.used.saturating_add(weight as u64);
            }
        }
    }

    /// Takes new totals; a total never shrinks.
    pub(super) fn grant(&mut self, total_messages: u64, total_bytes: u64) {
        match self {
            Self::Unlimited => {}
            Self::Limited { messages, bytes } => {
                messages.allowed = messages.allowed.max(total_messages);
                bytes.allowed = bytes.allowed.max(total_bytes);
            }
        }
    }
}
