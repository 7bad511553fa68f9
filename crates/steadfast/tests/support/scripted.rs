//! A transport without a network: connections are made of channels, and each stream's peer is a
//! task that the test writes. Everything in it keeps virtual time.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use steadfast::{
    Outbound,
    session::{End, Initiator, Reason},
    transport::{Call, Connection, Inbound, Tap, Transport},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::note::Note;

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
    dialling: Dialling,
    withholds_acceptance: bool,
    dials: Vec<Dial>,
    /// The connection and the path of every stream.
    opened: Vec<(usize, String)>,
    wires: Vec<Wire>,
}

/// A dial that was begun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dial {
    pub(crate) at: Instant,
    pub(crate) refresh: bool,
}

/// What becomes of a dial.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Dialling {
    #[default]
    Connects,
    Fails,
    Hangs,
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Wire {
    world: Arc<World>,
    number: usize,
    cut: CancellationToken,
    state: Arc<Mutex<WireState>>,
}

#[derive(Default)]
struct WireState {
    hole: bool,
    lingers: bool,
    probes: u64,
}

/// The peer's side of one stream.
pub(crate) struct Peer {
    pub(crate) call: Call,
    wire: Wire,
    outbound: Outbound,
    answers: mpsc::UnboundedSender<Answer>,
}

enum Answer {
    Headers,
    Part(u64),
    Message(Bytes),
    End(End),
}

/// Our receiving side of one stream.
pub(crate) struct Line {
    answers: mpsc::UnboundedReceiver<Answer>,
    cut: Boxed<()>,
    tap: Arc<Tap>,
}

impl Scripted {
    /// Peers that behave as the script says, which is run for every stream.
    pub(crate) fn new<F>(script: impl Fn(Peer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(World {
            script: Box::new(move |peer| Box::pin(script(peer))),
            books: Mutex::default(),
        }))
    }

    /// From now on.
    pub(crate) fn set_dialling(&self, dialling: Dialling) {
        self.0.books().dialling = dialling;
    }

    /// From now on no request is taken, nor its headers answered.
    pub(crate) fn withhold_acceptance(&self) {
        self.0.books().withholds_acceptance = true;
    }

    pub(crate) fn dials(&self) -> Vec<Dial> {
        self.0.books().dials.clone()
    }

    /// The connection, from 0, and the last part of the path of every stream, in order.
    pub(crate) fn opened(&self) -> Vec<(usize, String)> {
        self.0.books().opened.clone()
    }

    /// The connections made so far.
    pub(crate) fn wires(&self) -> Vec<Wire> {
        self.0.books().wires.clone()
    }
}

impl World {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

impl Transport for Scripted {
    type Connection = Wire;

    fn connect(&self, refresh: bool) -> impl Future<Output = Result<Wire, End>> + Send + 'static {
        let world = Arc::clone(&self.0);
        async move {
            let dialling = {
                let mut books = world.books();
                let at = Instant::now();
                books.dials.push(Dial { at, refresh });
                books.dialling
            };
            sleep(ROUND_TRIP).await;
            match dialling {
                Dialling::Connects => {}
                Dialling::Fails => {
                    let why = "refused by the script".to_owned();
                    return Err(End::retry(
                        Initiator::Network,
                        Reason::Unreachable(why.into()),
                    ));
                }
                Dialling::Hangs => std::future::pending().await,
            }
            let mut books = world.books();
            let wire = Wire {
                world: Arc::clone(&world),
                number: books.wires.len(),
                cut: CancellationToken::new(),
                state: Arc::default(),
            };
            books.wires.push(wire.clone());
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

    /// Its tasks never end.
    pub(crate) fn linger(&self) {
        self.state().lingers = true;
    }

    /// Breaks it, as the network would.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
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

    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        tap: Arc<Tap>,
    ) -> impl Future<Output = Result<Line, End>> + Send + 'static {
        let (sender, mut answers) = mpsc::unbounded_channel();
        let wire = self.clone();
        let method = call.path.rsplit('/').next().unwrap_or_default().to_owned();
        self.world.books().opened.push((self.number, method));
        let peer = Peer {
            call: call.clone(),
            wire: self.clone(),
            outbound,
            answers: sender,
        };
        let script = (self.world.script)(peer);
        async move {
            if !wire.world.books().withholds_acceptance {
                tap.accept();
            }
            let cut = wire.cut.clone();
            tokio::spawn(async move { cut.run_until_cancelled(script).await });
            tokio::select! {
                biased;
                () = wire.cut.cancelled() => Err(Wire::lost()),
                answer = answers.recv() => match answer {
                    Some(Answer::Headers) => Ok(Line {
                        answers,
                        cut: Box::pin(wire.cut.clone().cancelled_owned()),
                        tap,
                    }),
                    Some(Answer::End(end)) => Err(end),
                    Some(Answer::Part(_) | Answer::Message(_)) => {
                        panic!("a script says something before its headers")
                    }
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
            !wire.is_cut()
        }
    }

    fn kill(&self) {
        self.cut();
    }

    fn is_dead(&self) -> bool {
        self.is_cut()
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let lingers = self.state().lingers;
        let cut = self.cut.clone();
        async move {
            if lingers {
                std::future::pending::<()>().await;
            }
            cut.cancelled().await;
        }
    }
}

impl Inbound for Line {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Wire::lost()));
        }
        while let Poll::Ready(answer) = self.answers.poll_recv(cx) {
            match answer {
                Some(Answer::Headers) => {}
                Some(Answer::Part(bytes)) => self.tap.receive(bytes),
                Some(Answer::Message(bytes)) => return Poll::Ready(Ok(bytes)),
                Some(Answer::End(end)) => return Poll::Ready(Err(end)),
                None => return Poll::Ready(Err(End::retry(Initiator::Peer, Reason::Finished))),
            }
        }
        Poll::Pending
    }
}

impl Peer {
    /// The last part of the path.
    pub(crate) fn method(&self) -> &str {
        self.call.path.rsplit('/').next().unwrap_or_default()
    }

    /// The number of its connection, from 0.
    pub(crate) fn connection(&self) -> usize {
        self.wire.number
    }

    /// The next message of the client; `None` when it has ended its half.
    pub(crate) async fn hear(&mut self) -> Option<Note> {
        let message = self.outbound.next().await?;
        if self.wire.is_hole() {
            std::future::pending::<()>().await;
        }
        Some(Note::decode(message).unwrap())
    }

    /// Hears everything and answers nothing, until the client has ended its half.
    pub(crate) async fn listen(mut self) {
        while self.hear().await.is_some() {}
    }

    pub(crate) fn headers(&self) {
        self.answer(Answer::Headers);
    }

    pub(crate) fn say(&self, note: &Note) {
        self.say_bytes(Bytes::from(note.encode_to_vec()));
    }

    pub(crate) fn say_bytes(&self, bytes: Bytes) {
        self.answer(Answer::Message(bytes));
    }

    /// Sends that much of a message that is never whole.
    pub(crate) fn part(&self, bytes: u64) {
        self.answer(Answer::Part(bytes));
    }

    pub(crate) fn end(&self, end: End) {
        self.answer(Answer::End(end));
    }

    fn answer(&self, answer: Answer) {
        if !self.wire.is_hole() {
            self.answers.send(answer).ok();
        }
    }
}
