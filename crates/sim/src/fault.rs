//! The kinds of faults.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A connection is reset: both ends learn of it, and items in flight are lost.
    Reset,
    /// A connection is blocked in both directions.
    BlackHole,
    /// A connection is blocked towards the server.
    BlackHoleUp,
    /// A connection is blocked towards the client.
    BlackHoleDown,
    /// The server process is suspended for a while.
    Freeze,
    /// The server is killed and starts again on the same log.
    Kill,
    /// The server announces that it stops, stops, and starts again.
    Drain,
    /// An application consumes nothing for a while.
    SlowConsumer,
    /// For a while, the server accepts and greets every stream and soon ends it.
    Flap,
    /// The oldest events of the log are removed, often more than some subscriptions have read.
    Trim,
    /// The rights of a client change.
    Rights,
    /// The credentials of a client are revoked, and for a while it gets no others.
    Revocation,
    /// Messages of an ended stream arrive after its successor was opened.
    Late,
    /// A stream ends because the credentials have expired.
    Expiry,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Reset,
        Self::BlackHole,
        Self::BlackHoleUp,
        Self::BlackHoleDown,
        Self::Freeze,
        Self::Kill,
        Self::Drain,
        Self::SlowConsumer,
        Self::Flap,
        Self::Trim,
        Self::Rights,
        Self::Revocation,
        Self::Late,
        Self::Expiry,
    ];

    /// The kinds that are injected. The last two follow from others, and from short credentials.
    pub(crate) const INJECTED: &[Self] = Self::ALL.split_at(12).0;

    /// Returns the name for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::BlackHole => "black_hole",
            Self::BlackHoleUp => "black_hole_up",
            Self::BlackHoleDown => "black_hole_down",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
            Self::Drain => "drain",
            Self::SlowConsumer => "slow_consumer",
            Self::Flap => "flap",
            Self::Trim => "trim",
            Self::Rights => "rights",
            Self::Revocation => "revocation",
            Self::Late => "late",
            Self::Expiry => "expiry",
        }
    }
}
