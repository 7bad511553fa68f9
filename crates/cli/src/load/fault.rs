//! The kinds of faults that a run meets.

use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Every connection gets a TCP reset.
    Reset,
    /// Nothing passes either way.
    BlackHole,
    /// Nothing reaches the server.
    BlackHoleToServer,
    /// Nothing reaches the clients.
    BlackHoleToClient,
    /// All data stops and goes on before any timeout.
    Freeze,
    /// The server is killed with SIGKILL and started again.
    Kill,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Reset,
        Self::BlackHole,
        Self::BlackHoleToServer,
        Self::BlackHoleToClient,
        Self::Freeze,
        Self::Kill,
    ];

    /// Returns the name in tables and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::BlackHole => "black_hole",
            Self::BlackHoleToServer => "black_hole_to_server",
            Self::BlackHoleToClient => "black_hole_to_client",
            Self::Freeze => "freeze",
            Self::Kill => "kill_9",
        }
    }

    /// Returns the duration of the fault; for a kill, the time until the restart.
    pub(crate) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Reset => 0,
            // Longer than the demo's activity timeout of 1 s, so that clients notice by themselves.
            Self::BlackHole | Self::BlackHoleToServer | Self::BlackHoleToClient => 1_800,
            // Shorter than that timeout: a session may survive it.
            Self::Freeze => 500,
            Self::Kill => 250,
        })
    }
}
