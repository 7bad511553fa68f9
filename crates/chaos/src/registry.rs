//! The shared state of a proxy: its connections and the faults in force.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    conditions::{ActiveFault, Conditions, Cut},
    connection::Connection,
    fault::{Fault, Reach},
    stats::{Affected, Stats},
};

/// The connections and faults of a proxy, shared by its handle, its guards and its tasks.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    /// False while new connections are refused.
    accepting: watch::Sender<bool>,
}

/// An accepted connection. Dropping it removes the connection from the registry, however its task
/// ends.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    faults: Vec<ActiveFault>,
    next_fault: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
    accepted: u64,
    /// Bytes of connections that are closed.
    closed_to_server: u64,
    closed_to_client: u64,
}

impl Registry {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self {
            state: Mutex::new(State {
                upstream,
                faults: Vec::new(),
                next_fault: 0,
                connections: BTreeMap::new(),
                accepted: 0,
                closed_to_server: 0,
                closed_to_client: 0,
            }),
            accepting: watch::Sender::new(true),
        }
    }

    pub(crate) fn set_upstream(&self, upstream: SocketAddr) {
        self.state().upstream = upstream;
    }

    /// Subscribes to the treatment of new connections: false while they are refused.
    pub(crate) fn accepting(&self) -> watch::Receiver<bool> {
        self.accepting.subscribe()
    }

    /// Puts a fault in force. Returns its id.
    pub(crate) fn inject(&self, fault: Fault, reach: Reach) -> (u64, Affected) {
        let mut state = self.state();
        let id = state.next_fault;
        state.next_fault += 1;
        let active = ActiveFault {
            id,
            fault,
            reach,
            // Under the lock that numbers connections: each is either before or after the fault.
            first_later: state.accepted,
        };
        // A refusal affects connections that are not accepted yet, whatever the reach says.
        let affected = state.affected(|number| fault != Fault::Refuse && active.affects(number));
        state.faults.push(active);
        self.apply(&state, None);
        (id, affected)
    }

    /// Ends a fault. Connections that lost bytes in a black hole are reset.
    pub(crate) fn remove(&self, id: u64) {
        let mut state = self.state();
        let Some(at) = state.faults.iter().position(|active| active.id == id) else {
            return;
        };
        let ended = state.faults.remove(at);
        if matches!(ended.fault, Fault::Blackhole(_)) {
            for connection in state.connections.values() {
                // Before `apply` lifts the black hole, or the bytes that it held would still pass.
                if ended.affects(connection.number) {
                    connection.set(Conditions::default(), Some(Cut::Reset));
                }
            }
        }
        self.apply(&state, None);
    }

    /// Cuts all open connections.
    pub(crate) fn cut(&self, cut: Cut) -> Affected {
        let state = self.state();
        let affected = state.affected(|_| true);
        self.apply(&state, Some(cut));
        affected
    }

    /// Registers an accepted connection. Returns the server to connect it to.
    pub(crate) fn register(self: &Arc<Self>) -> (Registration, SocketAddr) {
        let mut state = self.state();
        let number = state.accepted;
        state.accepted += 1;
        let conditions = Conditions::combine(number, &state.faults);
        let connection = Arc::new(Connection::new(number, conditions));
        state.connections.insert(number, connection.clone());
        let registration = Registration {
            registry: self.clone(),
            connection,
        };
        (registration, state.upstream)
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state();
        let mut sum = Stats {
            accepted: state.accepted,
            open: state.connections.len(),
            to_server: state.closed_to_server,
            to_client: state.closed_to_client,
            held: 0,
        };
        for connection in state.connections.values() {
            sum.to_server += connection.to_server.passed();
            sum.to_client += connection.to_client.passed();
            sum.held += connection.held();
        }
        sum
    }

    /// Locks the state. A poisoned lock is ignored: no change of the state can panic half-way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the current conditions to the listener and to every connection.
    fn apply(&self, state: &State, cut: Option<Cut>) {
        for connection in state.connections.values() {
            connection.set(Conditions::combine(connection.number, &state.faults), cut);
        }
        // Connections that are present were accepted before: a refusal cannot reach them.
        let refuses =
            |active: &ActiveFault| active.fault == Fault::Refuse && active.reach != Reach::Present;
        let accepting = !state.faults.iter().any(refuses);
        self.accepting
            .send_if_modified(|current| std::mem::replace(current, accepting) != accepting);
    }
}

impl State {
    fn affected(&self, affects: impl Fn(u64) -> bool) -> Affected {
        let mut affected = Affected::default();
        for connection in self.connections.values() {
            if affects(connection.number) {
                affected.connections += 1;
                affected.held += connection.held();
            }
        }
        affected
    }
}

impl Registration {
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // One lock for both steps, or `stats` could count these bytes twice or not at all.
        let mut state = self.registry.state();
        state.connections.remove(&self.connection.number);
        state.closed_to_server += self.connection.to_server.passed();
        state.closed_to_client += self.connection.to_client.passed();
    }
}
