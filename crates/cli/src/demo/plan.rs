//! The plan of a demo, derived from its seed: the subscriptions, and the faults with their times.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::load::{
    author::{CITIES, COLLECTIONS, DATABASES, HOT_DOCUMENTS, KINDS, LABELS, PRICES},
    condition::{Condition, Op},
    fault::Kind,
    judge::Deliveries,
};

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Time since the start of the load.
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    /// Duration of the fault; for a kill, the time until the restart.
    pub(crate) lasts: Duration,
}

/// The subscribers and the faults of a demo.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The subscriptions of each client.
    pub(crate) clients: Vec<Vec<Deliveries>>,
    pub(crate) faults: Vec<Planned>,
}

/// Undisturbed load before the first fault and after the last one.
const CALM: Duration = Duration::from_millis(1_200);
/// Time from one fault to the next. A black hole is noticed after 1 s.
const SLOT: Duration = Duration::from_millis(2_400);
/// Shortest load with time for a fault.
pub(crate) const SHORTEST: Duration = Duration::from_secs(5);
const SUBSCRIPTIONS_PER_CLIENT: usize = 3;

impl Plan {
    pub(crate) fn new(seed: u64, clients: usize, duration: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            clients: subscriptions(&mut rng, clients),
            faults: faults(&mut rng, duration),
        }
    }
}

/// Returns the subscriptions of each client.
pub(crate) fn subscriptions(rng: &mut ChaCha8Rng, clients: usize) -> Vec<Vec<Deliveries>> {
    let mut numbers = 0..;
    let mut client = || {
        let numbers = numbers.by_ref().take(SUBSCRIPTIONS_PER_CLIENT);
        numbers.map(|number| subscription(rng, number)).collect()
    };
    (0..clients).map(|_| client()).collect()
}

/// Returns one fault per slot. Each kind occurs once before any is repeated.
fn faults(rng: &mut ChaCha8Rng, duration: Duration) -> Vec<Planned> {
    let mut faults = Vec::new();
    let mut kinds = Vec::new();
    let mut at = CALM;
    // A fault keeps its whole slot, and the calm at the end comes after the last one.
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

/// Returns one of eight kinds of subscriptions, in turn, so that all kinds are equally frequent.
fn subscription(rng: &mut ChaCha8Rng, number: usize) -> Deliveries {
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
    Deliveries::new(database, collection, conditions)
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
    fn twenty_seconds_have_every_kind_of_fault_without_overlap() {
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
        let deliveries: Vec<_> = plan.clients.iter().flatten().collect();
        let with = |op| {
            deliveries
                .iter()
                .any(|wanted| wanted.conditions.iter().any(|c| c.op == op))
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
        assert!(deliveries.iter().any(|wanted| wanted.conditions.is_empty()));
        assert!(
            deliveries
                .iter()
                .any(|l| l.conditions.iter().any(|c| c.field == "_id"))
        );
    }
}
