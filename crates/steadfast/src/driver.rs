//! The event loop of a link: wait for one event, step the endpoint, perform its actions.

mod parts;
mod perform;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost::Message;
use steadfast_session::{
    Activity, Advice, Detail, End, Generation, Initiator, Protocol, Reason, State, Time,
    endpoint::{Action, Deadline, Input},
    session,
};
use tokio::time::Instant;
use tracing::{debug, info};

pub(crate) use self::parts::{Command, Parts, SharedState, Statistics};
use crate::{
    outage::Outage,
    stream::{Stream, Wake},
    transport::{Connection as _, Transport},
};

/// Drives one endpoint over one transport.
///
/// The loop never awaits a dial, a send or a delay: they are polled beside everything else, so that
/// a command or a cancellation is handled at any time.
pub(crate) struct Driver<P: Protocol, T: Transport> {
    parts: Parts<P, T>,
    started: Instant,
    /// The newest attempt, if it holds anything.
    stream: Option<Stream<T::Connection>>,
    /// Killed connections whose tasks and sockets are not gone yet.
    closing: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// A buffer, empty between steps.
    actions: Vec<Action<P::Send, P::Event>>,
    deadline: Option<Deadline>,
    read_paused: bool,
    turn: u64,
}

/// The event that one turn of the loop handles.
enum Event<C> {
    Cancelled,
    Command(C),
    Stream(Generation, Wake),
    QueueBelowLimit,
    ConnectionClosed,
    Deadline,
}

impl<P, T> Driver<P, T>
where
    P: Protocol,
    P::Send: Message,
    P::Receive: Message + Default,
    T: Transport,
{
    pub(crate) fn new(parts: Parts<P, T>) -> Self {
        Self {
            parts,
            started: Instant::now(),
            stream: None,
            closing: FuturesUnordered::new(),
            actions: Vec::new(),
            deadline: None,
            read_paused: false,
            turn: 0,
        }
    }

    /// Runs until cancelled, then until every connection is closed or the close timeout has passed.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next_event().await {
                Event::Cancelled => break,
                Event::Command(command) => self.on_command(command),
                Event::Stream(from, wake) => {
                    self.on_wake(from, wake);
                    self.take_arrived();
                }
                // The turn itself resumes reading, and `next_event` has removed the connection.
                Event::QueueBelowLimit | Event::ConnectionClosed => {}
                Event::Deadline => self.step_session(session::Input::Tick),
            }
            self.pause_or_resume_reading();
            self.publish();
        }
        self.step_session(session::Input::Close);
        self.publish();
        // A peer that is frozen can delay its connection's tasks; the caller of `close` must not
        // wait for it without a limit.
        let closed = async { while self.closing.next().await.is_some() {} };
        if tokio::time::timeout(self.parts.close_timeout, closed)
            .await
            .is_err()
        {
            info!(link = %self.parts.name, "close timeout passed before every connection was closed");
        }
    }

    async fn next_event(&mut self) -> Event<Command<P::Command>> {
        self.turn = self.turn.wrapping_add(1);
        // Commands and the stream take turns at being polled first, so that neither starves the
        // other. Timers cannot starve, because every step runs those that are due.
        let commands_first = self.turn.is_multiple_of(2);
        let started = self.started;
        let deadline = optional(self.deadline.map(|deadline| {
            tokio::time::sleep_until(started + Duration::from_micros(deadline.at.as_micros()))
        }));
        // Only a paused link waits for the queue: a link that reads must not be woken by every item
        // that the application takes.
        let paused_by = self.parts.backpressure.clone().filter(|_| self.read_paused);
        let below_limit =
            optional(paused_by.map(|backpressure| async move { backpressure.below_limit().await }));
        let (stream, commands) = (&mut self.stream, &mut self.parts.commands);
        let read_paused = self.read_paused;
        let work = std::future::poll_fn(|cx| {
            let mut command = |cx: &mut Context<'_>| match commands.poll_recv(cx) {
                Poll::Ready(Some(command)) => Poll::Ready(Event::Command(command)),
                // The last handle is gone. Its drop has cancelled the driver.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            };
            if commands_first && let Poll::Ready(event) = command(cx) {
                return Poll::Ready(event);
            }
            if let Some(stream) = stream
                && let Poll::Ready(wake) = stream.poll_wake(read_paused, cx)
            {
                return Poll::Ready(Event::Stream(stream.generation, wake));
            }
            if commands_first {
                Poll::Pending
            } else {
                command(cx)
            }
        });
        tokio::select! {
            // In this order: a link that is closed handles nothing more, and a deadline is last
            // because the step of any other event runs the timers that are due.
            biased;
            () = self.parts.cancel.cancelled() => Event::Cancelled,
            event = work => event,
            () = below_limit => Event::QueueBelowLimit,
            Some(()) = self.closing.next() => Event::ConnectionClosed,
            () = deadline => Event::Deadline,
        }
    }

    /// Handles what has arrived together with the last event of the stream, up to a limit. A turn costs
    /// as much as handling several messages: it looks at the cancellation, at the commands and at the
    /// status.
    fn take_arrived(&mut self) {
        for _ in 0..BURST {
            // After each message, so that no more are taken than the application's queue has room for.
            self.pause_or_resume_reading();
            // Nobody need be woken: the next turn polls again before it waits.
            let mut cx = Context::from_waker(Waker::noop());
            let read_paused = self.read_paused;
            let Some(stream) = &mut self.stream else {
                return;
            };
            let from = stream.generation;
            let Poll::Ready(wake) = stream.poll_wake(read_paused, &mut cx) else {
                return;
            };
            self.on_wake(from, wake);
        }
    }

    fn on_command(&mut self, command: Command<P::Command>) {
        match command {
            // Dropping the permit frees the command's capacity: it is off the queue.
            Command::Protocol(command, _permit) => self.step(Input::Command(command)),
            Command::Connect => self.step_session(session::Input::Connect),
            Command::Reconnect => self.step_session(session::Input::Reconnect),
            Command::Leave => self.step_session(session::Input::Leave),
        }
    }

    fn on_wake(&mut self, from: Generation, wake: Wake) {
        match wake {
            Wake::Dialled => {
                debug!(link = %self.parts.name, generation = from.0, "connected, opening the stream");
                self.step(Input::Connected(from));
            }
            Wake::Opened => {
                let now = self.now();
                self.parts.state.statistics().outages.on_opened(now);
                self.step_session(session::Input::Headers(from));
            }
            Wake::Accepted => self.step_session(session::Input::Accepted(from)),
            Wake::Received => {
                let now = self.now();
                self.parts.state.statistics().outages.on_received(now);
                self.step_session(session::Input::Received(from));
            }
            Wake::Message(bytes) => self.on_message(from, &bytes),
            Wake::Probed(alive) => {
                if alive {
                    let now = self.now();
                    self.parts.state.statistics().outages.on_received(now);
                }
                self.step_session(session::Input::Probed(from, alive));
            }
            Wake::Ended(end) => self.on_ended(from, end),
        }
    }

    fn on_message(&mut self, from: Generation, bytes: &Bytes) {
        let now = self.now();
        {
            let mut statistics = self.parts.state.statistics();
            statistics.outages.on_received(now);
            statistics.counters.messages_in += 1;
            statistics.counters.bytes_in += bytes.len() as u64;
        }
        match P::Receive::decode(bytes.clone()) {
            Ok(message) => self.step_at(now, Input::Message(from, message)),
            Err(error) => {
                let what = format!("cannot decode a message: {error}");
                let reason = Reason::Protocol(Detail::new(what, error));
                self.on_ended(from, End::retry(Initiator::Peer, reason));
            }
        }
    }

    fn on_ended(&mut self, from: Generation, mut end: End) {
        // Before the policy, which may replace the advice: the source of credentials learns of every
        // refusal.
        if end.advice == Advice::Refresh {
            self.parts.credentials.on_refused();
        }
        if let Some(advice) = (self.parts.retry_policy)(&end) {
            end.advice = advice;
        }
        self.step_session(session::Input::Ended(from, end));
    }

    fn step_session(&mut self, input: session::Input) {
        self.step(Input::Session(input));
    }

    fn step(&mut self, input: Input<P::Receive, P::Command>) {
        self.step_at(self.now(), input);
    }

    /// Steps the endpoint and performs its actions. Nothing else steps it.
    fn step_at(&mut self, now: Time, input: Input<P::Receive, P::Command>) {
        // Taken, because `perform` borrows the driver. Put back for its capacity.
        let mut actions = std::mem::take(&mut self.actions);
        self.deadline = self.parts.endpoint.step(now, input, &mut actions);
        // The first failure is the cause; later ones of the same step follow from it.
        let mut failed = None;
        for action in actions.drain(..) {
            if let Some(end) = self.perform(now, action) {
                failed.get_or_insert(end);
            }
        }
        self.actions = actions;
        // Only after all actions of the step: an end makes new ones, which must come later.
        if let Some((from, end)) = failed {
            self.step_session(session::Input::Ended(from, end));
        }
    }

    /// Pauses reading while the application's queue is full. The session is told, because a peer
    /// that is not read must not be declared silent.
    fn pause_or_resume_reading(&mut self) {
        // A stream that is not live yet is always read. Its greeting and its restoration have
        // timeouts, and the peer must not be blamed for the slowness of the application.
        let live = match self.parts.endpoint.status().activity {
            Activity::Live | Activity::Draining => true,
            Activity::Idle
            | Activity::Backoff
            | Activity::Opening
            | Activity::Greeting
            | Activity::Restoring
            | Activity::Closed => false,
        };
        let backpressure = self.parts.backpressure.as_ref();
        let pause = live && backpressure.is_some_and(|backpressure| backpressure.is_full());
        let Some(generation) = self.stream.as_ref().map(|stream| stream.generation) else {
            return;
        };
        if pause != self.read_paused {
            self.read_paused = pause;
            self.parts.state.statistics().counters.read_pauses += u64::from(pause);
            self.step_session(session::Input::ReadPaused(generation, pause));
        }
    }

    /// Publishes the status if it changed, and records an outage that is over.
    fn publish(&mut self) {
        let status = self.parts.endpoint.status();
        self.parts.state.status.send_if_modified(|published| {
            // A step that changes nothing must wake no observer.
            let differs = published != status;
            if differs {
                published.clone_from(status);
            }
            differs
        });
        // Asked after every turn: a protocol catches up by a message, a command or a timer alike.
        if self.parts.endpoint.protocol().caught_up() {
            let now = self.now();
            let ended = self.parts.state.statistics().outages.on_caught_up(now);
            if let Some(outage) = ended {
                log_outage(&self.parts.name, &outage);
                #[cfg(feature = "opentelemetry")]
                if let Some(spans) = &mut self.parts.spans {
                    spans.on_recovered(&outage);
                }
            }
        }
    }

    fn stream_of(&mut self, generation: Generation) -> Option<&mut Stream<T::Connection>> {
        self.stream
            .as_mut()
            .filter(|stream| stream.generation == generation)
    }

    fn now(&self) -> Time {
        let elapsed = self.started.elapsed().as_micros();
        Time::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// Cleans up when the loop did not end by itself: the sink panicked, or the runtime was shut down.
/// The link is then closed, whatever its status said before.
impl<P: Protocol, T: Transport> Drop for Driver<P, T> {
    fn drop(&mut self) {
        if let Some(connection) = self.stream.take().and_then(|stream| stream.connection) {
            connection.kill();
        }
        self.parts.state.connection.send_replace(None);
        self.parts.state.status.send_if_modified(|published| {
            let open = published.activity != Activity::Closed;
            published.activity = Activity::Closed;
            published.state = State::Disconnected;
            open
        });
    }
}

/// Events of the stream that one turn handles after its first one. They delay commands by some 50 µs.
const BURST: usize = 32;

/// Resolves with `future`, or never if there is none.
async fn optional(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn log_outage(name: &str, outage: &Outage) {
    info!(
        link = %name,
        reason = %outage.reason.label(),
        outage_ms = outage.duration().as_millis() as u64,
        detection_ms = outage.detection.as_millis() as u64,
        redial_ms = outage.redial.as_millis() as u64,
        restore_ms = outage.restore.as_millis() as u64,
        catch_up_ms = outage.catch_up.as_millis() as u64,
        attempts = outage.attempts,
        "recovered"
    );
}
