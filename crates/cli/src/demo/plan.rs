//! What the demo does, all of it from the seed: who subscribes to what, which faults come when.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{
    condition::{Condition, Op},
    judge::Ledger,
    workload::{CITIES, COLLECTIONS, DATABASES, HOT_DOCUMENTS, KINDS, LABELS, PRICES},
};

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
    /// Everything stops and goes on, shorter than anybody's patience.
    Freeze,
    /// The server is killed with SIGKILL and started again.
    Kill,
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Since the beginning of the load.
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    /// How long it holds; for a kill, how long the server stays away.
    pub(crate) lasts: Duration,
}

/// Everything the seed decides about the subscribers and the faults.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Per client, its subscriptions.
    pub(crate) clients: Vec<Vec<Ledger>>,
    pub(crate) faults: Vec<Planned>,
}

/// The load runs this long before the first fault and after the last one.
const CALM: Duration = Duration::from_millis(1_200);
/// Time from one fault to the next: a black hole takes 1 s to be noticed.
const SLOT: Duration = Duration::from_millis(2_400);
/// Shortest load that has room for a fault.
pub(crate) const SHORTEST: Duration = Duration::from_secs(5);
const SUBSCRIPTIONS_PER_CLIENT: usize = 3;

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Reset,
        Self::BlackHole,
        Self::BlackHoleToServer,
        Self::BlackHoleToClient,
        Self::Freeze,
        Self::Kill,
    ];

    /// The name in tables and in JSON.
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

    fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Reset => 0,
            Self::BlackHole | Self::BlackHoleToServer | Self::BlackHoleToClient => 1_800,
            Self::Freeze => 500,
            Self::Kill => 250,
        })
    }
}

impl Plan {
    pub(crate) fn new(seed: u64, clients: usize, duration: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let clients = (0..clients)
            .map(|client| {
                (0..SUBSCRIPTIONS_PER_CLIENT)
                    .map(|at| subscription(&mut rng, client * SUBSCRIPTIONS_PER_CLIENT + at))
                    .collect()
            })
            .collect();
        Self {
            clients,
            faults: faults(&mut rng, duration),
        }
    }
}

/// One fault per slot; every kind comes once before one comes again.
fn faults(rng: &mut ChaCha8Rng, duration: Duration) -> Vec<Planned> {
    let mut faults = Vec::new();
    let mut kinds = Vec::new();
    let mut at = CALM;
    while at + SLOT + CALM <= duration {
        if kinds.is_empty() {
            kinds = Kind::ALL.to_vec();
            kinds.shuffle(rng);
        }
        let kind = kinds.pop().expect("refilled above when empty");
        faults.push(Planned {
            at,
            kind,
            lasts: kind.lasts(),
        });
        at += SLOT;
    }
    faults
}

/// The kinds of subscription take turns, so that every kind has as many.
fn subscription(rng: &mut ChaCha8Rng, number: usize) -> Ledger {
    let mut pick = |from: &[&'static str]| from[rng.random_range(0..from.len())];
    let (database, collection) = (pick(&DATABASES), pick(&COLLECTIONS));
    let conditions = match number % 8 {
        0 => Vec::new(),
        1 => vec![Condition::new("kind", Op::Equal, pick(&KINDS))],
        2 => vec![Condition::new("kind", Op::NotEqual, pick(&KINDS))],
        3 => {
            let low = rng.random_range(PRICES.start..PRICES.end / 2);
            let high = rng.random_range(low..PRICES.end);
            vec![
                Condition::new("price", Op::GreaterOrEqual, low),
                Condition::new("price", Op::Less, high),
            ]
        }
        4 => vec![Condition::new(
            "kind",
            Op::In,
            json!([pick(&KINDS), pick(&KINDS)]),
        )],
        5 => vec![Condition::new("labels", Op::Contains, pick(&LABELS))],
        6 => {
            let hot = rng.random_range(0..HOT_DOCUMENTS);
            vec![Condition::new("_id", Op::Equal, format!("hot-{hot}"))]
        }
        _ => vec![
            Condition::new("place.city", Op::Equal, pick(&CITIES)),
            Condition::new("rating", Op::Greater, 1.5),
            Condition::new("rating", Op::LessOrEqual, 4),
        ],
    };
    Ledger {
        database,
        collection,
        conditions,
        received: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_another_one_another() {
        let plan = |seed| format!("{:?}", Plan::new(seed, 20, Duration::from_secs(20)));
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
    }

    #[test]
    fn twenty_seconds_have_every_kind_of_fault_and_they_do_not_overlap() {
        for seed in 0..50 {
            let duration = Duration::from_secs(20);
            let faults = Plan::new(seed, 0, duration).faults;
            let kinds: BTreeSet<_> = faults.iter().map(|fault| fault.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len());
            for pair in faults.windows(2) {
                assert!(pair[0].at + pair[0].lasts < pair[1].at);
            }
            let last = faults[faults.len() - 1];
            assert!(last.at + last.lasts + CALM <= duration);
        }
    }

    #[test]
    fn the_shortest_demo_has_a_fault() {
        assert_eq!(Plan::new(1, 1, SHORTEST).faults.len(), 1);
    }

    #[test]
    fn every_kind_of_subscription_is_there() {
        let plan = Plan::new(1, 8, SHORTEST);
        let ledgers: Vec<_> = plan.clients.iter().flatten().collect();
        let with = |op| {
            ledgers
                .iter()
                .any(|ledger| ledger.conditions.iter().any(|c| c.op == op))
        };
        for op in [
            Op::Equal,
            Op::NotEqual,
            Op::GreaterOrEqual,
            Op::Less,
            Op::In,
            Op::Contains,
        ] {
            assert!(with(op), "{op:?}");
        }
        assert!(ledgers.iter().any(|ledger| ledger.conditions.is_empty()));
        assert!(
            ledgers
                .iter()
                .any(|l| l.conditions.iter().any(|c| c.field == "_id"))
        );
    }
}
