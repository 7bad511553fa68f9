//! All agents that the proxy remembers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use steadfast_net::access::KnownPeer;
use steadfast_session::Time;
use steadfast_wire::fodc::RegisterAgentRequest;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    agent_entry::AgentEntry,
    counters::Counters,
    credentials::Owner,
    filter::Filter,
    frames::Outbound,
    lanes::{LaneKind, Wire},
    query::{MetricNames, Outcome, Query, ResponsePart},
    query_queue::{CarriedState, QueryLimits, SliceShare, StreamEnd, sending_max},
    registry::{Agent, AgentId, Displaced, Identity, Refusal, Registry, UnknownAgent},
    samples::Samples,
    time::UnixNanos,
};

/// The registry, and beside each agent in it the entry that serves it.
#[derive(Debug)]
pub(super) struct Agents {
    registry: Registry,
    entries: BTreeMap<AgentId, AgentEntry>,
    /// The agents that can be asked for a window, in the order in which they are.
    window_queue: VecDeque<AgentId>,
    limits: QueryLimits,
    /// Ends the streams of all agents.
    end: CancellationToken,
    counters: Arc<Counters>,
    last_generation: u64,
}

/// A query to one agent, and the future of its outcome.
#[derive(Debug)]
pub(super) struct PendingResponse {
    id: AgentId,
    identity: Arc<Identity>,
    receiver: oneshot::Receiver<Outcome<Samples>>,
}

/// An agent that was queried, with the outcome of that.
#[derive(Debug)]
pub(super) struct QueriedAgent {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    /// `None` if the agent was forgotten meanwhile.
    pub(super) outcome: Option<Outcome<Samples>>,
}

/// A copy of an agent's state, for `/agents`.
#[derive(Debug)]
pub(super) struct AgentSummary {
    pub(super) agent: Agent,
    /// `online` or `unconnected`.
    pub(super) status: &'static str,
    pub(super) streams: BTreeMap<&'static str, usize>,
    pub(super) unresponsive: bool,
    pub(super) outstanding: bool,
    pub(super) responded: Option<Time>,
    pub(super) discarded: u64,
    pub(super) is_duplicate: bool,
}

/// An agent as the page shows it beside its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeAgent {
    pub(super) is_online: bool,
    pub(super) last_heartbeat: UnixNanos,
}

/// The agents that a tick removed.
#[derive(Debug)]
pub(super) struct Removed {
    /// Agents without a heartbeat for the cleanup timeout.
    pub(super) forgotten: Vec<AgentId>,
    /// Agents that a later registration of the same agent outlived.
    pub(super) outlived: Vec<AgentId>,
}

/// The agents that one principal may have online under one name. A node has one for each of its roles, and
/// those whose connection broke unnoticed. Without a limit, the token of one node could take the places of
/// all agents.
const NODE_AGENTS_MAX: usize = 16;

impl Agents {
    /// Creates the set without an agent. `end` ends the streams of all of them.
    pub(super) fn new(
        registry: Registry,
        limits: QueryLimits,
        end: CancellationToken,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            registry,
            entries: BTreeMap::new(),
            window_queue: VecDeque::new(),
            limits,
            end,
            counters,
            last_generation: 0,
        }
    }

    /// Registers an agent of the principal `owner`. Returns the agents that it displaced, and the token that
    /// ends its streams.
    pub(super) fn register(
        &mut self,
        now: Time,
        id: &AgentId,
        identity: Result<Identity, Refusal>,
        owner: Option<Owner>,
    ) -> Result<(Displaced, CancellationToken), Refusal> {
        if let (Some(owner), Ok(identity)) = (&owner, &identity) {
            self.check_node(now, owner, identity)?;
        }
        let displaced = self.registry.register(now, id.clone(), identity)?;
        // Carried over, or an agent that registers every minute would delay a page every minute.
        let mut carried = CarriedState::default();
        for old in &displaced.replaced {
            if let Some(entry) = self.remove(old) {
                carried = entry.queries.carried_state();
            }
        }
        if let Some(old) = &displaced.forgotten {
            self.remove(old);
        }
        // One wait for both ends: a stream that waited for each would take more memory.
        let end = self.end.child_token();
        let counters = Arc::clone(&self.counters);
        let entry = AgentEntry::new(now, self.limits, carried, end.clone(), counters, owner);
        self.entries.insert(id.clone(), entry);
        Ok((displaced, end))
    }

    /// Refuses a principal that has too many agents online under the name of this one.
    fn check_node(&self, now: Time, owner: &Owner, newcomer: &Identity) -> Result<(), Refusal> {
        // Registrations count, not roles: a heartbeat may still change the role of each.
        let online = self.registry.online(now).filter(|agent| {
            let entry = self.entries.get(&agent.id);
            let other = entry.and_then(|entry| entry.owner.as_ref());
            agent.identity.name == newcomer.name && other.is_some_and(|it| it.is_same(owner))
        });
        if online.count() >= NODE_AGENTS_MAX {
            return Err(Refusal::NodeFull(NODE_AGENTS_MAX));
        }
        Ok(())
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Time,
        id: &AgentId,
        request: &RegisterAgentRequest,
    ) -> Result<(), UnknownAgent> {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.queries.on_heartbeat(now);
        }
        self.registry.heartbeat(now, id, request)
    }

    /// Takes note of bytes of a message that is not complete yet.
    pub(super) fn on_progress(&mut self, now: Time, id: &AgentId, generation: u64) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.queries.on_progress(now, generation);
        }
    }

    /// Ends all streams of an agent whose registration stream has ended. Returns false if the agent
    /// was replaced before.
    pub(super) fn leave(&mut self, now: Time, id: &AgentId) -> bool {
        self.registry.leave(now, id);
        let entry = self.entries.get(id);
        entry.inspect(|entry| entry.end.cancel()).is_some()
    }

    /// Returns what an agent is now; `None` for an unknown one.
    pub(super) fn identity(&self, id: &AgentId) -> Option<Arc<Identity>> {
        Some(Arc::clone(&self.registry.find(id)?.identity))
    }

    /// Returns true if the agent belongs to this principal.
    pub(super) fn is_owned(&self, id: &AgentId, owner: &str) -> bool {
        let entry = self.entries.get(id);
        let known = entry.and_then(|entry| entry.owner.as_ref());
        known.is_some_and(|known| known.is(owner))
    }

    /// Returns the credentials of an agent's registration for a stream that shows its key.
    pub(super) fn credentials(
        &self,
        id: &AgentId,
        key: Uuid,
    ) -> Option<watch::Receiver<KnownPeer>> {
        self.entries.get(id)?.owner.as_ref()?.credentials(key)
    }

    /// Counts a stream other than the registration's. Returns the token that ends it, or `None` for
    /// an unknown agent.
    pub(super) fn open_stream(
        &mut self,
        id: &AgentId,
        method: &'static str,
    ) -> Option<CancellationToken> {
        let entry = self.entries.get_mut(id)?;
        entry.open_stream(method);
        Some(entry.end.clone())
    }

    pub(super) fn close_stream(&mut self, id: &AgentId, method: &'static str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.close_stream(method);
        }
    }

    /// Returns the lane of an agent for streams of one kind; `None` for an unknown agent.
    pub(super) fn wire<K: LaneKind>(&mut self, id: &AgentId) -> Option<&mut Wire<K>> {
        Some(K::wire(&mut self.entries.get_mut(id)?.lanes))
    }

    /// Sends queries of this kind to the agent on this stream. Returns its generation, or `None` for
    /// an unknown agent.
    pub(super) fn open_wire<K: LaneKind>(
        &mut self,
        id: &AgentId,
        outbound: Outbound,
    ) -> Option<u64> {
        // From the same counter as those of metrics streams, for the same reason.
        let generation = self.last_generation + 1;
        self.wire::<K>(id)?.open(generation, outbound);
        self.last_generation = generation;
        Some(generation)
    }

    /// Returns the registered agents by pod name. Of several with one name an online one counts, and of
    /// these the one with the newest heartbeat.
    pub(super) fn by_pod(&self, now: Time) -> HashMap<String, NodeAgent> {
        let wall = UnixNanos::wall_clock();
        let mut by_pod = HashMap::new();
        for agent in self.registry.agents() {
            let silent = now.since(agent.heartbeat).as_nanos();
            let silent = i64::try_from(silent).unwrap_or(i64::MAX);
            let found = NodeAgent {
                is_online: self.registry.is_online(now, agent),
                last_heartbeat: UnixNanos::from_nanos(wall.nanos().saturating_sub(silent)),
            };
            let known = by_pod.entry(agent.identity.name.clone()).or_insert(found);
            *known = (*known).max(found);
        }
        by_pod
    }

    /// Returns the online agents, in the order of their ids.
    pub(super) fn online(&self, now: Time) -> Vec<(AgentId, Arc<Identity>)> {
        let online = self.registry.online(now);
        online
            .map(|agent| (agent.id.clone(), Arc::clone(&agent.identity)))
            .collect()
    }

    /// Returns the online agents that a filter selects, in the order of their ids.
    pub(super) fn select_online(
        &self,
        now: Time,
        filter: &Filter,
    ) -> Vec<(AgentId, Arc<Identity>)> {
        let mut agents = self.online(now);
        agents.retain(|(_, identity)| filter.selects(identity));
        agents
    }

    /// Sends requests to the agent on this stream. Returns its generation, or `None` for an unknown
    /// agent.
    pub(super) fn open_metrics(
        &mut self,
        now: Time,
        id: &AgentId,
        outbound: Outbound,
    ) -> Option<u64> {
        let profile = self.registry.find(id)?.identity.has_profile();
        let entry = self.entries.get_mut(id)?;
        // Counted across all agents: no generation names streams of two registrations.
        self.last_generation += 1;
        entry.open_metrics(now, self.last_generation, profile, outbound);
        self.start_windows(now, std::slice::from_ref(id));
        Some(self.last_generation)
    }

    /// Takes note that the metrics stream of this generation has ended.
    pub(super) fn close_metrics(
        &mut self,
        now: Time,
        id: &AgentId,
        generation: u64,
        end: StreamEnd,
    ) {
        if let (Some(agent), Some(entry)) = (self.registry.find(id), self.entries.get_mut(id)) {
            let profile = agent.identity.has_profile();
            entry.close_metrics(now, generation, profile, end);
            self.start_windows(now, std::slice::from_ref(id));
        }
    }

    /// Returns the agent's identity if somebody waits for the message that begins now.
    pub(super) fn awaited(&self, id: &AgentId, generation: u64) -> Option<Arc<Identity>> {
        let awaited = self.entries.get(id)?.queries.is_waiting_on(generation);
        let agent = self.registry.find(id)?;
        awaited.then(|| Arc::clone(&agent.identity))
    }

    /// Takes a message of a metrics stream; `kept` is false if it did not fit into memory.
    pub(super) fn on_part(
        &mut self,
        now: Time,
        id: &AgentId,
        generation: u64,
        part: ResponsePart<Samples>,
        kept: bool,
    ) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.on_part(now, generation, part, kept);
            self.start_windows(now, std::slice::from_ref(id));
        }
    }

    /// Returns the agents whose identity satisfies `selects`.
    pub(super) fn select(&self, selects: impl Fn(&Identity) -> bool) -> Vec<AgentId> {
        // Offline agents too: they fail at once, and the page names them as missing.
        let agents = self.registry.agents();
        let selected = agents.filter(|agent| selects(&agent.identity));
        selected.map(|agent| agent.id.clone()).collect()
    }

    /// Returns how many of these agents are expected to send `bytes` of latest values together.
    pub(super) fn fitting(&self, agents: &[AgentId], bytes: usize) -> usize {
        let entries = agents.iter().filter_map(|id| self.entries.get(id));
        let expected: usize = entries.map(|entry| entry.queries.latest_bytes()).sum();
        bytes * agents.len() / expected.max(1)
    }

    /// Queues a query for each of these agents. Unknown ones are left out.
    pub(super) fn query(
        &mut self,
        now: Time,
        query: (Query, SliceShare),
        names: &MetricNames,
        deadline: Time,
        agents: &[AgentId],
    ) -> Vec<PendingResponse> {
        let known = agents.iter().filter_map(|id| {
            let identity = Arc::clone(&self.registry.find(id)?.identity);
            let entry = self.entries.get_mut(id)?;
            Some(PendingResponse {
                id: id.clone(),
                identity,
                receiver: entry.query(now, query, names, deadline),
            })
        });
        let pending = known.collect();
        self.start_windows(now, agents);
        pending
    }

    /// Lets these agents wait for windows, if they can be asked for one, and asks as many as may send
    /// windows at a time.
    fn start_windows(&mut self, now: Time, changed: &[AgentId]) {
        for id in changed {
            if let Some(entry) = self.entries.get_mut(id)
                && entry.queries.wants_window()
                && !std::mem::replace(&mut entry.waits_for_window, true)
            {
                self.window_queue.push_back(id.clone());
            }
        }
        if self.window_queue.is_empty() {
            return;
        }
        let entries = self.entries.values();
        let sending = entries.filter(|entry| entry.queries.is_sending_window(now));
        let mut free = sending_max(self.entries.len()).saturating_sub(sending.count());
        while free > 0
            && let Some(id) = self.window_queue.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.waits_for_window = false;
                free -= usize::from(entry.start_window(now));
            }
        }
    }

    /// Acts on the deadlines that have passed, and removes the agents that were away for too long.
    pub(super) fn on_tick(&mut self, now: Time) -> Removed {
        // Deadlines first: with an agent its queue goes, and with that the parts that its waiters
        // would get.
        for entry in self.entries.values_mut() {
            entry.on_tick(now);
        }
        // Those that do not send make space for others.
        self.start_windows(now, &[]);
        let removed = Removed {
            forgotten: self.registry.sweep(now),
            outlived: self.registry.drop_outlived(now),
        };
        for id in removed.forgotten.iter().chain(&removed.outlived) {
            self.remove(id);
        }
        debug_assert!(self.entries.len() == self.registry.agents().count());
        removed
    }

    /// Returns a summary of every agent, in the order of their ids.
    pub(super) fn summaries(&self, now: Time) -> Vec<AgentSummary> {
        let duplicates = self.registry.duplicates(now);
        let summary = |agent: &Agent| {
            let entry = self.entries.get(&agent.id)?;
            Some(AgentSummary {
                status: if self.registry.is_online(now, agent) {
                    "online"
                } else {
                    "unconnected"
                },
                streams: entry.streams.clone(),
                unresponsive: entry.queries.is_unresponsive(),
                outstanding: entry.queries.is_outstanding(),
                responded: entry.queries.responded(),
                discarded: entry.queries.discarded(),
                is_duplicate: duplicates.binary_search(&agent.id).is_ok(),
                agent: agent.clone(),
            })
        };
        self.registry.agents().filter_map(summary).collect()
    }

    /// Returns the number of online agents, and of all.
    pub(super) fn census(&self, now: Time) -> (usize, usize) {
        let online = self.registry.online(now).count();
        (online, self.registry.agents().count())
    }

    fn remove(&mut self, id: &AgentId) -> Option<AgentEntry> {
        let entry = self.entries.remove(id);
        // The handlers of its streams do not know the entry: only the token ends them.
        entry.inspect(|entry| entry.end.cancel())
    }
}

impl PendingResponse {
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Future for PendingResponse {
    type Output = QueriedAgent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<QueriedAgent> {
        let outcome = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(QueriedAgent {
            id: self.id.clone(),
            identity: Arc::clone(&self.identity),
            outcome: outcome.ok(),
        })
    }
}
