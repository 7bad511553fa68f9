//! What goes wrong.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A connection is reset: both ends learn of it, what is under way is lost.
    Reset,
    /// A connection is held up in both directions.
    BlackHole,
    /// A connection is held up towards the server.
    BlackHoleUp,
    /// A connection is held up towards the client.
    BlackHoleDown,
    /// The server does nothing for a while.
    Freeze,
    /// The server is killed and starts again on the same log.
    Kill,
    /// The server announces that it stops, stops, and starts again.
    Drain,
    /// An application takes nothing for a while.
    SlowConsumer,
    /// The server accepts, greets, and ends every stream at once, for a while.
    Flap,
    /// Messages of a stream that is gone arrive after its successor was opened.
    Late,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Reset,
        Self::BlackHole,
        Self::BlackHoleUp,
        Self::BlackHoleDown,
        Self::Freeze,
        Self::Kill,
        Self::Drain,
        Self::SlowConsumer,
        Self::Flap,
        Self::Late,
    ];

    /// The kinds that strike by themselves; the others follow from them.
    pub(crate) const STRIKING: [Self; 9] = [
        Self::Reset,
        Self::BlackHole,
        Self::BlackHoleUp,
        Self::BlackHoleDown,
        Self::Freeze,
        Self::Kill,
        Self::Drain,
        Self::SlowConsumer,
        Self::Flap,
    ];

    /// Its name in reports.
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
            Self::Late => "late",
        }
    }
}
