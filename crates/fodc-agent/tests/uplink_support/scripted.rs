//! A proxy played by scripts, which registers agents and notes their heartbeats.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use steadfast::{
    session::End,
    testing::{self, DialOutcome, ScriptedConnection, ScriptedTransport},
    transport::Transport,
};
use steadfast_wire::fodc::{RegisterAgentRequest, RegisterAgentResponse};
use tokio::time::Instant;

/// The proxy as a transport.
#[derive(Clone)]
pub(crate) struct Scripted {
    transport: ScriptedTransport,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    registered: u64,
    heartbeats: Vec<(Instant, RegisterAgentRequest)>,
    /// The newest request that was accepted.
    request: Option<RegisterAgentRequest>,
    dial_time: Duration,
}

/// The proxy's side of one stream.
pub(crate) struct Peer {
    peer: testing::Peer,
    log: Arc<Mutex<Log>>,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap()
}

impl Scripted {
    /// Runs `script` for every stream.
    pub(crate) fn new<F>(script: impl Fn(Peer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let log = Arc::<Mutex<Log>>::default();
        let shared = Arc::clone(&log);
        let transport = ScriptedTransport::new(move |peer| {
            let log = Arc::clone(&shared);
            script(Peer { peer, log })
        });
        Self { transport, log }
    }

    /// Registers every agent and receives its heartbeats; runs `other` for every other stream.
    pub(crate) fn registering<F>(other: impl Fn(Peer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let other = Arc::new(other);
        Self::new(move |peer| {
            let other = Arc::clone(&other);
            async move {
                if peer.is_registration() {
                    peer.register(RegisterAgentResponse::default()).await;
                } else {
                    other(peer).await;
                }
            }
        })
    }

    pub(crate) fn refuse_dials(&self, refuse: bool) {
        self.transport.set_dial_outcome(if refuse {
            DialOutcome::Refused
        } else {
            DialOutcome::Connected
        });
    }

    /// Makes each dial take this long.
    pub(crate) fn set_dial_time(&self, dial_time: Duration) {
        lock(&self.log).dial_time = dial_time;
    }

    /// Returns the newest registration.
    pub(crate) fn request(&self) -> RegisterAgentRequest {
        lock(&self.log).request.clone().unwrap()
    }

    /// Returns the times at which dials were begun.
    pub(crate) fn dials(&self) -> Vec<Instant> {
        let dials = self.transport.dials();
        dials.iter().map(|dial| dial.at).collect()
    }

    /// Returns the times at which streams of that method were opened.
    pub(crate) fn opened(&self, method: &str) -> Vec<Instant> {
        let streams = self.transport.streams().into_iter();
        let streams = streams.filter(|stream| stream.call.path.ends_with(method));
        streams.map(|stream| stream.at).collect()
    }

    /// Returns the number of successful registrations.
    pub(crate) fn registered(&self) -> u64 {
        lock(&self.log).registered
    }

    /// Returns every message on registration streams after the registration.
    pub(crate) fn heartbeats(&self) -> Vec<(Instant, RegisterAgentRequest)> {
        lock(&self.log).heartbeats.clone()
    }

    /// Cuts every connection.
    pub(crate) fn cut_everything(&self) {
        for connection in self.transport.connections() {
            connection.cut();
        }
    }

    /// Returns the newest connection.
    pub(crate) fn connection(&self) -> ScriptedConnection {
        self.transport.connections().pop().unwrap()
    }
}

impl Transport for Scripted {
    type Connection = ScriptedConnection;

    fn connect(&self) -> impl Future<Output = Result<ScriptedConnection, End>> + Send + 'static {
        let dial = self.transport.connect();
        let dial_time = lock(&self.log).dial_time;
        async move {
            // A sleep of no time would still yield, and move what happens at one instant.
            if !dial_time.is_zero() {
                tokio::time::sleep(dial_time).await;
            }
            dial.await
        }
    }
}

impl Peer {
    pub(crate) fn is_registration(&self) -> bool {
        self.peer.method() == "RegisterAgent"
    }

    /// Returns the credentials of the stream.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.peer.call().metadata.get("authorization")
    }

    /// Returns the id in the metadata of the stream.
    pub(crate) fn agent_id(&self) -> Option<&str> {
        self.peer.call().metadata.get("agent_id")
    }

    /// Registers the agent under a new id and receives heartbeats until the stream ends.
    pub(crate) async fn register(mut self, response: RegisterAgentResponse) {
        if self.greet(response).await.is_some() {
            self.receive_heartbeats().await;
        }
    }

    /// Registers the agent and receives heartbeats for `duration`.
    pub(crate) async fn registered_until(mut self, duration: Duration) -> Self {
        let greeted = self.greet(RegisterAgentResponse::default()).await;
        if greeted.is_some() {
            tokio::time::timeout(duration, self.receive_heartbeats())
                .await
                .ok();
        }
        self
    }

    /// Registers the agent under a new id, unless it has ended the stream.
    pub(crate) async fn greet(&mut self, response: RegisterAgentResponse) -> Option<String> {
        let request = self.receive::<RegisterAgentRequest>().await?;
        let number = {
            let mut log = lock(&self.log);
            log.request = Some(request);
            log.registered += 1;
            log.registered
        };
        let id = format!("agent-{number}");
        self.send(&RegisterAgentResponse {
            success: true,
            agent_id: id.clone(),
            ..response
        });
        Some(id)
    }

    pub(crate) async fn receive_heartbeats(&mut self) {
        while let Some(heartbeat) = self.receive().await {
            let received = (Instant::now(), heartbeat);
            lock(&self.log).heartbeats.push(received);
        }
    }

    /// Cuts the connection.
    pub(crate) fn cut(&self) {
        self.peer.connection().cut();
    }

    /// Sends nothing until the agent has ended its half.
    pub(crate) async fn hold(self) {
        self.peer.receive_until_end().await;
    }
}

impl Deref for Peer {
    type Target = testing::Peer;

    fn deref(&self) -> &testing::Peer {
        &self.peer
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut testing::Peer {
        &mut self.peer
    }
}
