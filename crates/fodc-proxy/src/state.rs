//! The state that all parts of a running proxy share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use steadfast_net::{
    Refusals, Tasks,
    access::{AccessControl, PageRights, PrincipalLimits, Principals},
};
use steadfast_session::Time;
use steadfast_wire::fodc::RegisterAgentRequest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    agents::Agents,
    catalog::Catalog,
    config::Config,
    counters::Counters,
    crash_store::CrashStore,
    credentials::Credentials,
    profile_catalog::ProfileCatalog,
    query::ResponsePart,
    registry::{AgentId, Displaced, Identity, Refusal, Registry, UnknownAgent},
    samples::{MemoryBudget, Samples, Store},
    schema_consistency::SchemaHistory,
};

/// The shared state: the agents under one lock, the counters, and the tasks.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) store: Store,
    /// The memory of responses on the streams other than the metrics stream.
    pub(super) stream_memory: MemoryBudget,
    pub(super) counters: Arc<Counters>,
    /// What the listener for agents has refused.
    pub(super) agents_refused: Refusals,
    /// What the listener for HTTP has refused.
    pub(super) http_refused: Refusals,
    pub(super) tasks: Tasks,
    pub(super) access: AccessControl,
    /// The calls that the principals of agents make.
    pub(super) agent_calls: Principals,
    /// The rights of those who read pages.
    pub(super) pages: PageRights,
    started: Instant,
    agents: Mutex<Agents>,
    crashes: Mutex<CrashStore>,
    profiles: Mutex<ProfileCatalog>,
    schema: Mutex<SchemaHistory>,
}

impl State {
    pub(super) fn new(config: Config) -> Self {
        let registry = Registry::new(
            config.heartbeat_timeout,
            config.cleanup_timeout,
            config.max_agents,
        );
        let (counters, tasks) = (Arc::<Counters>::default(), Tasks::new());
        let (agents_refused, http_refused) = (Refusals::default(), Refusals::default());
        let access = AccessControl::default();
        Self {
            agent_calls: agent_calls(&config, &agents_refused),
            pages: page_rights(&config, &access, &http_refused),
            store: Store {
                catalog: Catalog::default(),
                memory: MemoryBudget::new(config.response_bytes),
            },
            stream_memory: MemoryBudget::new(config.stream_bytes),
            agents_refused,
            http_refused,
            access,
            started: Instant::now(),
            agents: Mutex::new(Agents::new(
                registry,
                config.query_limits(),
                tasks.drain_token(),
                Arc::clone(&counters),
            )),
            tasks,
            crashes: Mutex::default(),
            profiles: Mutex::default(),
            schema: Mutex::default(),
            counters,
            config,
        }
    }

    /// Returns the state of a proxy where peers need rights.
    pub(super) fn restricted_by(self, access: AccessControl) -> Self {
        let pages = page_rights(&self.config, &access, &self.http_refused);
        Self {
            access,
            pages,
            ..self
        }
    }

    pub(super) fn now(&self) -> Time {
        let micros = self.started.elapsed().as_micros();
        Time::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Locks the agents, for one operation: never while a message is read, and never across an await.
    pub(super) fn agents(&self) -> MutexGuard<'_, Agents> {
        // A panic ends one call and nothing else: the state of all other agents stays
        // usable.
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the crashes that are known, for one operation.
    pub(super) fn crashes(&self) -> MutexGuard<'_, CrashStore> {
        self.crashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the profiles that are known, for one operation. The agents are never locked meanwhile.
    pub(super) fn profiles(&self) -> MutexGuard<'_, ProfileCatalog> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the verdicts about the schema, for one operation. The agents are never locked meanwhile.
    pub(super) fn schema(&self) -> MutexGuard<'_, SchemaHistory> {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an agent and returns the token that ends its streams. There are no `credentials` without a
    /// policy.
    pub(super) fn register(
        &self,
        id: &AgentId,
        request: &RegisterAgentRequest,
        credentials: Option<&Credentials>,
    ) -> Result<CancellationToken, Refusal> {
        let registered = self.try_register(id, request, credentials);
        let counted = registered.inspect_err(|refusal| self.counters.refused.add(refusal.label()));
        let (displaced, end) = counted?;
        for old in &displaced.replaced {
            info!(agent = %old, by = %id, "agent replaced");
            self.counters.replaced.add(1);
        }
        if let Some(old) = &displaced.forgotten {
            self.on_forgotten(old);
        }
        self.counters.registrations.add(1);
        info!(agent = %id, "agent registered");
        Ok(end)
    }

    fn try_register(
        &self,
        id: &AgentId,
        request: &RegisterAgentRequest,
        credentials: Option<&Credentials>,
    ) -> Result<(Displaced, CancellationToken), Refusal> {
        let identity = Identity::of(request);
        // First: whoever may not register does not learn that the proxy is full.
        if let Ok(identity) = &identity
            && !self.may_be(credentials.map(Credentials::peer).as_ref(), identity)
        {
            return Err(Refusal::Forbidden);
        }
        let owner = credentials.map(Credentials::owner);
        self.agents().register(self.now(), id, identity, owner)
    }

    /// Returns true unless a heartbeat makes the agent a node that it may not be.
    pub(super) fn permits_heartbeat(
        &self,
        id: &AgentId,
        request: &RegisterAgentRequest,
        credentials: Option<&Credentials>,
    ) -> bool {
        let Some(credentials) = credentials else {
            return true;
        };
        let identity = self.agents().identity(id);
        let refreshed = identity.and_then(|identity| identity.refreshed(request));
        refreshed.is_none_or(|identity| self.may_be(Some(&credentials.peer()), &identity))
    }

    pub(super) fn heartbeat(
        &self,
        id: &AgentId,
        request: &RegisterAgentRequest,
    ) -> Result<(), UnknownAgent> {
        self.counters.heartbeats.add(1);
        self.agents().heartbeat(self.now(), id, request)
    }

    /// Ends all streams of an agent whose registration stream has ended.
    pub(super) fn leave(&self, id: &AgentId) {
        if self.agents().leave(self.now(), id) {
            info!(agent = %id, "agent left");
        }
    }

    /// Takes a message of a metrics stream; `kept` is false if it did not fit into memory.
    pub(super) fn on_part(
        &self,
        id: &AgentId,
        generation: u64,
        part: ResponsePart<Samples>,
        kept: bool,
    ) {
        self.counters.response_parts.add(1);
        self.counters.samples.add(part.data.len() as u64);
        self.counters.rejected.add(part.data.rejected);
        let now = self.now();
        self.agents().on_part(now, id, generation, part, kept);
    }

    /// Acts on the deadlines that have passed at `now`.
    pub(super) fn on_tick(&self, now: Time) {
        let removed = self.agents().on_tick(now);
        for agent in &removed.forgotten {
            self.on_forgotten(agent);
        }
        for agent in &removed.outlived {
            info!(%agent, "agent replaced by a later registration");
            self.counters.replaced.add(1);
        }
    }

    /// Returns the number of online agents, and of all that are remembered.
    pub(super) fn census(&self) -> (usize, usize) {
        self.agents().census(self.now())
    }

    fn on_forgotten(&self, agent: &AgentId) {
        info!(%agent, "agent forgotten");
        self.counters.forgotten.add(1);
    }
}

fn agent_calls(config: &Config, refused: &Refusals) -> Principals {
    let limits = PrincipalLimits {
        calls: config.principal_calls(),
        ..PrincipalLimits::default()
    };
    Principals::new(limits, refused.clone())
}

fn page_rights(config: &Config, access: &AccessControl, refused: &Refusals) -> PageRights {
    let limits = PrincipalLimits {
        // As one address: its connections have one request each.
        calls: config.max_http_connections.div_ceil(2),
        ..PrincipalLimits::default()
    };
    PageRights::new(access.clone(), limits, refused.clone())
}

#[cfg(test)]
mod tests;
