//! A transport without a network, in virtual time: each stream's peer is a task that the test writes.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use steadfast::{
    Outbound,
    session::{End, Initiator, Reason},
    transport::{Call, Connection, Inbound, Tap, Transport},
};
use steadfast_wire::fodc::{RegisterAgentRequest, RegisterAgentResponse};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Script = dyn Fn(Peer) -> Boxed<()> + Send + Sync;

/// How long a dial takes, and the way of a probe.
const ROUND_TRIP: Duration = Duration::from_millis(5);

/// The transport, and the world behind it.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<World>);

struct World {
    script: Box<Script>,
    books: Mutex<Books>,
}

/// What happened, and what is to happen.
#[derive(Default)]
struct Books {
    refuses_dials: bool,
    dials: Vec<Instant>,
    opened: Vec<(Instant, String)>,
    registered: u64,
    heartbeats: Vec<(Instant, RegisterAgentRequest)>,
    wires: Vec<Wire>,
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Wire {
    world: Arc<World>,
    cut: CancellationToken,
    state: Arc<Mutex<WireState>>,
}

#[derive(Default)]
struct WireState {
    hole: bool,
    probes: u64,
}

/// The proxy's side of one stream.
pub(crate) struct Peer {
    pub(crate) call: Call,
    wire: Wire,
    outbound: Outbound,
    said: mpsc::UnboundedSender<Said>,
}

enum Said {
    /// Nothing yet but that the stream is taken.
    Headers,
    Message(Bytes),
    End(End),
}

/// Our receiving side of one stream.
pub(crate) struct Line {
    said: mpsc::UnboundedReceiver<Said>,
    cut: Boxed<()>,
    tap: Arc<Tap>,
    first: Option<Said>,
}

impl Scripted {
    /// Proxies that behave as the script says, which is run for every stream.
    pub(crate) fn new<F>(script: impl Fn(Peer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(World {
            script: Box::new(move |peer| Box::pin(script(peer))),
            books: Mutex::default(),
        }))
    }

    /// One that registers whoever comes and hears heartbeats, and whose other streams do as that says.
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

    /// From now on.
    pub(crate) fn refuse_dials(&self, refuse: bool) {
        self.0.books().refuses_dials = refuse;
    }

    pub(crate) fn dials(&self) -> Vec<Instant> {
        self.0.books().dials.clone()
    }

    /// When each stream of that method was opened.
    pub(crate) fn opened(&self, method: &str) -> Vec<Instant> {
        let books = self.0.books();
        let opened = books.opened.iter();
        let opened = opened.filter(|(_, path)| path.ends_with(method));
        opened.map(|(at, _)| *at).collect()
    }

    /// How many registrations were answered with success.
    pub(crate) fn registered(&self) -> u64 {
        self.0.books().registered
    }

    /// Everything said on registration streams after the registration.
    pub(crate) fn heartbeats(&self) -> Vec<(Instant, RegisterAgentRequest)> {
        self.0.books().heartbeats.clone()
    }

    /// Breaks every connection.
    pub(crate) fn cut_everything(&self) {
        for wire in &self.0.books().wires {
            wire.cut();
        }
    }

    /// The newest connection.
    pub(crate) fn wire(&self) -> Wire {
        self.0.books().wires.last().unwrap().clone()
    }
}

impl World {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

impl Transport for Scripted {
    type Connection = Wire;

    fn connect(&self, _: bool) -> impl Future<Output = Result<Wire, End>> + Send + 'static {
        let world = Arc::clone(&self.0);
        async move {
            let refuses = {
                let mut books = world.books();
                books.dials.push(Instant::now());
                books.refuses_dials
            };
            sleep(ROUND_TRIP).await;
            if refuses {
                let why = "refused by the script".to_owned();
                return Err(End::retry(
                    Initiator::Network,
                    Reason::Unreachable(why.into()),
                ));
            }
            let wire = Wire {
                world: Arc::clone(&world),
                cut: CancellationToken::new(),
                state: Arc::default(),
            };
            world.books().wires.push(wire.clone());
            Ok(wire)
        }
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, WireState> {
        self.state.lock().unwrap()
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn blackhole(&self) {
        self.state().hole = true;
    }

    /// Breaks it, as the network would.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    pub(crate) fn probes(&self) -> u64 {
        self.state().probes
    }

    fn is_hole(&self) -> bool {
        self.state().hole
    }

    fn lost() -> End {
        End::retry(Initiator::Network, Reason::Lost("cut".into()))
    }
}

impl Connection for Wire {
    type Inbound = Line;

    /// Headers come with the first message, as a Go proxy sends them.
    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        tap: Arc<Tap>,
    ) -> impl Future<Output = Result<Line, End>> + Send + 'static {
        let (sender, mut said) = mpsc::unbounded_channel();
        let wire = self.clone();
        let opened = (Instant::now(), call.path.clone());
        self.world.books().opened.push(opened);
        let peer = Peer {
            call: call.clone(),
            wire: self.clone(),
            outbound,
            said: sender,
        };
        let script = (self.world.script)(peer);
        async move {
            tap.accept();
            let cut = wire.cut.clone();
            tokio::spawn(async move { cut.run_until_cancelled(script).await });
            tokio::select! {
                biased;
                () = wire.cut.cancelled() => Err(Wire::lost()),
                first = said.recv() => match first {
                    Some(Said::End(end)) => Err(end),
                    Some(first) => Ok(Line {
                        said,
                        cut: Box::pin(wire.cut.clone().cancelled_owned()),
                        tap,
                        first: Some(first).filter(|first| !matches!(first, Said::Headers)),
                    }),
                    None => Err(End::retry(Initiator::Peer, Reason::Finished)),
                },
            }
        }
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        self.state().probes += 1;
        let wire = self.clone();
        async move {
            sleep(ROUND_TRIP).await;
            if wire.is_hole() {
                std::future::pending::<()>().await;
            }
            !wire.cut.is_cancelled()
        }
    }

    fn kill(&self) {
        self.cut();
    }

    fn is_dead(&self) -> bool {
        self.cut.is_cancelled()
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cut.clone().cancelled_owned()
    }
}

impl Inbound for Line {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Wire::lost()));
        }
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.said.poll_recv(cx),
        };
        next.map(|said| match said {
            Some(Said::Message(bytes)) => {
                self.tap.receive(bytes.len() as u64);
                Ok(bytes)
            }
            Some(Said::End(end)) => Err(end),
            Some(Said::Headers) => panic!("headers come first, and once"),
            None => Err(End::retry(Initiator::Peer, Reason::Finished)),
        })
    }
}

impl Peer {
    pub(crate) fn is_registration(&self) -> bool {
        self.call.path.ends_with("/RegisterAgent")
    }

    /// The id that the stream came with.
    pub(crate) fn agent_id(&self) -> Option<&str> {
        let mut metadata = self.call.metadata.iter();
        let found = metadata.find(|(name, _)| name == "agent_id");
        found.map(|(_, value)| value.as_str())
    }

    /// Registers whoever it is under a new id, and hears heartbeats until the stream ends.
    pub(crate) async fn register(mut self, answer: RegisterAgentResponse) {
        if self.greet(answer).await.is_some() {
            self.hear_heartbeats().await;
        }
    }

    /// Registers whoever it is, and hears heartbeats for that long.
    pub(crate) async fn registered_until(mut self, span: Duration) -> Self {
        let greeted = self.greet(RegisterAgentResponse::default()).await;
        if greeted.is_some() {
            tokio::time::timeout(span, self.hear_heartbeats())
                .await
                .ok();
        }
        self
    }

    /// Registers whoever it is under a new id, unless it has gone again.
    pub(crate) async fn greet(&mut self, answer: RegisterAgentResponse) -> Option<String> {
        self.hear::<RegisterAgentRequest>().await?;
        let number = {
            let mut books = self.wire.world.books();
            books.registered += 1;
            books.registered
        };
        let id = format!("agent-{number}");
        self.say(&RegisterAgentResponse {
            success: true,
            agent_id: id.clone(),
            ..answer
        });
        Some(id)
    }

    /// Breaks the connection.
    pub(crate) fn cut(&self) {
        self.wire.cut();
    }

    pub(crate) async fn hear_heartbeats(&mut self) {
        while let Some(beat) = self.hear().await {
            let heard = (Instant::now(), beat);
            self.wire.world.books().heartbeats.push(heard);
        }
    }

    /// The next message of the agent; `None` when it has ended its half.
    pub(crate) async fn hear<M: Message + Default>(&mut self) -> Option<M> {
        let message = self.outbound.next().await?;
        if self.wire.is_hole() {
            std::future::pending::<()>().await;
        }
        Some(M::decode(message).unwrap())
    }

    /// Says nothing until the agent ends its half.
    pub(crate) async fn hold(mut self) {
        while self.outbound.next().await.is_some() {}
    }

    /// Takes the stream before there is anything to say.
    pub(crate) fn accept(&self) {
        self.tell(Said::Headers);
    }

    pub(crate) fn say(&self, message: &impl Message) {
        self.tell(Said::Message(Bytes::from(message.encode_to_vec())));
    }

    pub(crate) fn end(&self, end: End) {
        self.tell(Said::End(end));
    }

    fn tell(&self, said: Said) {
        if !self.wire.is_hole() {
            self.said.send(said).ok();
        }
    }
}
