//! Counters of what was refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The reason why a listener refused something or ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The listener has as many connections as it may have.
    Connections,
    /// The process has as many connections as it has descriptors for.
    Descriptors,
    /// The client has as many connections as one may have.
    ClientConnections,
    /// The connection sent no complete request in time.
    Silent,
    /// The client sends more requests than it may.
    RequestRate,
    /// The messages begun and not finished on the connection are too large together.
    ConnectionUnfinished,
    /// The messages begun and not finished on all connections are too large together.
    AllUnfinished,
    /// A message was begun and not finished in time.
    SlowMessage,
    /// The principal has as many open calls as one may have.
    PrincipalCalls,
    /// The principal makes more calls than it may.
    PrincipalRate,
    /// The request to a listener on loopback names another machine.
    Host,
}

/// What a listener has refused since its start. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<[AtomicU64; Refusal::ALL.len()]>);

impl Refusal {
    const ALL: [Self; 11] = [
        Self::Connections,
        Self::Descriptors,
        Self::ClientConnections,
        Self::Silent,
        Self::RequestRate,
        Self::ConnectionUnfinished,
        Self::AllUnfinished,
        Self::SlowMessage,
        Self::PrincipalCalls,
        Self::PrincipalRate,
        Self::Host,
    ];

    /// Returns the name that metrics show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
            Self::ClientConnections => "client_connections",
            Self::Silent => "silent",
            Self::RequestRate => "request_rate",
            Self::ConnectionUnfinished => "connection_unfinished",
            Self::AllUnfinished => "all_unfinished",
            Self::SlowMessage => "slow_message",
            Self::PrincipalCalls => "principal_calls",
            Self::PrincipalRate => "principal_rate",
            Self::Host => "host",
        }
    }
}

impl Refusals {
    /// Counts one refusal.
    pub fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }

    /// Returns the number of refusals for this reason.
    #[must_use]
    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Relaxed)
    }

    /// Returns the name and the number of each reason.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let all = Refusal::ALL.into_iter();
        all.map(|refusal| (refusal.name(), self.of(refusal)))
    }
}
