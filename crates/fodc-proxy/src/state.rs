//! What the proxy knows: the agents, what each is being asked, and through which stream.
//!
//! One lock, held for table work only: never while a message is read, and never across a wait.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use steadfast_net::Tasks;
use steadfast_session::Time;
use steadfast_wire::fodc::{Matcher, RegisterAgentRequest, StreamMetricsResponse, matcher};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info};

use super::{
    answer::{Answer, Memory, Store},
    asking::{Asking, Effect, Heritage, Names, Outcome, Patience, Question, Reply, Request},
    config::Config,
    frames::Outbound,
    gather::spread,
    registry::{self, Agent, AgentId, Identity, Refusal, Registry, Unknown},
    series::Catalogue,
};

/// Who waits for what became of a question.
type Ticket = oneshot::Sender<Outcome<Answer>>;

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) counters: Counters,
    pub(super) tasks: Tasks,
    started: Instant,
    core: Mutex<Core>,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) registrations: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) forgotten: AtomicU64,
    pub(super) heartbeats: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) replies: AtomicU64,
    pub(super) samples: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) strangers: AtomicU64,
    pub(super) panics: AtomicU64,
}

#[derive(Debug)]
struct Core {
    registry: Registry,
    desks: BTreeMap<AgentId, Desk>,
    generations: u64,
}

/// Where one agent is served.
#[derive(Debug)]
struct Desk {
    asking: Asking<Ticket, Answer>,
    /// The stream on which it is asked.
    line: Option<Outbound>,
    /// Open streams that were asked before the one that is, by generation. Two that an agent opens one
    /// after the other may get here in the wrong order.
    spare: BTreeMap<u64, Spare>,
    /// Streams it holds, by method.
    streams: BTreeMap<&'static str, usize>,
    /// Ends all its streams.
    end: CancellationToken,
}

/// A metrics stream that another took the place of.
#[derive(Debug)]
struct Spare {
    line: Outbound,
    /// What comes on it next answers a question that nobody remembers.
    owes: bool,
}

/// One agent of which something is wanted.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    answer: oneshot::Receiver<Outcome<Answer>>,
    told: Option<Outcome<Answer>>,
    is_settled: bool,
}

impl Asked {
    /// Waits for what becomes of it.
    ///
    /// Cancel safe: the outcome is kept, and told by [`Asked::outcome`].
    pub(super) async fn settle(&mut self) {
        if !self.is_settled {
            self.told = (&mut self.answer).await.ok();
            self.is_settled = true;
        }
    }

    /// What has become of it; `None` when nobody will ever tell.
    pub(super) fn outcome(&mut self) -> Option<Outcome<Answer>> {
        if self.is_settled {
            self.told.take()
        } else {
            self.answer.try_recv().ok()
        }
    }
}

/// What is known of one agent, for people.
#[derive(Debug)]
pub(super) struct Portrait {
    pub(super) agent: Agent,
    pub(super) status: registry::Status,
    pub(super) streams: BTreeMap<&'static str, usize>,
    pub(super) silent: bool,
    pub(super) owes: bool,
    pub(super) answered: Option<Time>,
    pub(super) discarded: u64,
    pub(super) double: bool,
}

impl State {
    pub(super) fn new(config: Config) -> Self {
        let registry = Registry::new(
            config.heartbeat_timeout,
            config.cleanup_timeout,
            config.max_agents,
        );
        Self {
            store: Store {
                catalogue: Catalogue::default(),
                memory: Memory::new(config.answer_bytes),
            },
            counters: Counters::default(),
            tasks: Tasks::new(),
            started: Instant::now(),
            core: Mutex::new(Core {
                registry,
                desks: BTreeMap::new(),
                generations: 0,
            }),
            config,
        }
    }

    pub(super) fn now(&self) -> Time {
        let micros = self.started.elapsed().as_micros();
        Time::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    pub(super) fn register(
        &self,
        id: &AgentId,
        request: &RegisterAgentRequest,
    ) -> Result<CancellationToken, Refusal> {
        let now = self.now();
        let mut core = self.lock();
        let displaced = core
            .registry
            .register(now, id.clone(), request)
            .inspect_err(|_| add(&self.counters.refused, 1))?;
        let mut heritage = Heritage::default();
        for old in &displaced.replaced {
            info!(agent = %old, by = %id, "replaced");
            add(&self.counters.replaced, 1);
            if let Some(desk) = core.desks.remove(old) {
                heritage = desk.asking.heritage();
                desk.end.cancel();
            }
        }
        if let Some(old) = &displaced.forgotten {
            self.forget(&mut core, old);
        }
        let end = CancellationToken::new();
        core.desks.insert(
            id.clone(),
            Desk {
                asking: Asking::new(self.patience(), heritage),
                line: None,
                spare: BTreeMap::new(),
                streams: BTreeMap::new(),
                end: end.clone(),
            },
        );
        add(&self.counters.registrations, 1);
        info!(agent = %id, "registered");
        Ok(end)
    }

    pub(super) fn heartbeat(
        &self,
        id: &AgentId,
        request: RegisterAgentRequest,
    ) -> Result<(), Unknown> {
        add(&self.counters.heartbeats, 1);
        let now = self.now();
        self.lock().registry.heartbeat(now, id, request)
    }

    /// The registration stream of an agent has ended, and with it all its others.
    pub(super) fn leave(&self, id: &AgentId) {
        let now = self.now();
        let mut core = self.lock();
        core.registry.leave(now, id);
        if let Some(desk) = core.desks.get(id) {
            desk.end.cancel();
            info!(agent = %id, "left");
        }
    }

    /// A stream other than the registration's; `None` when the agent is not known.
    pub(super) fn hold(&self, id: &AgentId, method: &'static str) -> Option<CancellationToken> {
        let mut core = self.lock();
        let desk = core.desks.get_mut(id)?;
        *desk.streams.entry(method).or_default() += 1;
        Some(desk.end.clone())
    }

    pub(super) fn release(&self, id: &AgentId, method: &'static str) {
        let mut core = self.lock();
        let Some(desk) = core.desks.get_mut(id) else {
            return;
        };
        if let Some(open) = desk.streams.get_mut(method) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                desk.streams.remove(method);
            }
        }
    }

    /// A metrics stream, on which the agent is asked from now on: its generation. `None` when the
    /// agent is not known.
    pub(super) fn open_metrics(&self, id: &AgentId, line: &Outbound) -> Option<u64> {
        let now = self.now();
        let mut core = self.lock();
        core.generations += 1;
        let generation = core.generations;
        let profile = core.registry.find(id)?.identity.instance.is_some();
        let desk = core.desks.get_mut(id)?;
        let older = desk.line.replace(line.clone());
        if let (Some(line), Some(its)) = (older, desk.asking.generation()) {
            let owes = desk.asking.owes();
            desk.spare.insert(its, Spare { line, owes });
        }
        self.with(desk, |asking, out| {
            asking.open(now, generation, profile, out);
        });
        Some(generation)
    }

    /// The metrics stream of this generation has ended. If another one is open, that one is asked
    /// again.
    pub(super) fn close_metrics(&self, id: &AgentId, generation: u64, oversized: bool) {
        let now = self.now();
        let mut core = self.lock();
        let Core {
            registry, desks, ..
        } = &mut *core;
        let (Some(agent), Some(desk)) = (registry.find(id), desks.get_mut(id)) else {
            return;
        };
        desk.spare.remove(&generation);
        self.with(desk, |asking, out| asking.close(generation, oversized, out));
        while desk.asking.generation().is_none()
            && let Some((other, spare)) = desk.spare.pop_last()
        {
            if spare.owes {
                // The agent opens another, if this was the one it means.
                let text = "another stream of this agent took the place of this one";
                spare.line.end(Status::aborted(text));
                continue;
            }
            desk.line = Some(spare.line);
            let profile = agent.identity.instance.is_some();
            self.with(desk, |asking, out| asking.open(now, other, profile, out));
        }
    }

    /// A message begins: whose it is, or `None` when nobody waits for it.
    pub(super) fn expected(&self, id: &AgentId, generation: u64) -> Option<Arc<Identity>> {
        let core = self.lock();
        let desk = core.desks.get(id)?;
        let agent = core.registry.find(id)?;
        let wanted = desk.asking.wants(generation);
        wanted.then(|| Arc::clone(&agent.identity))
    }

    /// A message has come; `kept` unless there was no room for it.
    pub(super) fn reply(&self, id: &AgentId, generation: u64, reply: Reply<Answer>, kept: bool) {
        add(&self.counters.replies, 1);
        add(&self.counters.samples, reply.data.len() as u64);
        add(&self.counters.rejected, reply.data.rejected);
        let now = self.now();
        let mut core = self.lock();
        let Some(desk) = core.desks.get_mut(id) else {
            return;
        };
        self.with(desk, |asking, out| {
            if kept {
                asking.reply(now, generation, reply, out);
            } else {
                asking.reply_lost(now, generation, reply, out);
            }
        });
    }

    /// The agents that `chosen` names.
    pub(super) fn chosen(&self, chosen: impl Fn(&Identity) -> bool) -> Vec<AgentId> {
        let core = self.lock();
        let agents = core.registry.agents();
        let agents = agents.filter(|agent| chosen(&agent.identity));
        agents.map(|agent| agent.id.clone()).collect()
    }

    /// Asks these agents; those that are not known any more are left out.
    pub(super) fn ask(
        &self,
        question: Question,
        names: &Names,
        deadline: Time,
        agents: &[AgentId],
    ) -> Vec<Asked> {
        let now = self.now();
        let mut core = self.lock();
        let Core {
            registry, desks, ..
        } = &mut *core;
        let mut asked = Vec::new();
        for id in agents {
            let (Some(agent), Some(desk)) = (registry.find(id), desks.get_mut(id)) else {
                continue;
            };
            let (ticket, answer) = oneshot::channel();
            self.with(desk, |asking, out| {
                asking.ask(now, question, names, ticket, deadline, out);
            });
            asked.push(Asked {
                id: agent.id.clone(),
                identity: Arc::clone(&agent.identity),
                answer,
                told: None,
                is_settled: false,
            });
        }
        asked
    }

    /// Lets all deadlines pass that are over at `now`, and forgets whoever has been away too long.
    pub(super) fn tick(&self, now: Time) {
        let mut core = self.lock();
        for desk in core.desks.values_mut() {
            self.with(desk, |asking, out| asking.tick(now, out));
        }
        for gone in core.registry.sweep(now) {
            self.forget(&mut core, &gone);
        }
        for gone in core.registry.drop_outlived(now) {
            info!(agent = %gone, "outlived by a later registration");
            add(&self.counters.replaced, 1);
            if let Some(desk) = core.desks.remove(&gone) {
                desk.end.cancel();
            }
        }
        debug_assert!(core.desks.len() == core.registry.agents().count());
    }

    /// All agents, in the order of their ids.
    pub(super) fn portraits(&self) -> Vec<Portrait> {
        let now = self.now();
        let core = self.lock();
        let doubles = core.registry.doubles(now);
        let portrait = |agent: &Agent| {
            let desk = core.desks.get(&agent.id)?;
            Some(Portrait {
                status: core.registry.status(now, agent),
                streams: desk.streams.clone(),
                silent: desk.asking.is_silent(),
                owes: desk.asking.owes(),
                answered: desk.asking.answered(),
                discarded: desk.asking.discarded(),
                double: doubles.binary_search(&agent.id).is_ok(),
                agent: agent.clone(),
            })
        };
        core.registry.agents().filter_map(portrait).collect()
    }

    /// Agents that are online, and all that are known.
    pub(super) fn census(&self) -> (usize, usize) {
        let now = self.now();
        let core = self.lock();
        let online = core
            .registry
            .agents()
            .filter(|agent| core.registry.status(now, agent) == registry::Status::Online)
            .count();
        (online, core.registry.agents().count())
    }

    fn forget(&self, core: &mut Core, id: &AgentId) {
        info!(agent = %id, "forgotten");
        add(&self.counters.forgotten, 1);
        if let Some(desk) = core.desks.remove(id) {
            desk.end.cancel();
        }
    }

    fn patience(&self) -> Patience {
        let deadline = self.config.agent_deadline;
        Patience {
            // Those that are asked last must be known as silent when the deadline is over, too.
            silent_after: deadline.saturating_sub(spread(deadline)),
            abandon_after: self.config.abandon_after,
            slice_bytes: self.config.max_message_bytes / SLICE_SHARE,
        }
    }

    /// Lets one agent's machine make a step, and does what it says.
    fn with(
        &self,
        desk: &mut Desk,
        step: impl FnOnce(&mut Asking<Ticket, Answer>, &mut Vec<Effect<Ticket, Answer>>),
    ) {
        let mut out = Vec::new();
        step(&mut desk.asking, &mut out);
        for effect in out {
            match effect {
                Effect::Send(request) => {
                    add(&self.counters.requests, 1);
                    if let Some(line) = &desk.line {
                        line.send(&wire(&request));
                    }
                }
                Effect::End(generation) => {
                    debug!(generation, "stream owes an answer for too long");
                    if let Some(line) = desk.line.take() {
                        line.end(Status::deadline_exceeded("an answer is owed for too long"));
                    }
                }
                // Whoever asked may have gone.
                Effect::Tell(ticket, outcome) => drop(ticket.send(outcome)),
            }
        }
        if desk.asking.generation().is_none() {
            desk.line = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A slice of a window shall weigh a quarter of the longest message, or the agent's samples may not
/// be so unevenly spread as to make one too long.
const SLICE_SHARE: usize = 4;

fn wire(request: &Request) -> StreamMetricsResponse {
    let (start_time, end_time) = match request.question {
        Question::Latest => (None, None),
        Question::Window(window) => (
            Some(window.start().timestamp()),
            Some(window.end().timestamp()),
        ),
    };
    StreamMetricsResponse {
        start_time,
        end_time,
        request_id: if request.profile { request.id } else { 0 },
        matchers: if request.profile {
            matchers(request.names.list())
        } else {
            Vec::new()
        },
        columnar: request.profile,
    }
}

/// One matcher, since all that there are must hold.
fn matchers(names: &[String]) -> Vec<Matcher> {
    let (kind, value) = match names {
        [] => return Vec::new(),
        [name] => (matcher::Type::Equal, name.clone()),
        several => {
            let escaped: Vec<String> = several
                .iter()
                .map(|name| regex_syntax::escape(name))
                .collect();
            (matcher::Type::Matches, escaped.join("|"))
        }
    };
    vec![Matcher {
        r#type: kind.into(),
        name: "__name__".to_owned(),
        value,
    }]
}

#[cfg(test)]
mod tests;
