//! The registered agents and which of them are online (`docs/protocol-fodc.md`, R-103 to R-108).
//!
//! A machine without clock or sockets. The status of an agent is computed from its last heartbeat when
//! it is asked for, so that it never waits for a sweep.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use steadfast_session::Time;
use steadfast_wire::fodc::RegisterAgentRequest;

/// The role that an agent reports until it has found out its own.
pub(super) const UNRESOLVED: &str = "ROLE_UNSPECIFIED";

/// The refusal of an agent that may not be the node that it wants to be.
pub(super) const NOT_THIS_NODE: &str = "you may not register as this node";

/// The id that the proxy gave an agent at its registration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AgentId(Arc<str>);

/// An agent's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) role: String,
    /// The pod's name, or `ip:port` of an agent without one.
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) containers: Vec<String>,
    pub(super) address: Option<(String, u16)>,
    /// The agent sent a pod's name, as the releases do; the first version sends an address only.
    pub(super) has_pod: bool,
    /// The id of the agent's process; only agents with the profile send it.
    pub(super) instance: Option<String>,
}

#[cfg(test)]
impl Identity {
    /// Returns the identity of an agent of the releases.
    pub(super) fn of_pod(name: &str, role: &str) -> Self {
        Self {
            role: role.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::new(),
            containers: Vec::new(),
            address: None,
            has_pod: true,
            instance: None,
        }
    }
}

/// One registration.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) registered: Time,
    /// The time of the last heartbeat, or of the registration.
    pub(super) heartbeat: Time,
    pub(super) heartbeats: u64,
    /// The time at which the registration stream ended.
    pub(super) left: Option<Time>,
}

/// The error returned when a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the maximum number of agents ({0}) has been reached")]
    Full(usize),
    #[error("node role cannot be empty")]
    NoRole,
    #[error("pod name cannot be empty, unless a primary address with ip and port is given")]
    NoName,
    #[error("{NOT_THIS_NODE}")]
    Forbidden,
    #[error(
        "{0} agents with your credentials are registered as this node, which is the limit; end some, \
         or wait until their heartbeats are missed"
    )]
    NodeFull(usize),
}

impl Refusal {
    /// Returns the word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::NoRole | Self::NoName => "identity",
            Self::Forbidden => "forbidden",
            Self::NodeFull(_) => "node",
        }
    }
}

/// The error returned for a heartbeat of an agent that is not, or no longer, registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agent {0} not found")]
pub(super) struct UnknownAgent(pub(super) AgentId);

/// The agents that a registration removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Displaced {
    /// Earlier registrations of the same agent.
    pub(super) replaced: Vec<AgentId>,
    /// An agent that was no longer online, removed for its slot.
    pub(super) forgotten: Option<AgentId>,
}

/// The agents that are online, and as many again that no longer are.
#[derive(Debug)]
pub(super) struct Registry {
    heartbeat_timeout: Duration,
    cleanup_timeout: Duration,
    max_agents: usize,
    agents: BTreeMap<AgentId, Agent>,
}

impl Registry {
    pub(super) fn new(
        heartbeat_timeout: Duration,
        cleanup_timeout: Duration,
        max_agents: usize,
    ) -> Self {
        Self {
            heartbeat_timeout,
            cleanup_timeout,
            max_agents,
            agents: BTreeMap::new(),
        }
    }

    /// Registers an agent under a new id, unless its identity was refused.
    pub(super) fn register(
        &mut self,
        now: Time,
        id: AgentId,
        identity: Result<Identity, Refusal>,
    ) -> Result<Displaced, Refusal> {
        debug_assert!(!self.agents.contains_key(&id), "ids are never reused");
        let replaced: Vec<AgentId> = match &identity {
            Ok(identity) => self.predecessors(now, identity),
            Err(_) => Vec::new(),
        };
        // Before the identity is judged: a full registry is the original's first reason, too.
        if !self.has_capacity(now, &replaced, identity.as_ref().ok()) {
            return Err(Refusal::Full(self.max_agents));
        }
        let identity = Arc::new(identity?);
        // Removed only now: a refused registration must not cost the agent the one that it has.
        for id in &replaced {
            self.agents.remove(id);
        }
        // Agents that left stay visible in `/agents`, but an agent that registers in a loop must
        // not fill the memory until the cleanup timeout.
        let is_full = self.agents.len() >= 2 * self.max_agents;
        let forgotten = is_full.then(|| self.forget_oldest(now)).flatten();
        self.agents.insert(
            id.clone(),
            Agent {
                id,
                identity,
                registered: now,
                heartbeat: now,
                heartbeats: 0,
                left: None,
            },
        );
        debug_assert!(self.agents.len() <= 2 * self.max_agents);
        Ok(Displaced {
            replaced,
            forgotten,
        })
    }

    /// Takes a later message of the registration stream.
    pub(super) fn heartbeat(
        &mut self,
        now: Time,
        id: &AgentId,
        request: &RegisterAgentRequest,
    ) -> Result<(), UnknownAgent> {
        let agent = self
            .agents
            .get_mut(id)
            .ok_or_else(|| UnknownAgent(id.clone()))?;
        agent.heartbeat = now;
        agent.heartbeats += 1;
        // Rarely anything, and a response may still hold the identity.
        if let Some(identity) = agent.identity.refreshed(request) {
            agent.identity = Arc::new(identity);
        }
        Ok(())
    }

    /// Marks an agent whose registration stream has ended. It is remembered, but not online.
    pub(super) fn leave(&mut self, now: Time, id: &AgentId) {
        if let Some(agent) = self.agents.get_mut(id) {
            agent.left.get_or_insert(now);
        }
    }

    /// Removes the agents without a heartbeat for the cleanup timeout.
    pub(super) fn sweep(&mut self, now: Time) -> Vec<AgentId> {
        let agents = self.agents.values();
        // Agents that left are kept just as long, counted from their last heartbeat.
        let silent = agents.filter(|agent| now.since(agent.heartbeat) > self.cleanup_timeout);
        let gone = silent.map(|agent| agent.id.clone()).collect();
        self.remove(gone)
    }

    /// Removes the agents that are offline while a later registration of the same agent is online. That
    /// one came before the connection of its predecessor was known to be broken.
    pub(super) fn drop_outlived(&mut self, now: Time) -> Vec<AgentId> {
        // The usual case, checked four times a second.
        if self.agents.values().all(|agent| self.is_online(now, agent)) {
            return Vec::new();
        }
        let online = self.online_by_name(now);
        let outlived = |agent: &&Agent| {
            let same = online.get(agent.identity.name.as_str());
            same.into_iter().flatten().any(|other| {
                // Equal times count: the clock has microseconds. An agent is not its own match,
                // because it is offline.
                other.registered >= agent.registered && other.identity.is_same(&agent.identity)
            })
        };
        let agents = self.agents.values();
        let offline = agents.filter(|agent| !self.is_online(now, agent));
        let gone = offline.filter(outlived).map(|agent| agent.id.clone());
        let gone = gone.collect();
        self.remove(gone)
    }

    pub(super) fn find(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// Returns all agents, including those that left, in the order of their ids.
    pub(super) fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// Returns true unless the agent has left or its last heartbeat is too long ago.
    pub(super) fn is_online(&self, now: Time, agent: &Agent) -> bool {
        agent.left.is_none() && now.since(agent.heartbeat) <= self.heartbeat_timeout
    }

    /// Returns the agents that are online, in the order of their ids.
    pub(super) fn online(&self, now: Time) -> impl Iterator<Item = &Agent> + Clone {
        let agents = self.agents.values();
        agents.filter(move |agent| self.is_online(now, agent))
    }

    /// Returns the online agents that share their identity with another one, sorted.
    pub(super) fn duplicates(&self, now: Time) -> Vec<AgentId> {
        let mut duplicates = Vec::new();
        // By name first: a thousand agents have a million pairs, and the agents are locked.
        for same in self.online_by_name(now).into_values() {
            for agent in &same {
                let twin = |other: &&Agent| {
                    other.id != agent.id && other.identity.is_same(&agent.identity)
                };
                if same.iter().any(twin) {
                    duplicates.push(agent.id.clone());
                }
            }
        }
        duplicates.sort_unstable();
        duplicates
    }

    fn online_by_name(&self, now: Time) -> BTreeMap<&str, Vec<&Agent>> {
        let mut agents: BTreeMap<&str, Vec<&Agent>> = BTreeMap::new();
        for agent in self.online(now) {
            agents.entry(&agent.identity.name).or_default().push(agent);
        }
        agents
    }

    /// Removes these agents and returns them.
    fn remove(&mut self, gone: Vec<AgentId>) -> Vec<AgentId> {
        for id in &gone {
            self.agents.remove(id);
        }
        gone
    }

    /// Returns the earlier registrations that this one certainly replaces: those of the same process,
    /// and those of the same identity that are not online.
    fn predecessors(&self, now: Time, identity: &Identity) -> Vec<AgentId> {
        self.agents
            .values()
            .filter(|agent| agent.identity.is_same(identity))
            .filter(|agent| {
                // A process holds one registration, however alive its old connection looks. Without
                // an instance it may be a real twin, and the two would end each other for ever.
                let same_process =
                    identity.instance.is_some() && agent.identity.instance == identity.instance;
                same_process || !self.is_online(now, agent)
            })
            .map(|agent| agent.id.clone())
            .collect()
    }

    /// Returns true if one more agent may be online. Identities count, not registrations: an agent that
    /// comes back needs no second slot while its old connection still looks alive.
    fn has_capacity(&self, now: Time, replaced: &[AgentId], newcomer: Option<&Identity>) -> bool {
        let online = self.online(now);
        let online = online.filter(|agent| !replaced.contains(&agent.id));
        // There are no more identities than registrations, so that the usual case needs no
        // grouping.
        if online.clone().count() < self.max_agents {
            return true;
        }
        let Some(newcomer) = newcomer else {
            return false;
        };
        // An agent with an unresolved role is taken for one of the same name whose role is known.
        let mut roles: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for one in online.map(|agent| &*agent.identity).chain([newcomer]) {
            let known = roles.entry(&one.name).or_default();
            if one.role != UNRESOLVED {
                known.insert(&one.role);
            }
        }
        let identities: usize = roles.values().map(|roles| roles.len().max(1)).sum();
        identities <= self.max_agents
    }

    /// Removes the agent with the oldest heartbeat: of those offline, or if none is, of the duplicates.
    fn forget_oldest(&mut self, now: Time) -> Option<AgentId> {
        let duplicates = self.duplicates(now);
        // One is always found: there are at most `max_agents` online identities among twice as many
        // agents. An online agent without a twin is never removed.
        let oldest = self
            .agents
            .values()
            .map(|agent| (self.is_online(now, agent), agent))
            .filter(|(online, agent)| !online || duplicates.binary_search(&agent.id).is_ok())
            .min_by_key(|(online, agent)| (*online, agent.heartbeat, agent.id.clone()))?
            .1
            .id
            .clone();
        self.agents.remove(&oldest);
        Some(oldest)
    }
}

impl Identity {
    /// Returns true if the agent speaks the profile.
    pub(super) fn has_profile(&self) -> bool {
        self.instance.is_some()
    }

    /// Returns the identity after a heartbeat; `None` if it changes nothing. A known role is not replaced by
    /// an unresolved one, and an empty message changes nothing.
    pub(super) fn refreshed(&self, request: &RegisterAgentRequest) -> Option<Self> {
        let role = &request.node_role;
        if role.is_empty() || (role == UNRESOLVED && self.role != UNRESOLVED) {
            return None;
        }
        let is_same = self.role == *role && self.labels.iter().eq(&request.labels);
        (!is_same).then(|| Self {
            role: role.clone(),
            labels: request.labels.clone().into_iter().collect(),
            ..self.clone()
        })
    }

    pub(super) fn of(request: &RegisterAgentRequest) -> Result<Self, Refusal> {
        if request.node_role.is_empty() {
            return Err(Refusal::NoRole);
        }
        // Port 0 and an empty ip are an address that was not filled in.
        let address = request.primary_address.as_ref().and_then(|address| {
            let port = u16::try_from(address.port).ok().filter(|port| *port > 0)?;
            (!address.ip.is_empty()).then(|| (address.ip.clone(), port))
        });
        let has_pod = !request.pod_name.is_empty();
        let name = match (&address, has_pod) {
            (_, true) => request.pod_name.clone(),
            (Some((ip, port)), false) => format!("{ip}:{port}"),
            (None, false) => return Err(Refusal::NoName),
        };
        Ok(Self {
            role: request.node_role.clone(),
            name,
            labels: request.labels.clone().into_iter().collect(),
            containers: request.container_names.clone(),
            address,
            has_pod,
            // An empty instance counts as none: all agents that send one would be the same process.
            instance: request
                .profile
                .as_ref()
                .map(|profile| profile.instance.clone())
                .filter(|instance| !instance.is_empty()),
        })
    }

    /// Returns the bit of a label that only repeats the agent's identity. `None` for any other label,
    /// and for those beyond the 64th. [`Identity::origin_labels`] reverses it.
    pub(super) fn origin_bit(&self, name: &[u8], value: &[u8]) -> Option<u64> {
        // This runs for each label of each sample: the first byte decides for most of them.
        let index = match *name.first()? {
            b'p' => (name == b"pod_name" && value == self.name.as_bytes()).then_some(0),
            b'n' if name == b"node_role" => (value == self.role.as_bytes()).then_some(1),
            b'n' => {
                let key = name.strip_prefix(b"node_")?;
                let mut labels = self.labels.iter();
                let position = labels.position(|(known, _)| known.as_bytes() == key)?;
                let known = self.labels.values().nth(position)?;
                (value == known.as_bytes()).then_some(2 + self.containers.len() + position)
            }
            b'c' if name == b"container_name" => {
                let mut containers = self.containers.iter();
                containers
                    .position(|known| known.as_bytes() == value)
                    .map(|position| 2 + position)
            }
            _ => None,
        };
        index.filter(|index| *index < 64).map(|index| 1 << index)
    }

    /// Returns the labels of these bits, sorted.
    pub(super) fn origin_labels(&self, mask: u64) -> Vec<(String, String)> {
        let own = [("pod_name", &self.name), ("node_role", &self.role)];
        let own = own
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.clone()));
        let containers = self.containers.iter();
        let containers = containers.map(|value| ("container_name".to_owned(), value.clone()));
        let labels = self.labels.iter();
        let labels = labels.map(|(name, value)| (format!("node_{name}"), value.clone()));
        let all = own.chain(containers).chain(labels).enumerate();
        let mut selected: Vec<(String, String)> = all
            // Labels beyond the 64th have no bit and stay on their samples; the shift would
            // overflow.
            .filter(|(index, _)| *index < 64 && mask >> index & 1 == 1)
            .map(|(_, label)| label)
            .collect();
        selected.sort_unstable();
        selected
    }

    /// Returns true if both describe the same agent. An unresolved role is compatible with any.
    fn is_same(&self, other: &Self) -> bool {
        let roles = self.role == other.role || self.role == UNRESOLVED || other.role == UNRESOLVED;
        self.name == other.name && roles
    }
}

impl AgentId {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
