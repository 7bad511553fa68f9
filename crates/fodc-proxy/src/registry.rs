//! Who the agents are, and which of them live.
//!
//! Nothing here waits for a sweep: whether an agent is online is computed from its last heartbeat at
//! the moment of the question (`docs/protocol-fodc.md`, R-103 to R-108).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use steadfast_session::Time;
use steadfast_wire::fodc::RegisterAgentRequest;

/// The role an agent reports until it knows its own.
pub(super) const UNRESOLVED: &str = "ROLE_UNSPECIFIED";

/// What an agent was given at its registration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AgentId(Arc<str>);

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) role: String,
    /// The pod, or `ip:port` of an agent that knows only its address.
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) containers: Vec<String>,
    pub(super) address: Option<(String, u16)>,
    /// The agent speaks the dialect of the releases, which have pods.
    pub(super) has_pod: bool,
    /// Which process it is; ours say so.
    pub(super) instance: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) registered: Time,
    pub(super) heartbeat: Time,
    pub(super) heartbeats: u64,
    /// When its registration stream ended.
    pub(super) left: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Online,
    Unconnected,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the maximum number of agents ({0}) has been reached")]
    Full(usize),
    #[error("node role cannot be empty")]
    NoRole,
    #[error("pod name cannot be empty, unless a primary address with ip and port is given")]
    NoName,
}

/// A heartbeat of an agent that is not, or no longer, known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("agent {0} not found")]
pub(super) struct Unknown(pub(super) AgentId);

/// Who had to make way for a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Displaced {
    /// The same agent, earlier.
    pub(super) replaced: Vec<AgentId>,
    /// Another one that was only remembered.
    pub(super) forgotten: Option<AgentId>,
}

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

    /// Enters an agent under a fresh id.
    pub(super) fn register(
        &mut self,
        now: Time,
        id: AgentId,
        request: &RegisterAgentRequest,
    ) -> Result<Displaced, Refusal> {
        debug_assert!(!self.agents.contains_key(&id), "ids are never given twice");
        let identity = Identity::of(request);
        let replaced: Vec<AgentId> = match &identity {
            Ok(identity) => self.predecessors(now, identity),
            Err(_) => Vec::new(),
        };
        if !self.has_room(now, &replaced, identity.as_ref().ok()) {
            return Err(Refusal::Full(self.max_agents));
        }
        let identity = Arc::new(identity?);
        for id in &replaced {
            self.agents.remove(id);
        }
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

    /// Any later message on the registration stream.
    pub(super) fn heartbeat(
        &mut self,
        now: Time,
        id: &AgentId,
        request: RegisterAgentRequest,
    ) -> Result<(), Unknown> {
        let agent = self.agents.get_mut(id).ok_or_else(|| Unknown(id.clone()))?;
        agent.heartbeat = now;
        agent.heartbeats += 1;
        agent.refresh(request);
        Ok(())
    }

    /// The registration stream of an agent has ended. It is remembered, but counts no more.
    pub(super) fn leave(&mut self, now: Time, id: &AgentId) {
        if let Some(agent) = self.agents.get_mut(id) {
            agent.left.get_or_insert(now);
        }
    }

    /// Forgets whoever has been silent for too long.
    pub(super) fn sweep(&mut self, now: Time) -> Vec<AgentId> {
        let gone: Vec<AgentId> = self
            .agents
            .values()
            .filter(|agent| now.since(agent.heartbeat) > self.cleanup_timeout)
            .map(|agent| agent.id.clone())
            .collect();
        for id in &gone {
            self.agents.remove(id);
        }
        gone
    }

    /// Removes those that are offline while a later registration of the same one is online: it came
    /// before its predecessor was seen to be gone.
    pub(super) fn drop_outlived(&mut self, now: Time) -> Vec<AgentId> {
        if self.agents.values().all(|agent| self.is_online(now, agent)) {
            return Vec::new();
        }
        let mut online: BTreeMap<&str, Vec<&Agent>> = BTreeMap::new();
        let mut offline = Vec::new();
        for agent in self.agents.values() {
            if self.is_online(now, agent) {
                let same = online.entry(&agent.identity.name).or_default();
                same.push(agent);
            } else {
                offline.push(agent);
            }
        }
        let outlived = |agent: &&Agent| {
            let same = online.get(agent.identity.name.as_str());
            same.into_iter().flatten().any(|other| {
                other.registered >= agent.registered && other.identity.is_same(&agent.identity)
            })
        };
        let gone: Vec<AgentId> = offline
            .into_iter()
            .filter(outlived)
            .map(|agent| agent.id.clone())
            .collect();
        for id in &gone {
            self.agents.remove(id);
        }
        gone
    }

    pub(super) fn find(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// All agents, those that left included, in the order of their ids.
    pub(super) fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    pub(super) fn status(&self, now: Time, agent: &Agent) -> Status {
        if self.is_online(now, agent) {
            Status::Online
        } else {
            Status::Unconnected
        }
    }

    /// Online agents that share their identity with another one.
    pub(super) fn doubles(&self, now: Time) -> Vec<AgentId> {
        let mut known: BTreeMap<&str, Vec<&Agent>> = BTreeMap::new();
        for agent in self
            .agents
            .values()
            .filter(|agent| self.is_online(now, agent))
        {
            known.entry(&agent.identity.name).or_default().push(agent);
        }
        let mut doubles = Vec::new();
        for same in known.into_values().filter(|same| same.len() > 1) {
            for agent in &same {
                let twin = |other: &&Agent| {
                    other.id != agent.id && other.identity.is_same(&agent.identity)
                };
                if same.iter().any(twin) {
                    doubles.push(agent.id.clone());
                }
            }
        }
        doubles.sort_unstable();
        doubles
    }

    fn is_online(&self, now: Time, agent: &Agent) -> bool {
        agent.left.is_none() && now.since(agent.heartbeat) <= self.heartbeat_timeout
    }

    /// Who is certainly the same agent, earlier: one that is not online, or the same process.
    fn predecessors(&self, now: Time, identity: &Identity) -> Vec<AgentId> {
        self.agents
            .values()
            .filter(|agent| agent.identity.is_same(identity))
            .filter(|agent| {
                let same_process =
                    identity.instance.is_some() && agent.identity.instance == identity.instance;
                same_process || !self.is_online(now, agent)
            })
            .map(|agent| agent.id.clone())
            .collect()
    }

    /// Whether one more may be online. What counts is who they are, not how often: an agent that
    /// comes back takes no second place while its old connection still looks alive.
    fn has_room(&self, now: Time, replaced: &[AgentId], newcomer: Option<&Identity>) -> bool {
        let online = self
            .agents
            .values()
            .filter(|agent| self.is_online(now, agent) && !replaced.contains(&agent.id));
        if online.clone().count() < self.max_agents {
            return true;
        }
        let Some(newcomer) = newcomer else {
            return false;
        };
        // An unresolved role is that of any other of the name.
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

    /// Of those that are not online; if all are, of those that are there more than once.
    fn forget_oldest(&mut self, now: Time) -> Option<AgentId> {
        let doubles = self.doubles(now);
        let oldest = self
            .agents
            .values()
            .map(|agent| (self.is_online(now, agent), agent))
            .filter(|(online, agent)| !online || doubles.binary_search(&agent.id).is_ok())
            .min_by_key(|(online, agent)| (*online, agent.heartbeat, agent.id.clone()))?
            .1
            .id
            .clone();
        self.agents.remove(&oldest);
        Some(oldest)
    }
}

impl Agent {
    /// What a heartbeat says replaces what was said before, but a role once known is not lost to an
    /// unresolved one, nor anything to an empty message.
    fn refresh(&mut self, request: RegisterAgentRequest) {
        let role = &request.node_role;
        if role.is_empty() || (role == UNRESOLVED && self.identity.role != UNRESOLVED) {
            return;
        }
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        if self.identity.role == request.node_role && self.identity.labels == labels {
            return;
        }
        let identity = Arc::make_mut(&mut self.identity);
        identity.role = request.node_role;
        identity.labels = labels;
    }
}

impl Identity {
    fn of(request: &RegisterAgentRequest) -> Result<Self, Refusal> {
        if request.node_role.is_empty() {
            return Err(Refusal::NoRole);
        }
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
            instance: request
                .profile
                .as_ref()
                .map(|profile| profile.instance.clone())
                .filter(|instance| !instance.is_empty()),
        })
    }

    /// Which of the agent's own labels this is: a bit for each that says no more than what the agent
    /// said at its registration. `None` for any other label, and for what has no bit left.
    pub(super) fn stamp(&self, name: &[u8], value: &[u8]) -> Option<u64> {
        let index = match *name.first()? {
            b'p' => (name == b"pod_name" && value == self.name.as_bytes()).then_some(0),
            b'n' if name == b"node_role" => (value == self.role.as_bytes()).then_some(1),
            b'n' => {
                let key = name.strip_prefix(b"node_")?;
                let mut labels = self.labels.iter();
                let place = labels.position(|(known, _)| known.as_bytes() == key)?;
                let known = self.labels.values().nth(place)?;
                (value == known.as_bytes()).then_some(2 + self.containers.len() + place)
            }
            b'c' if name == b"container_name" => {
                let mut containers = self.containers.iter();
                containers
                    .position(|known| known.as_bytes() == value)
                    .map(|place| 2 + place)
            }
            _ => None,
        };
        index.filter(|index| *index < 64).map(|index| 1 << index)
    }

    /// The labels that these bits stand for.
    pub(super) fn stamped(&self, mask: u64) -> Vec<(String, String)> {
        let own = [("pod_name", &self.name), ("node_role", &self.role)];
        let own = own
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.clone()));
        let containers = self.containers.iter();
        let containers = containers.map(|value| ("container_name".to_owned(), value.clone()));
        let labels = self.labels.iter();
        let labels = labels.map(|(name, value)| (format!("node_{name}"), value.clone()));
        let all = own.chain(containers).chain(labels).enumerate();
        let mut stamped: Vec<(String, String)> = all
            .filter(|(index, _)| *index < 64 && mask >> index & 1 == 1)
            .map(|(_, label)| label)
            .collect();
        stamped.sort_unstable();
        stamped
    }

    /// The same place in the world. An unresolved role is compatible with any.
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
