//! The proxy: a listener, its connections, and the faults in force.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    conditions::{Active, Conditions, Cut, Fault, Reach},
    connection::{Connection, arm_reset},
};

/// A proxy on a loopback port of its own.
///
/// Dropping it ends its tasks and sockets as soon as the runtime gets to it; [`Proxy::shutdown`]
/// waits for that. A guard may outlive its proxy and then does nothing.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// A fault in force. Dropping it ends the fault.
#[derive(Debug)]
#[must_use = "the fault ends when its guard is dropped"]
pub struct Guard {
    shared: Arc<Shared>,
    id: u64,
    hit: Hit,
}

/// What a fault met when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Connections it reached at once.
    pub connections: usize,
    /// Bytes the proxy had read from one side of them and not yet passed to the other.
    pub held: u64,
}

/// What a proxy has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections open now.
    pub alive: usize,
    /// Bytes passed to the server so far.
    pub to_server: u64,
    /// Bytes passed to clients so far.
    pub to_client: u64,
    /// Bytes read and not yet passed on, over the open connections.
    pub held: u64,
}

/// What one open connection has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Counts the connections of the proxy from 0.
    pub number: u64,
    /// Bytes passed to the server.
    pub to_server: u64,
    /// Bytes passed to the client.
    pub to_client: u64,
    /// Bytes for the server that are held back.
    pub held_to_server: u64,
    /// Bytes for the client that are held back.
    pub held_to_client: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How new connections are treated; the listener follows it.
    door: watch::Sender<Door>,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    faults: Vec<Active>,
    next_fault: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
    accepted: u64,
    /// Bytes of connections that are closed.
    past_to_server: u64,
    past_to_client: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// Connections stay in the backlog.
    Unaccepted,
    /// No listener.
    Refuse,
}

/// Wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

impl Proxy {
    /// Listens on a free loopback port and copies what comes to `upstream`.
    ///
    /// Must be called within a tokio runtime with io and time.
    ///
    /// # Errors
    ///
    /// When no loopback port can be bound.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        // Keeps the port ours while connections are refused: bound, never listening.
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = reservation
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a TCP socket without an internet address"))?;
        let listener = listen(addr)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                upstream,
                faults: Vec::new(),
                next_fault: 0,
                connections: BTreeMap::new(),
                accepted: 0,
                past_to_server: 0,
                past_to_client: 0,
            }),
            door: watch::Sender::new(Door::Open),
        });
        let stop = CancellationToken::new();
        let task = accept(shared.clone(), addr, listener, reservation, stop.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        Ok(Self {
            addr,
            shared,
            stop,
            task,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets later connections go to another server. Open ones stay where they are.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.state().upstream = upstream;
    }

    /// Lets a fault hold until the guard is dropped.
    pub fn inject(&self, fault: Fault, reach: Reach) -> Guard {
        let mut state = self.shared.state();
        let id = state.next_fault;
        state.next_fault += 1;
        let active = Active {
            id,
            fault,
            reach,
            boundary: state.accepted,
        };
        // These two are about connections that do not exist yet, whatever the reach says.
        let none = matches!(fault, Fault::Refuse | Fault::Unaccepted);
        let hit = state.hit(|connection| !none && active.reaches(connection.number));
        state.faults.push(active);
        self.shared.apply(&state, None);
        drop(state);
        Guard {
            shared: self.shared.clone(),
            id,
            hit,
        }
    }

    /// Resets every open connection, once.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn reset(&self) -> Hit {
        self.cut(Cut::Reset)
    }

    /// Ends every open connection in order (FIN to both sides), once.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn close(&self) -> Hit {
        self.cut(Cut::Close)
    }

    fn cut(&self, cut: Cut) -> Hit {
        let state = self.shared.state();
        let hit = state.hit(|_| true);
        self.shared.apply(&state, Some(cut));
        hit
    }

    /// What the proxy has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let connections = self.connections();
        let state = self.shared.state();
        let sum = |of: fn(&ConnectionStats) -> u64| connections.iter().map(of).sum::<u64>();
        Stats {
            accepted: state.accepted,
            alive: state.connections.len(),
            to_server: state.past_to_server + sum(|c| c.to_server),
            to_client: state.past_to_client + sum(|c| c.to_client),
            held: sum(|c| c.held_to_server + c.held_to_client),
        }
    }

    /// The open connections, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionStats> {
        self.shared
            .state()
            .connections
            .values()
            .map(|connection| connection.stats())
            .collect()
    }

    /// Ends every connection and task, and waits for that.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // An error here is a panic of the proxy's own task, which the runtime has reported.
        self.task.await.ok();
    }
}

impl Guard {
    /// What the fault met when it came.
    #[must_use]
    pub fn hit(&self) -> Hit {
        self.hit
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(at) = state.faults.iter().position(|active| active.id == self.id) else {
            return;
        };
        let ended = state.faults.remove(at);
        if matches!(ended.fault, Fault::Blackhole(_)) {
            for connection in state.connections.values() {
                if ended.reaches(connection.number) {
                    connection.set(Conditions::default(), Some(Cut::Reset));
                }
            }
        }
        self.shared.apply(&state, None);
    }
}

impl Shared {
    /// A poisoned lock is taken all the same: every change of the state is whole when it is visible.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listener and every connection what holds now.
    fn apply(&self, state: &State, cut: Option<Cut>) {
        for connection in state.connections.values() {
            connection.set(Conditions::of(connection.number, &state.faults), cut);
        }
        let later = || state.faults.iter().filter(|active| active.reaches_later());
        let door = if later().any(|active| active.fault == Fault::Refuse) {
            Door::Refuse
        } else if later().any(|active| active.fault == Fault::Unaccepted) {
            Door::Unaccepted
        } else {
            Door::Open
        };
        self.door.send_if_modified(|current| {
            let modified = *current != door;
            *current = door;
            modified
        });
    }

    fn admit(&self) -> (Arc<Connection>, SocketAddr) {
        let mut state = self.state();
        let number = state.accepted;
        state.accepted += 1;
        let connection = Connection::new(number, Conditions::of(number, &state.faults));
        let connection = Arc::new(connection);
        state.connections.insert(number, connection.clone());
        (connection, state.upstream)
    }

    fn dismiss(&self, number: u64) {
        let mut books = self.state();
        if let Some(connection) = books.connections.remove(&number) {
            let stats = connection.stats();
            books.past_to_server += stats.to_server;
            books.past_to_client += stats.to_client;
        }
    }
}

impl State {
    fn hit(&self, reached: impl Fn(&Connection) -> bool) -> Hit {
        let mut hit = Hit::default();
        for connection in self
            .connections
            .values()
            .filter(|connection| reached(connection))
        {
            let stats = connection.stats();
            hit.connections += 1;
            hit.held += stats.held_to_server + stats.held_to_client;
        }
        hit
    }
}

impl Connection {
    fn stats(&self) -> ConnectionStats {
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        ConnectionStats {
            number: self.number,
            to_server: load(&self.to_server.passed),
            to_client: load(&self.to_client.passed),
            held_to_server: load(&self.to_server.held),
            held_to_client: load(&self.to_client.held),
        }
    }
}

/// Removes the connection from the proxy's books however its task ends.
struct Admitted {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.dismiss(self.connection.number);
    }
}

/// Owns the listener and every connection's task. Ends when stopped, with all of them.
async fn accept(
    shared: Arc<Shared>,
    addr: SocketAddr,
    listener: TcpListener,
    _reservation: Socket,
    stop: CancellationToken,
) {
    let mut door = shared.door.subscribe();
    let mut listener = Some(listener);
    let mut tasks = JoinSet::new();
    loop {
        let wanted = *door.borrow_and_update();
        match wanted {
            Door::Refuse => listener = None,
            // Can fail only when the system is out of sockets; the next change tries again.
            Door::Open | Door::Unaccepted if listener.is_none() => listener = listen(addr).ok(),
            Door::Open | Door::Unaccepted => {}
        }
        let accepting = listener.as_ref().filter(|_| wanted == Door::Open);
        select! {
            () = stop.cancelled() => break,
            changed = door.changed() => if changed.is_err() { break },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            accepted = next(accepting) => {
                let Ok(client) = accepted else {
                    // It died in the backlog, or the process is out of sockets; the pause keeps the
                    // second case from spinning.
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                // The door may have closed after this client had come through it. What was refused
                // before a client dialled is refused to that client.
                if *door.borrow() == Door::Refuse {
                    arm_reset(&client);
                    continue;
                }
                let (connection, upstream) = shared.admit();
                let admitted = Admitted { shared: shared.clone(), connection };
                tasks.spawn(async move { admitted.connection.serve(client, upstream).await });
            }
        }
    }
    drop(listener);
    tasks.shutdown().await;
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(addr)?;
    socket.set_nonblocking(true)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}
