//! The one loop: wait, step, perform.

mod parts;
mod perform;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost::Message;
use steadfast_session::{
    Activity, Detail, End, Generation, Initiator, Protocol, Reason, State, Time,
    endpoint::{Action, Deadline, Input},
    session,
};
use tokio::time::Instant;
use tracing::{debug, info};

pub(crate) use self::parts::{Command, Parts, Policy, Record, Shown};
use crate::{
    outage::Outage,
    stream::{Stream, Wake},
    transport::{Connection as _, Transport},
};

/// Drives one endpoint over one transport. Nothing in its loop awaits a dial, a send or a delay.
pub(crate) struct Driver<P: Protocol, T: Transport> {
    parts: Parts<P, T>,
    started: Instant,
    stream: Option<Stream<T::Connection>>,
    /// Connections that were killed and whose tasks and sockets are not gone yet.
    departing: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    actions: Vec<Action<P::Send, P::Event>>,
    deadline: Option<Deadline>,
    held: bool,
    turn: u64,
}

/// What a turn of the loop is about.
enum Event<C> {
    Cancelled,
    Command(C),
    Stream(Generation, Wake),
    Room,
    Departed,
    Due,
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
            departing: FuturesUnordered::new(),
            actions: Vec::new(),
            deadline: None,
            held: false,
            turn: 0,
        }
    }

    /// Runs until cancelled, then until nothing is left or the close deadline has passed.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next().await {
                Event::Cancelled => break,
                Event::Command(command) => self.on_command(command),
                Event::Stream(from, wake) => self.on_wake(from, wake),
                Event::Room | Event::Departed => {}
                Event::Due => self.session(session::Input::Tick),
            }
            self.hold_or_release();
            self.show();
        }
        self.session(session::Input::Close);
        self.show();
        let gone = async { while self.departing.next().await.is_some() {} };
        if tokio::time::timeout(self.parts.close_timeout, gone)
            .await
            .is_err()
        {
            info!(link = %self.parts.name, "connections were still departing at the close deadline");
        }
    }

    /// Waits for the next event. Commands and the stream take turns at going first, so that neither
    /// starves the other; timers can not be starved, because every step runs those that are due.
    async fn next(&mut self) -> Event<Command<P::Command>> {
        self.turn = self.turn.wrapping_add(1);
        let commands_first = self.turn.is_multiple_of(2);
        let due = self.deadline.map(|deadline| {
            tokio::time::sleep_until(self.started + Duration::from_micros(deadline.at.as_micros()))
        });
        let due = async {
            match due {
                Some(sleep) => sleep.await,
                None => std::future::pending().await,
            }
        };
        let gate = self.parts.gate.clone().filter(|_| self.held);
        let room = async {
            match gate {
                Some(gate) => gate.room().await,
                None => std::future::pending().await,
            }
        };
        let (stream, commands, held) = (&mut self.stream, &mut self.parts.commands, self.held);
        let work = std::future::poll_fn(|cx| {
            let mut command = |cx: &mut Context<'_>| match commands.poll_recv(cx) {
                Poll::Ready(Some(command)) => Poll::Ready(Event::Command(command)),
                // The last handle is gone; its drop cancels.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            };
            if commands_first && let Poll::Ready(event) = command(cx) {
                return Poll::Ready(event);
            }
            if let Some(stream) = stream
                && let Poll::Ready(wake) = stream.poll_wake(held, cx)
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
            biased;
            () = self.parts.cancel.cancelled() => Event::Cancelled,
            event = work => event,
            () = room => Event::Room,
            Some(()) = self.departing.next() => Event::Departed,
            () = due => Event::Due,
        }
    }

    fn on_command(&mut self, command: Command<P::Command>) {
        match command {
            Command::Protocol(command) => self.step(Input::Command(command)),
            Command::Connect => self.session(session::Input::Connect),
            Command::Reconnect => self.session(session::Input::Reconnect),
            Command::Leave => self.session(session::Input::Leave),
        }
    }

    fn on_wake(&mut self, from: Generation, wake: Wake) {
        let now = self.now();
        match wake {
            Wake::Dialled => {
                debug!(link = %self.parts.name, generation = from.0, "dialled");
            }
            Wake::Opened => {
                self.record().outages.opened(now);
                self.session(session::Input::Headers(from));
            }
            Wake::Accepted => self.session(session::Input::Accepted(from)),
            Wake::Received => {
                self.record().outages.life(now);
                self.session(session::Input::Received(from));
            }
            Wake::Message(bytes) => self.on_message(from, &bytes),
            Wake::Probed(alive) => {
                if alive {
                    self.record().outages.life(now);
                }
                self.session(session::Input::Probed(from, alive));
            }
            Wake::Ended(end) => self.ended(from, end),
        }
    }

    fn on_message(&mut self, from: Generation, bytes: &Bytes) {
        let now = self.now();
        {
            let mut record = self.record();
            record.outages.life(now);
            record.counters.messages_in += 1;
            record.counters.bytes_in += bytes.len() as u64;
        }
        match P::Receive::decode(bytes.clone()) {
            Ok(message) => self.step(Input::Message(from, message)),
            Err(error) => {
                let text = format!("a message can not be decoded: {error}");
                let reason = Reason::Protocol(Detail::new(text, error));
                self.ended(from, End::retry(Initiator::Peer, reason));
            }
        }
    }

    fn ended(&mut self, from: Generation, mut end: End) {
        if let Some(advice) = (self.parts.policy)(&end) {
            end.advice = advice;
        }
        self.session(session::Input::Ended(from, end));
    }

    fn session(&mut self, input: session::Input) {
        self.step(Input::Session(input));
    }

    /// The only place where the machine is stepped.
    fn step(&mut self, input: Input<P::Receive, P::Command>) {
        let now = self.now();
        let mut actions = std::mem::take(&mut self.actions);
        self.deadline = self.parts.endpoint.step(now, input, &mut actions);
        let mut failed = None;
        for action in actions.drain(..) {
            if let Some(end) = self.perform(now, action) {
                failed.get_or_insert(end);
            }
        }
        self.actions = actions;
        if let Some((from, end)) = failed {
            self.session(session::Input::Ended(from, end));
        }
    }

    /// Stops reading while the application's queue is full, and tells the session, which must not
    /// call a peer silent that may not send. A stream that is not live yet is read all the same: its
    /// greeting and its answers have deadlines, which a slow application is not to miss for the peer.
    fn hold_or_release(&mut self) {
        let live = match self.parts.endpoint.status().activity {
            Activity::Live | Activity::Draining => true,
            Activity::Idle
            | Activity::Backoff
            | Activity::Opening
            | Activity::Greeting
            | Activity::Restoring
            | Activity::Closed => false,
        };
        let shut = live && self.parts.gate.as_ref().is_some_and(|gate| gate.is_shut());
        let Some(generation) = self.stream.as_ref().map(|stream| stream.generation) else {
            return;
        };
        if shut != self.held {
            self.held = shut;
            self.record().counters.held += u64::from(shut);
            self.session(session::Input::ReadPaused(generation, shut));
        }
    }

    /// Publishes the status if it changed, and closes an outage that is over.
    fn show(&mut self) {
        let status = self.parts.endpoint.status();
        self.parts.shown.status.send_if_modified(|shown| {
            let differs = shown != status;
            if differs {
                shown.clone_from(status);
            }
            differs
        });
        if self.parts.endpoint.protocol().caught_up() {
            let now = self.now();
            let ended = self.record().outages.caught_up(now);
            if let Some(outage) = ended {
                report(&self.parts.name, &outage);
            }
        }
    }

    fn stream_of(&mut self, generation: Generation) -> Option<&mut Stream<T::Connection>> {
        self.stream
            .as_mut()
            .filter(|stream| stream.generation == generation)
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.parts
            .shown
            .record
            .lock()
            .expect("nothing panics while it holds the record")
    }

    fn now(&self) -> Time {
        let elapsed = self.started.elapsed().as_micros();
        Time::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// Cuts what is left when the loop did not end by itself: a panic of the application in it, or a
/// runtime that stops. A link that is driven no more is closed, whatever it was before.
impl<P: Protocol, T: Transport> Drop for Driver<P, T> {
    fn drop(&mut self) {
        if let Some(connection) = self.stream.take().and_then(|stream| stream.connection) {
            connection.kill();
        }
        self.parts.shown.connection.send_replace(None);
        self.parts.shown.status.send_if_modified(|shown| {
            let open = shown.activity != Activity::Closed;
            shown.activity = Activity::Closed;
            shown.state = State::Disconnected;
            open
        });
    }
}

fn report(name: &str, outage: &Outage) {
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
