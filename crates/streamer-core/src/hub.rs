//! The server without its sockets: streams, subscriptions, and the delivery of events to them.
//!
//! ```text
//!   driver ── Input ──> Hub::step ── Action ──> driver
//!   (gRPC, log, clock)                 Send, End, Read
//! ```
//!
//! The hub never reads a clock, never waits, and never touches a socket or the log. The same inputs
//! give the same actions.
//!
//! A subscription is either *live* or *behind*. A live subscription receives each event when it is
//! committed. A subscription falls behind when it runs out of credit, when its stream's queue is full,
//! or when it starts at an older position; the hub then stores only its offset and reads the missed
//! events back from the log, one page at a time per stream. A slow subscriber therefore costs an
//! offset, not a queue, and delays no one.
//!
//! A peer that begins with `hello` speaks the resume profile: its subscription ids belong to its
//! session, and a newer attempt of the session ends the older stream (R-31). All other peers are
//! *plain* and share one namespace of ids, in which the newest stream that subscribed an id holds it
//! (R-21).

mod access;
mod backlog;
mod catch_up;
mod context;
mod credit;
mod delivery;
mod document_reads;
mod end_cause;
mod event_match;
mod interface;
mod limits;
mod log_state;
mod loss;
mod match_queue;
mod outbox;
mod overload;
mod owners;
mod page;
mod progress;
mod progress_report;
mod requests;
mod resync;
mod session_key;
mod snapshot;
mod snapshot_queue;
mod stats;
mod stream;
mod streams;
mod subscription;
mod subscriptions;
mod survey;
mod timer_queue;
mod window;
mod window_index;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use steadfast_session::Time;
use steadfast_wire::streamer::{
    self as wire, ResyncReason, StreamerMessage, streamer_message::Payload,
};

pub use self::{
    access::{Grant, Rights, StreamAccess},
    end_cause::{EndCode, EndStatus},
    interface::{
        Action, DocumentPage, FRAME_HEAD, InitialState, Input, ReadFault, ReadId, StreamId,
        split_frames,
    },
    limits::{InvalidLimits, Limits},
    stats::{Counters, Gauges, Stats},
    survey::{LAG_BOUNDS, PeerKind, StreamStatus, Survey},
};
use self::{
    catch_up::{CatchUp, Read, Reader, check_page},
    context::{Context, Scratch},
    document_reads::DocumentReads,
    end_cause::EndCause,
    log_state::LogState,
    loss::PendingLoss,
    match_queue::MatchQueue,
    outbox::put_frame_head,
    owners::Owners,
    resync::resync,
    stream::{Peer, ReadState, Stream},
    streams::Streams,
    subscriptions::Subscriptions,
};
pub use crate::matcher::FilterCost;
use crate::{Event, Position, Previous, convert::millis_to_wire, matcher::CostProfile};

/// The state machine of the server: all streams and subscriptions.
#[derive(Debug)]
pub struct Hub {
    server_id: String,
    cx: Context,
    streams: Streams,
    subscriptions: Subscriptions,
    owners: Owners,
    matching: MatchQueue,
    catch_up: CatchUp,
    documents: DocumentReads,
    drain: Option<Drain>,
    loss: Option<PendingLoss>,
}

/// A stop in progress.
#[derive(Debug)]
struct Drain {
    deadline: Time,
    reason: String,
    /// The head at the start. Later events need not be delivered.
    head: u64,
    /// Everything up to `head` was matched.
    matched: bool,
}

impl Hub {
    /// Creates a hub without streams.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidLimits`] if the limits are inconsistent.
    pub fn new(initial: InitialState, limits: Limits) -> Result<Self, InvalidLimits> {
        limits.check()?;
        Ok(Self {
            matching: MatchQueue::new(limits.slice),
            server_id: initial.server_id,
            cx: Context {
                now: Time::ZERO,
                drain_start: None,
                log: LogState::new(initial.terms, initial.bounds, &limits),
                limits,
                counters: Counters::default(),
                profile: CostProfile::default(),
                actions: Vec::new(),
                unflushed: Vec::new(),
                scratch: Scratch::default(),
            },
            streams: Streams::default(),
            subscriptions: Subscriptions::new(initial.seed),
            owners: Owners::default(),
            catch_up: CatchUp::default(),
            documents: DocumentReads::default(),
            drain: None,
            loss: None,
        })
    }

    /// Returns the hub, which from now on serves nothing to a stream without [`Input::Authorized`].
    #[must_use]
    pub fn restricted(mut self) -> Self {
        self.subscriptions.restrict();
        self
    }

    /// Handles one input, appends the resulting actions to `out`, and returns the time at which the
    /// next [`Input::Tick`] is due, which may be in the past.
    ///
    /// [`Input::Committed`], [`Input::ReadDone`], [`Input::DocumentsRead`] and [`Input::Tick`] match events
    /// for at most one slice ([`Limits::slice`]), and documents for a quarter of one, or announce a loss to
    /// subscriptions for at most one slice. While work is left, the next tick is due at once; the driver
    /// handles what else has arrived before it.
    ///
    /// Inputs for streams that have ended are ignored: they crossed the end. Time never goes back; an
    /// earlier `now` counts as the latest one.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Option<Time> {
        self.step_all(now, [input], out)
    }

    /// Handles inputs that arrived together, each as [`step`](Self::step) does. What they send on one
    /// stream leaves in one [`Action::Send`].
    pub fn step_all(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input>,
        out: &mut Vec<Action>,
    ) -> Option<Time> {
        self.cx.now = self.cx.now.max(now);
        std::mem::swap(&mut self.cx.actions, out);
        for input in inputs {
            self.handle(input);
        }
        self.catch_up
            .start(&mut self.streams, &mut self.matching, &mut self.cx);
        self.documents
            .start(&mut self.streams, &self.subscriptions, &mut self.cx);
        // After the pages were started, so that all messages of a stream leave in one `Send`: one
        // buffer and one wake-up of its transport (decision 0018).
        self.flush();
        std::mem::swap(&mut self.cx.actions, out);
        self.deadline()
    }

    fn handle(&mut self, input: Input) {
        // Messages match nothing: with a slice for each, a burst of them would hold up the one
        // behind it for as many slices.
        let matches = matches!(
            input,
            Input::Committed { .. }
                | Input::ReadDone { .. }
                | Input::DocumentsRead { .. }
                | Input::Tick
        );
        match input {
            Input::Opened { stream } => self.on_opened(stream),
            Input::Authorized {
                stream,
                access,
                answers,
            } => self.on_authorized(stream, access, answers),
            Input::Revoked { stream, reason } => {
                self.end(stream, &EndCause::Unauthenticated(reason));
            }
            Input::Message { stream, message } => self.on_message(stream, message),
            Input::Ended { stream } => self.end(stream, &EndCause::Finished),
            Input::Committed { events } => self.on_committed(&events),
            Input::Trimmed { first } => self.cx.log.trim(first),
            Input::Lost { before } => self.on_lost(before),
            Input::ReadDone { read, result } => self.on_read_done(read, result),
            Input::DocumentsRead { read, result } => self.on_documents_read(read, result),
            Input::Sent {
                stream,
                bytes,
                messages,
            } => self.on_sent(stream, bytes, messages),
            Input::Drain { deadline, reason } => self.on_drain(deadline, reason),
            Input::Tick => self.on_tick(),
        }
        if matches {
            match &self.loss {
                Some(_) => self.announce_loss(),
                None => self.run_slice(),
            }
        }
    }

    /// Passes the messages of all streams on to the driver, those of a stream together.
    fn flush(&mut self) {
        let mut unflushed = std::mem::take(&mut self.cx.unflushed);
        for id in unflushed.drain(..) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.flush(&mut self.cx);
            }
        }
        self.cx.unflushed = unflushed;
    }

    /// Returns the position of the newest event.
    #[must_use]
    pub fn head(&self) -> Position {
        self.cx.log.position(self.cx.log.head())
    }

    /// Returns the limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.cx.limits
    }

    /// Returns true if the hub takes committed events. Otherwise the driver keeps them back until
    /// earlier ones are matched. That is only while the events in the middle of being matched exceed
    /// the limits by themselves: an overloaded collection falls back to the log.
    #[must_use]
    pub fn accepts_commits(&self) -> bool {
        let limits = &self.cx.limits;
        self.matching.events() < limits.unmatched_events
            && self.matching.bytes() < limits.unmatched_bytes
    }

    /// Returns true if the event by which the document was changed before is to be read from the log and put
    /// into [`Event::previous`], before the event is passed on. Otherwise every subscription to the
    /// collection that asks for documents that leave is told of this one, whether it held it or not.
    ///
    /// False for all events of a collection with no such subscription.
    #[must_use]
    pub fn wants_previous(&self, event: &Event) -> bool {
        matches!(event.previous, Previous::At(_))
            && self.subscriptions.that_want_left(event).is_some()
    }

    fn on_opened(&mut self, id: StreamId) {
        // Streams being refused have a limit of their own: counted here, a storm of reconnects
        // would keep the server full after others have left.
        let served = self.streams.len() - self.streams.refused();
        let limit = self.cx.limits.streams;
        self.streams.open(id, self.cx.now);
        self.cx.counters.opened += 1;
        if let Some(drain) = &self.drain {
            let cause = EndCause::Drained(drain.reason.clone());
            self.refuse(id, &cause);
        } else if served >= limit {
            self.refuse(id, &EndCause::ServerFull { limit });
        }
    }

    /// Refuses a stream. It stays open until its first message, for a moment at most: a profile peer
    /// needs a final message with the time to come back at, and a plain peer must not get one.
    fn refuse(&mut self, id: StreamId, cause: &EndCause) {
        let until = self.cx.now + REFUSAL_TIME;
        if self.streams.refuse(id, cause.clone(), until) {
            self.streams.arm(id, &self.cx);
        } else {
            self.end(id, cause);
        }
    }

    fn on_authorized(&mut self, id: StreamId, access: StreamAccess, answers: bool) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        let is_other = |now: &StreamAccess| now.owner != access.owner;
        if stream.access().is_some_and(is_other) {
            let text = "the newer credentials are those of another principal".to_owned();
            return self.end(id, &EndCause::Unauthenticated(text));
        }
        if !self.subscriptions.grants_same(stream, &*access.rights) {
            return self.end(id, &EndCause::RightsChanged);
        }
        if stream.access().is_none() && access.shares_limits {
            stream.set_share(self.owners.share(&access.owner));
        }
        stream.set_access(access);
        if answers && stream.is_profile() {
            let expires_in_ms = stream.expires_in_ms(self.cx.now);
            let answer = wire::Authenticated { expires_in_ms };
            stream.send(Payload::Authenticated(answer), &mut self.cx);
        }
        self.after_input(id);
    }

    fn on_committed(&mut self, events: &[Arc<Event>]) {
        for event in events {
            let head = self.cx.log.head();
            // An event that is matched twice would be delivered twice.
            if event.offset <= head {
                continue;
            }
            // Allowed by the contract of `Committed`: what is missing is durable and costs a read.
            if event.offset > head + 1 {
                self.skip_to(event.offset - 1);
            }
            // Before `push`, which may drop the event again: it is then read back up to the head.
            self.cx.log.append(event);
            self.cx.counters.events += 1;
            self.matching.push(event, &mut self.cx);
        }
    }

    /// Moves the head past events that the hub did not receive. All subscriptions read them from the
    /// log.
    fn skip_to(&mut self, head: u64) {
        self.matching
            .fall_back_to_log(&mut self.streams, &mut self.subscriptions, &mut self.cx);
        // After the fallback: a subscription that missed nothing reads from the old head.
        self.cx.log.skip_to(head);
        for stream in self.streams.iter_mut() {
            self.catch_up.enqueue(stream);
        }
    }

    /// Matches events and delivers them, as many as fit into one slice.
    fn run_slice(&mut self) {
        let done =
            self.matching
                .run_slice(&mut self.streams, &mut self.subscriptions, &mut self.cx);
        for page in done {
            // First, so that the streams below find a free place for their next page.
            self.catch_up.finish_page();
            let mut is_behind = false;
            for id in page.into_streams() {
                if let Some(stream) = self.streams.get_mut(id) {
                    // Before `after_input`, which may end the stream.
                    is_behind |= !stream.backlog.is_empty();
                    stream.read_state = ReadState::Idle;
                    self.after_input(id);
                }
            }
            if !is_behind {
                // Otherwise kept: a stream that is behind without credit asks for these events once
                // it grants some.
                self.catch_up.drop_idle_cache();
            }
        }
        // A share of a slice beside that of matching: documents must not hold up live changes.
        let documents = self.documents.run(
            self.cx.limits.slice.div_ceil(4),
            &mut self.streams,
            &mut self.subscriptions,
            &mut self.cx,
        );
        for id in documents {
            self.after_input(id);
        }
        // An empty queue alone does not settle a plain stream: events committed before the drain
        // may still wait to be matched for it.
        let matched = self.matching.matched(self.cx.log.head());
        if let Some(drain) = &mut self.drain
            && !drain.matched
            && matched >= drain.head
        {
            drain.matched = true;
            for id in self.streams.ids() {
                self.end_if_settled(id);
            }
        }
    }

    fn on_sent(&mut self, id: StreamId, bytes: usize, messages: usize) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream
                .outbox
                .sent(self.cx.now, bytes, messages, &self.cx.limits);
            self.after_input(id);
        }
    }

    fn on_read_done(&mut self, read: ReadId, result: Result<Vec<Arc<Event>>, ReadFault>) {
        // A read is answered once; a second answer would start the same page again.
        let Some(Read { reader, after }) = self.catch_up.finish_read(read) else {
            return;
        };
        self.cx.counters.pages += 1;
        let stream = match reader {
            Reader::Stream(stream) => self.streams.get(stream).map(Stream::id),
            // The streams that have asked for these events meanwhile are found by `start_page`.
            Reader::Collections | Reader::Ahead => None,
        };
        let is_wanted =
            match result.and_then(|events| check_page(after, self.cx.log.head(), events)) {
                Ok(events) => {
                    // Even if its stream has ended: after a restart others ask for the same events.
                    self.catch_up.keep(after, &events, &self.cx);
                    // Whoever the page was read for, it saves the overloaded collections a read.
                    self.matching.refill(after, &events, &self.cx);
                    self.catch_up.start_page(
                        stream,
                        after,
                        events,
                        &mut self.streams,
                        &mut self.matching,
                        &mut self.cx,
                    )
                }
                Err(fault) => {
                    self.on_failed_read(reader, after, &fault);
                    false
                }
            };
        // All that could want pages may have ended during the read.
        if !is_wanted && self.streams.iter().all(|it| it.backlog.is_empty()) {
            self.catch_up.drop_idle_cache();
        }
    }

    fn on_documents_read(&mut self, read: ReadId, result: Result<DocumentPage, ReadFault>) {
        let Some(read) = self.documents.finish_read(read) else {
            return;
        };
        match result {
            Ok(page) => self.documents.push_page(read, page),
            Err(fault) => {
                self.cx.counters.read_faults += 1;
                // The peer keeps its cursor and tries again on another stream.
                self.end(read.reader.stream, &EndCause::Storage(fault.to_string()));
            }
        }
    }

    fn on_failed_read(&mut self, reader: Reader, after: u64, fault: &ReadFault) {
        match reader {
            Reader::Stream(id) => {
                if let Err(cause) = self.on_read_fault(id, after, fault) {
                    self.end(id, &cause);
                }
                if let Some(stream) = self.streams.get_mut(id) {
                    // Subscriptions that the fault does not affect are still behind and go on
                    // reading.
                    stream.read_state = ReadState::Idle;
                    self.after_input(id);
                }
            }
            Reader::Collections => {
                self.matching.give_up_refill(
                    after,
                    &mut self.streams,
                    &mut self.subscriptions,
                    &mut self.cx,
                );
                for stream in self.streams.iter_mut() {
                    self.catch_up.enqueue(stream);
                }
            }
            Reader::Ahead => {
                // A read ahead belongs to nobody, so that its fault goes to a stream that waits for
                // exactly these events. Without one it is met again when a stream asks.
                if let Some(id) = self.catch_up.take_at(after) {
                    self.on_failed_read(Reader::Stream(id), after, fault);
                }
            }
        }
    }

    /// Continues at the head after events that cannot be read. A profile peer gets a resync for each
    /// subscription that misses events; a plain peer can only learn it from the end of its stream.
    fn on_read_fault(
        &mut self,
        id: StreamId,
        after: u64,
        fault: &ReadFault,
    ) -> Result<(), EndCause> {
        let cx = &mut self.cx;
        cx.counters.read_faults += 1;
        let (affected, reason) = match fault {
            // The events may be intact: the peer keeps its positions and tries again.
            ReadFault::Storage(error) => return Err(EndCause::Storage(error.clone())),
            ReadFault::Trimmed { first } => {
                // A subscribe before the driver reports the trim must not be accepted where nothing
                // can be read.
                cx.log.trim(*first);
                // The offset that was read is always affected; otherwise it would be read again
                // without end.
                (0..(*first).max(after + 1), ResyncReason::Trimmed)
            }
            ReadFault::Damaged { offset } => {
                cx.log.mark_damaged(*offset);
                (after..(*offset).max(after + 1), ResyncReason::Damaged)
            }
        };
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        // A plain peer has no message for lost events, and silence would hide the loss.
        if !stream.is_profile() {
            return Err(EndCause::EventsLost(fault.to_string()));
        }
        // Those without credit did not ask for these events yet; they meet the fault when they
        // read.
        let keys = stream.backlog.ready_within(affected);
        resync(stream, keys, reason, &mut self.subscriptions, cx);
        Ok(())
    }

    /// Announces the stop.
    ///
    /// Profile peers get an announcement and leave by themselves. Plain peers do not understand one;
    /// each of their streams ends when everything for it was sent, so that the peer looks for another
    /// server early. A peer that was silent before the drain is not waited for: one that has missed a
    /// heartbeat, or soon one that has left its queue untouched. The rest ends at the deadline.
    fn on_drain(&mut self, deadline: Time, reason: String) {
        // A second request to stop may shorten the first one but never extends it.
        let deadline = self
            .drain
            .as_ref()
            .map_or(deadline, |older| older.deadline.min(deadline));
        let announcement = wire::Drain {
            deadline_ms: millis_to_wire(deadline - self.cx.now),
            reason: reason.clone(),
        };
        let cause = EndCause::Drained(reason.clone());
        let head = self.cx.log.head();
        self.drain = Some(Drain {
            deadline,
            reason,
            head,
            matched: self.matching.matched(head) >= head,
        });
        // The first start counts: what had stalled before it gets the shorter timeout.
        self.cx.drain_start.get_or_insert(self.cx.now);
        for id in self.streams.ids() {
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            match stream.peer() {
                // Half of its silence limit has passed; the other half may be longer than the
                // drain.
                Peer::Profile(_) | Peer::Plain if stream.is_late(self.cx.now) => {
                    self.end(id, &cause);
                }
                Peer::Profile(_) => {
                    stream.send(Payload::Drain(announcement.clone()), &mut self.cx);
                    self.streams.arm(id, &self.cx);
                }
                Peer::Plain => {
                    self.streams.arm(id, &self.cx);
                    self.end_if_settled(id);
                }
                Peer::Unknown => self.refuse(id, &cause),
                Peer::Refused { .. } => {}
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(drain) = &self.drain
            && drain.deadline <= self.cx.now
        {
            let cause = EndCause::Drained(drain.reason.clone());
            for id in self.streams.ids() {
                self.end(id, &cause);
            }
        }
        // Terminates: a stream that stays open has its next deadline in the future.
        while let Some(id) = self.streams.pop_due(self.cx.now) {
            self.on_timer(id);
            self.streams.arm(id, &self.cx);
        }
    }

    fn on_timer(&mut self, id: StreamId) {
        let now = self.cx.now;
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        if let Some(cause) = stream.overdue(&self.cx) {
            let cause = match (&self.drain, cause) {
                // The drain shortens the stall timeout, so that this end is the server's doing and
                // no eviction.
                (Some(drain), EndCause::Stalled(_)) => EndCause::Drained(drain.reason.clone()),
                (_, cause) => cause,
            };
            self.end(id, &cause);
        } else if stream.progress.next_check() <= now
            // A refused stream has no deadline but that of its refusal.
            && !matches!(stream.peer(), Peer::Refused { .. })
        {
            self.check_progress(id);
        }
    }

    /// Tells a profile peer that the head moved, unless its queue is full. Ends the stream of a
    /// subscription that is too far behind.
    fn check_progress(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        let head = self.cx.log.head();
        // Not the head: an event for this stream may wait to be matched, and a client that was told
        // a later position would resume after it.
        let matched = self.matching.matched_for(stream, &self.subscriptions, head);
        stream
            .progress
            .schedule(self.cx.now, self.cx.limits.progress_interval);
        // Checked here and not per event, because the lowest offset takes a pass over all cursors.
        if let (Some(limit), Some(lowest)) = (self.cx.limits.max_lag, stream.backlog.lowest())
            && head - lowest > limit
        {
            let lag = head - lowest;
            return self.end(id, &EndCause::Lagging { lag, limit });
        }
        if stream.wants_progress(matched)
            && let Some(progress) =
                stream.report_progress(matched, &self.subscriptions, &mut self.cx)
        {
            stream.send(Payload::Progress(progress), &mut self.cx);
        }
    }

    /// Returns true if a slice would do something.
    fn has_work(&self) -> bool {
        self.loss.is_some() || !self.matching.is_empty() || self.documents.has_pages()
    }

    fn deadline(&self) -> Option<Time> {
        let drain = self.drain.as_ref().filter(|_| !self.streams.is_empty());
        let drain = drain.map(|drain| drain.deadline);
        // Overloaded collections do not count here: they wait for a read, whose end is an input.
        if self.has_work() {
            return Some(self.cx.now);
        }
        [self.streams.next_due(), drain].into_iter().flatten().min()
    }

    /// Does what may have become necessary when an input changed a stream: ends it if its queue is too
    /// long, queues a read, sets its timer, and ends it if it is drained.
    fn after_input(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        // Responses are never dropped one by one and receiving never waits for sending, so a peer
        // that sends requests and reads nothing can only be ended.
        let (unsent, limit) = (stream.outbox.bytes(), self.cx.limits.outbound_bytes);
        if unsent > limit {
            return self.end(id, &EndCause::Unread { unsent, limit });
        }
        self.catch_up.enqueue(stream);
        self.documents.enqueue(stream);
        self.streams.arm(id, &self.cx);
        self.end_if_settled(id);
    }

    /// During a drain, ends a plain stream to which everything was sent.
    fn end_if_settled(&mut self, id: StreamId) {
        if let Some(drain) = &self.drain
            && let Some(stream) = self.streams.get(id)
            // A profile peer leaves by itself: it was told to, and resumes elsewhere by position.
            && matches!(stream.peer(), Peer::Plain)
            && drain.matched
            && stream.is_settled()
        {
            let cause = EndCause::Drained(drain.reason.clone());
            self.end(id, &cause);
        }
    }

    /// Ends a stream and frees everything that it holds. Does nothing if it has ended.
    fn end(&mut self, id: StreamId, cause: &EndCause) {
        let Some(mut stream) = self.streams.remove(id) else {
            return;
        };
        stream.flush(&mut self.cx);
        // Matches that were found for them and are not delivered yet find no subscription any more.
        for key in stream.subscriptions() {
            self.subscriptions.remove(key);
        }
        self.catch_up.forget(&stream);
        self.cx.counters.count_end(cause);
        let last = stream
            .understands_final()
            .then(|| cause.final_message(&self.cx.limits));
        self.cx.actions.push(Action::End {
            stream: id,
            last: last.flatten().map(|last| framed(&last)),
            status: cause.status(),
            flush: cause.flushes(),
        });
    }
}

/// Returns an encoded and framed message.
fn framed(message: &StreamerMessage) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEAD + message.encoded_len());
    put_frame_head(message.encoded_len(), &mut out);
    message.encode(&mut out).expect("a vector grows");
    out.into()
}

/// The longest time for which a refused stream waits for its first message.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
