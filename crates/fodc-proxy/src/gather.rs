//! Asks the agents that a question concerns, side by side, and waits no longer than the deadline.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answer::Answer,
    asking::{Names, Outcome, Question, Why},
    registry::{AgentId, Identity},
    state::{Asked, State},
};

/// Whom a question concerns, and which samples answer it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) role: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) address: Option<String>,
    pub(super) names: Names,
}

/// What one agent had to say.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) parts: Arc<Vec<Answer>>,
}

/// An agent whose answer is missing, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) name: String,
    pub(super) why: Why,
    pub(super) partly: bool,
}

/// What all agents together had to say.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) told: Vec<Told>,
    pub(super) missing: Vec<Missing>,
}

impl Filter {
    /// Roles are compared exactly, pods in any case, and an address is a part of `ip:port`.
    pub(super) fn chooses(&self, identity: &Identity) -> bool {
        let role = self.role.as_ref().is_none_or(|role| *role == identity.role);
        let pod = self
            .pod
            .as_ref()
            .is_none_or(|pod| pod.eq_ignore_ascii_case(&identity.name));
        let address = self.address.as_ref().is_none_or(|wanted| {
            identity
                .address
                .as_ref()
                .is_some_and(|(ip, port)| format!("{ip}:{port}").contains(wanted))
        });
        role && pod && address
    }

    /// Whether a sample whose own label contradicts its agent is wanted. The same comparisons: what
    /// is chosen by its agent can not be lost by the case of its label.
    pub(super) fn admits<'a>(&self, mut own: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        own.all(|(name, value)| match name {
            "node_role" => self.role.as_ref().is_none_or(|role| role == value),
            "pod_name" => self
                .pod
                .as_ref()
                .is_none_or(|pod| pod.eq_ignore_ascii_case(value)),
            _ => true,
        })
    }
}

/// Agents that are asked at once. All of a thousand at once would mean a thousand answers half read.
const BATCH: usize = 32;

/// How long the last ones wait at most for half of those before them to have answered, batch by
/// batch. It is taken from the deadline, of which the rest is everybody's.
pub(super) fn spread(patience: Duration) -> Duration {
    (patience / 4).min(Duration::from_millis(500))
}

/// Dropping the future leaves the questions with the agents; their answers are then discarded.
pub(super) async fn gather(
    state: &State,
    question: Question,
    filter: &Filter,
    patience: Duration,
) -> Gathered {
    let (now, until) = (state.now(), Instant::now() + patience);
    let deadline = now + patience;
    let agents = state.chosen(|identity| filter.chooses(identity));
    let batches = u32::try_from(agents.len().div_ceil(BATCH)).unwrap_or(u32::MAX);
    let pause = spread(patience) / batches.max(1);
    let mut asked = Vec::with_capacity(agents.len());
    for batch in agents.chunks(BATCH) {
        let before = asked.len();
        asked.extend(state.ask(question, &filter.names, deadline, batch));
        let half = asked.len() - (asked.len() - before) / 2;
        if asked.len() < agents.len() {
            let some = settle(&mut asked[before..half]);
            timeout(pause, some).await.ok();
        }
    }
    if timeout_at(until, settle(&mut asked)).await.is_err() {
        // Whoever is late is told so.
        state.tick(state.now().max(deadline));
    }
    let mut gathered = Gathered::default();
    for mut one in asked {
        let outcome = one.outcome();
        gathered.take(one, outcome);
    }
    // Ids are random; whoever compares two answers shall find the same lines in the same place.
    let name = |told: &Told| (told.identity.name.clone(), told.id.clone());
    gathered.told.sort_by_cached_key(name);
    gathered.missing.sort_by(|a, b| a.name.cmp(&b.name));
    gathered
}

async fn settle(asked: &mut [Asked]) {
    for one in asked {
        one.settle().await;
    }
}

impl Gathered {
    /// An answer that never came is that of an agent which was forgotten meanwhile.
    fn take(&mut self, asked: Asked, outcome: Option<Outcome<Answer>>) {
        let (parts, why) = match outcome {
            Some(Outcome::Whole(parts)) => (Some(parts), None),
            Some(Outcome::Part(parts, why)) => (Some(parts), Some(why)),
            Some(Outcome::Nothing(why)) => (None, Some(why)),
            None => (None, Some(Why::StreamEnded)),
        };
        if let Some(why) = why {
            self.missing.push(Missing {
                name: asked.identity.name.clone(),
                why,
                partly: parts.is_some(),
            });
        }
        if let Some(parts) = parts {
            self.told.push(Told {
                id: asked.id,
                identity: asked.identity,
                parts,
            });
        }
    }
}
