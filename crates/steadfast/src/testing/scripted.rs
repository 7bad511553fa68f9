//! A transport whose peers are played by scripts.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use steadfast_session::{End, Initiator, Reason};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    outbound::Outbound,
    transport::{Call, Connection, Inbound, StreamActivity, Transport},
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Script = dyn Fn(Peer) -> BoxFuture<()> + Send + Sync;

/// A transport that calls a script for every stream. Clones share everything.
#[derive(Clone)]
pub struct ScriptedTransport {
    script: Arc<Script>,
    round_trip: Duration,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    dial_outcome: DialOutcome,
    acceptance_withheld: bool,
    dials: Vec<Dial>,
    streams: Vec<OpenedStream>,
    connections: Vec<ScriptedConnection>,
}

/// A dial that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The time it was begun.
    pub at: Instant,
}

/// A stream that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedStream {
    /// The time it was opened.
    pub at: Instant,
    /// The number of its connection, from 0.
    pub connection: usize,
    /// Its call.
    pub call: Call,
}

/// The outcome of a dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialOutcome {
    /// The dial returns a connection.
    #[default]
    Connected,
    /// The dial fails.
    Refused,
    /// The dial never resolves.
    Pending,
}

/// A connection of a [`ScriptedTransport`].
#[derive(Clone, Debug)]
pub struct ScriptedConnection {
    transport: ScriptedTransport,
    number: usize,
    killed: CancellationToken,
    state: Arc<Mutex<ConnectionState>>,
}

#[derive(Debug, Default)]
struct ConnectionState {
    black_holed: bool,
    never_closed: bool,
    probes: u64,
}

/// The peer's side of one stream, in the hands of a script.
#[derive(Debug)]
pub struct Peer {
    call: Call,
    connection: ScriptedConnection,
    outbound: Outbound,
    frames: mpsc::UnboundedSender<Frame>,
}

#[derive(Debug)]
enum Frame {
    Headers,
    Part,
    Message(Bytes),
    End(End),
}

/// The receiving half of a scripted stream.
pub struct ScriptedInbound {
    frames: mpsc::UnboundedReceiver<Frame>,
    /// The frame that came instead of headers.
    first: Option<Frame>,
    killed: BoxFuture<()>,
    activity: Arc<StreamActivity>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> End {
    End::retry(Initiator::Network, Reason::Lost("cut".into()))
}

fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

impl ScriptedTransport {
    /// Runs `script` for every stream that is opened. The script is cancelled when its connection is
    /// killed; the stream ends when the script has dropped its [`Peer`].
    #[must_use]
    pub fn new<F>(script: impl Fn(Peer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            script: Arc::new(move |peer| Box::pin(script(peer))),
            round_trip: Duration::from_millis(5),
            log: Arc::default(),
        }
    }

    /// Creates a transport whose peers arrive on a channel, for tests that play them in sequence.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Peer>) {
        let (sender, peers) = mpsc::unbounded_channel();
        let transport = Self::new(move |peer| {
            sender.send(peer).ok();
            std::future::ready(())
        });
        (transport, peers)
    }

    /// Sets the duration of a dial and of a probe. Default 5 ms.
    #[must_use]
    pub fn with_round_trip(mut self, round_trip: Duration) -> Self {
        self.round_trip = round_trip;
        self
    }

    /// Sets the outcome of dials from now on.
    pub fn set_dial_outcome(&self, outcome: DialOutcome) {
        self.log().dial_outcome = outcome;
    }

    /// From now on, reports no request as accepted.
    pub fn withhold_acceptance(&self) {
        self.log().acceptance_withheld = true;
    }

    /// Returns the dials begun so far.
    #[must_use]
    pub fn dials(&self) -> Vec<Dial> {
        self.log().dials.clone()
    }

    /// Returns the streams opened so far.
    #[must_use]
    pub fn streams(&self) -> Vec<OpenedStream> {
        self.log().streams.clone()
    }

    /// Returns the connections made so far.
    #[must_use]
    pub fn connections(&self) -> Vec<ScriptedConnection> {
        self.log().connections.clone()
    }

    async fn wait(&self) {
        // A sleep of zero length would still yield to the timer.
        if !self.round_trip.is_zero() {
            sleep(self.round_trip).await;
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

impl Transport for ScriptedTransport {
    type Connection = ScriptedConnection;

    fn connect(&self) -> impl Future<Output = Result<ScriptedConnection, End>> + Send + 'static {
        let transport = self.clone();
        async move {
            let outcome = {
                let mut log = transport.log();
                let at = Instant::now();
                log.dials.push(Dial { at });
                log.dial_outcome
            };
            transport.wait().await;
            match outcome {
                DialOutcome::Connected => {}
                DialOutcome::Refused => {
                    let why = "refused by the script";
                    return Err(End::retry(
                        Initiator::Network,
                        Reason::Unreachable(why.into()),
                    ));
                }
                DialOutcome::Pending => std::future::pending().await,
            }
            let mut log = transport.log();
            let connection = ScriptedConnection {
                transport: transport.clone(),
                number: log.connections.len(),
                killed: CancellationToken::new(),
                state: Arc::default(),
            };
            log.connections.push(connection.clone());
            Ok(connection)
        }
    }
}

impl ScriptedConnection {
    /// From now on, drops everything in both directions without an error.
    pub fn black_hole(&self) {
        self.state().black_holed = true;
    }

    /// From now on, [`Connection::closed`] never resolves.
    pub fn never_close(&self) {
        self.state().never_closed = true;
    }

    /// Cuts the connection, as the network would.
    pub fn cut(&self) {
        self.killed.cancel();
    }

    /// Returns the number of probes received.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.state().probes
    }

    fn is_black_holed(&self) -> bool {
        self.state().black_holed
    }

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
    }
}

impl Connection for ScriptedConnection {
    type Inbound = ScriptedInbound;

    fn open(
        &self,
        call: &Call,
        outbound: Outbound,
        activity: Arc<StreamActivity>,
    ) -> impl Future<Output = Result<ScriptedInbound, End>> + Send + 'static {
        let (sender, mut frames) = mpsc::unbounded_channel();
        let connection = self.clone();
        self.transport.log().streams.push(OpenedStream {
            at: Instant::now(),
            connection: self.number,
            call: call.clone(),
        });
        let script = (self.transport.script)(Peer {
            call: call.clone(),
            connection: self.clone(),
            outbound,
            frames: sender,
        });
        async move {
            if !connection.transport.log().acceptance_withheld {
                activity.request_accepted();
            }
            let killed = connection.killed.clone();
            tokio::spawn(async move { killed.run_until_cancelled(script).await });
            let first = tokio::select! {
                biased;
                () = connection.killed.cancelled() => return Err(lost()),
                first = frames.recv() => first.ok_or_else(finished)?,
            };
            let first = match first {
                Frame::End(end) => return Err(end),
                Frame::Headers => None,
                frame @ (Frame::Part | Frame::Message(_)) => Some(frame),
            };
            Ok(ScriptedInbound {
                frames,
                first,
                killed: Box::pin(connection.killed.clone().cancelled_owned()),
                activity,
            })
        }
    }

    fn probe(&self) -> impl Future<Output = bool> + Send + 'static {
        self.state().probes += 1;
        let connection = self.clone();
        async move {
            connection.transport.wait().await;
            if connection.is_black_holed() {
                std::future::pending::<()>().await;
            }
            !connection.is_closed()
        }
    }

    fn kill(&self) {
        self.cut();
    }

    fn is_closed(&self) -> bool {
        self.killed.is_cancelled()
    }

    fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let never_closed = self.state().never_closed;
        let killed = self.killed.clone();
        async move {
            if never_closed {
                std::future::pending::<()>().await;
            }
            killed.cancelled().await;
        }
    }
}

impl Inbound for ScriptedInbound {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(lost()));
        }
        loop {
            let frame = match self.first.take() {
                Some(first) => Some(first),
                None => std::task::ready!(self.frames.poll_recv(cx)),
            };
            match frame {
                Some(Frame::Headers) => {}
                Some(Frame::Part) => self.activity.bytes_received(),
                Some(Frame::Message(bytes)) => return Poll::Ready(Ok(bytes)),
                Some(Frame::End(end)) => return Poll::Ready(Err(end)),
                None => return Poll::Ready(Err(finished())),
            }
        }
    }
}

impl Peer {
    /// Returns the call of the stream.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Returns the last part of the path of the call.
    #[must_use]
    pub fn method(&self) -> &str {
        self.call.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the connection of the stream.
    #[must_use]
    pub fn connection(&self) -> &ScriptedConnection {
        &self.connection
    }

    /// Returns the number of the connection, from 0.
    #[must_use]
    pub fn connection_number(&self) -> usize {
        self.connection.number
    }

    /// Receives the next message of the client; `None` after it has ended its half.
    ///
    /// # Panics
    ///
    /// Panics if the message cannot be decoded.
    pub async fn receive<M: Message + Default>(&mut self) -> Option<M> {
        let message = self.outbound.next().await?;
        if self.connection.is_black_holed() {
            std::future::pending::<()>().await;
        }
        Some(M::decode(message).expect("the client sends messages of this type"))
    }

    /// Receives and ignores messages until the client has ended its half.
    pub async fn receive_until_end(mut self) {
        while self.outbound.next().await.is_some() {}
    }

    /// Sends the response headers. Without this they are sent with the first message.
    pub fn send_headers(&self) {
        self.send_frame(Frame::Headers);
    }

    /// Sends a message.
    pub fn send(&self, message: &impl Message) {
        self.send_bytes(message.encode_to_vec().into());
    }

    /// Sends the bytes of a message.
    pub fn send_bytes(&self, bytes: Bytes) {
        self.send_frame(Frame::Message(bytes));
    }

    /// Sends part of a message that is never completed.
    pub fn send_part(&self) {
        self.send_frame(Frame::Part);
    }

    /// Ends the stream.
    pub fn end(&self, end: End) {
        self.send_frame(Frame::End(end));
    }

    fn send_frame(&self, frame: Frame) {
        if !self.connection.is_black_holed() {
            self.frames.send(frame).ok();
        }
    }
}

impl fmt::Debug for ScriptedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedTransport").finish_non_exhaustive()
    }
}

impl fmt::Debug for ScriptedInbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedInbound").finish_non_exhaustive()
    }
}
