//! What one agent is asked, and what becomes of its answers (`docs/protocol-fodc.md`, R-120 to
//! R-131). A machine without clock or sockets.
//!
//! ```text
//!            ask                     answer
//!   idle ───────────> owed ────────────────────────> idle
//!                      │  deadline: nobody waits, the agent is silent
//!                      │  any answer: discarded, silent no more
//!                      │  abandon_after: the stream ends
//!                      v
//!                   no stream ──── the agent opens one ────> idle
//! ```

mod slices;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use steadfast_session::Time;

pub(super) use self::slices::Density;
use self::slices::slice;
use super::moment::{Moment, Window};

/// What somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Latest,
    Window(Window),
}

/// Names of metrics of which something is wanted; none are all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(Arc<[String]>);

impl Names {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names.into())
    }

    pub(super) fn list(&self) -> &[String] {
        &self.0
    }

    pub(super) fn admit(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| wanted == name)
    }
}

/// One message to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) generation: u64,
    pub(super) id: u64,
    pub(super) question: Question,
    /// An agent that does not speak our profile does not understand them.
    pub(super) names: Names,
    /// The agent speaks our profile: it may answer in columns and in several messages.
    pub(super) profile: bool,
}

/// One message of the agent, `data` being what it holds.
#[derive(Clone, Debug)]
pub(super) struct Reply<D> {
    /// 0 of an agent that does not know about it.
    pub(super) request_id: u64,
    pub(super) bytes: usize,
    pub(super) more: bool,
    /// Nothing before this moment is in the answer.
    pub(super) from: Option<Moment>,
    pub(super) data: D,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect<T, D> {
    Send(Request),
    /// The stream of this generation is to be ended.
    End(u64),
    /// The one who asked gets this.
    Tell(T, Outcome<D>),
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome<D> {
    Whole(Arc<Vec<D>>),
    /// Something was answered, but not all; why.
    Part(Arc<Vec<D>>, Why),
    Nothing(Why),
}

/// Why an agent's answer is missing, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has no stream on which it could be asked.
    NoStream,
    /// It has owed an answer before, and is not waited for.
    Silent,
    /// The answer did not come in time.
    Late,
    /// Its stream ended before the answer.
    StreamEnded,
    /// Too many others are asking it.
    Busy,
    /// It left something out.
    Truncated,
    /// Its answer did not fit into the memory for answers.
    NoRoom,
}

impl Why {
    /// For people, in a header.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoStream => "no stream",
            Self::Silent => "silent",
            Self::Late => "late",
            Self::StreamEnded => "stream ended",
            Self::Busy => "busy",
            Self::Truncated => "truncated",
            Self::NoRoom => "no room",
        }
    }
}

/// Limits of the asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// After this without an answer an agent counts as silent.
    pub(super) silent_after: Duration,
    pub(super) abandon_after: Duration,
    /// What a plain agent's answer to a slice of a window should weigh, bytes.
    pub(super) slice_bytes: usize,
}

/// What is known of an agent and outlives its registration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heritage {
    pub(super) silent: bool,
    pub(super) density: Density,
}

/// `T` names the one who asks, `D` is what a message holds.
#[derive(Debug)]
pub(super) struct Asking<T, D> {
    patience: Patience,
    stream: Option<Stream>,
    job: Option<Job<T, D>>,
    queue: VecDeque<Job<T, D>>,
    /// It owed an answer past every deadline and has not answered since.
    silent: bool,
    density: Density,
    last_id: u64,
    answered: Option<Time>,
    discarded: u64,
}

#[derive(Debug)]
struct Stream {
    generation: u64,
    profile: bool,
    owed: Option<Owed>,
    unasked: u32,
}

#[derive(Debug)]
struct Owed {
    request: Request,
    since: Time,
    bytes: usize,
}

#[derive(Debug)]
struct Job<T, D> {
    question: Question,
    names: Names,
    waiting: Vec<(T, Time)>,
    parts: Vec<D>,
    /// Where the rest of a window begins that is asked in slices.
    rest: Option<Window>,
    cut: Option<Why>,
}

/// Different questions that may wait for an agent.
const QUEUE: usize = 8;

/// Those who may wait for the same answer.
const WAITING: usize = 64;

/// Messages that nobody asked for, on one stream, before it is ended.
const UNASKED: u32 = 64;

impl<T, D> Asking<T, D> {
    pub(super) fn new(patience: Patience, heritage: Heritage) -> Self {
        Self {
            patience,
            stream: None,
            job: None,
            queue: VecDeque::new(),
            silent: heritage.silent,
            density: heritage.density,
            last_id: 0,
            answered: None,
            discarded: 0,
        }
    }

    /// The agent has opened a stream; it takes the place of an older one. What that one owes is
    /// asked again.
    pub(super) fn open(
        &mut self,
        now: Time,
        generation: u64,
        profile: bool,
        out: &mut Vec<Effect<T, D>>,
    ) {
        debug_assert!(
            self.generation() < Some(generation),
            "generations only grow"
        );
        let interrupted = self
            .stream
            .take()
            .is_some_and(|stream| stream.owed.is_some());
        self.stream = Some(Stream {
            generation,
            profile,
            owed: None,
            unasked: 0,
        });
        if interrupted && let Some(mut job) = self.job.take() {
            job.start_anew();
            self.queue.push_front(job);
        }
        self.proceed(now, out);
        if self.silent {
            self.probe(now, out);
        }
    }

    /// The stream of this generation is no more.
    pub(super) fn close(&mut self, generation: u64, oversized: bool, out: &mut Vec<Effect<T, D>>) {
        if self.generation() != Some(generation) {
            return;
        }
        if oversized {
            self.density.was_too_dense();
        }
        self.lose_stream(Why::StreamEnded, out);
    }

    /// Somebody wants an answer until `deadline`. It is told exactly once: now, or by a later call.
    pub(super) fn ask(
        &mut self,
        now: Time,
        question: Question,
        names: &Names,
        who: T,
        deadline: Time,
        out: &mut Vec<Effect<T, D>>,
    ) {
        if self.stream.is_none() {
            return out.push(Effect::Tell(who, Outcome::Nothing(Why::NoStream)));
        }
        if self.silent {
            self.probe(now, out);
            return out.push(Effect::Tell(who, Outcome::Nothing(Why::Silent)));
        }
        let has_room = self.queue.len() < QUEUE;
        let asked = self.job.iter_mut().chain(&mut self.queue);
        let same = |job: &&mut Job<T, D>| job.question == question && job.names == *names;
        match asked.into_iter().find(same) {
            Some(job) if job.waiting.len() < WAITING => job.waiting.push((who, deadline)),
            None if has_room => {
                self.queue.push_back(Job {
                    question,
                    names: names.clone(),
                    waiting: vec![(who, deadline)],
                    parts: Vec::new(),
                    rest: None,
                    cut: None,
                });
                self.proceed(now, out);
            }
            Some(_) | None => out.push(Effect::Tell(who, Outcome::Nothing(Why::Busy))),
        }
    }

    /// Whether a message that comes now on this stream is wanted by anybody.
    pub(super) fn wants(&self, generation: u64) -> bool {
        let owed = |stream: &Stream| stream.generation == generation && stream.owed.is_some();
        self.stream.as_ref().is_some_and(owed) && self.job.is_some()
    }

    /// A message has arrived on the stream of this generation.
    pub(super) fn reply(
        &mut self,
        now: Time,
        generation: u64,
        reply: Reply<D>,
        out: &mut Vec<Effect<T, D>>,
    ) {
        let Some(stream) = self
            .stream
            .as_mut()
            .filter(|stream| stream.generation == generation)
        else {
            self.discarded += 1;
            return;
        };
        let expected = |owed: &Owed| !stream.profile || owed.request.id == reply.request_id;
        let Some(mut owed) = stream.owed.take_if(|owed| expected(owed)) else {
            self.discarded += 1;
            stream.unasked += 1;
            if stream.unasked >= UNASKED {
                out.push(Effect::End(generation));
                self.lose_stream(Why::StreamEnded, out);
            }
            return;
        };
        self.silent = false;
        self.answered = Some(now);
        owed.bytes += reply.bytes;
        owed.since = now;
        match &mut self.job {
            Some(job) => {
                job.parts.push(reply.data);
                if reply.from.is_some() {
                    job.cut = Some(Why::Truncated);
                }
            }
            None => self.discarded += 1,
        }
        if reply.more && stream.profile {
            stream.owed = Some(owed);
            return;
        }
        self.learn(&owed);
        self.advance(now, out);
    }

    /// The message on this stream could not be kept. Its question is answered without it.
    pub(super) fn reply_lost(
        &mut self,
        now: Time,
        generation: u64,
        mut reply: Reply<D>,
        out: &mut Vec<Effect<T, D>>,
    ) {
        if self.wants(generation)
            && let Some(job) = &mut self.job
        {
            job.cut = Some(Why::NoRoom);
            job.rest = None;
        }
        reply.from = None;
        self.reply(now, generation, reply, out);
    }

    /// Lets deadlines pass.
    pub(super) fn tick(&mut self, now: Time, out: &mut Vec<Effect<T, D>>) {
        if let Some(job) = &mut self.job {
            job.expire(now, Why::Late, out);
        }
        for job in &mut self.queue {
            job.expire(now, Why::Busy, out);
        }
        self.queue.retain(|job| !job.waiting.is_empty());
        self.job.take_if(|job| job.waiting.is_empty());
        let nobody_waits = self.job.is_none();
        let Some(stream) = &self.stream else { return };
        let Some(owed) = &stream.owed else { return };
        let waited = now.since(owed.since);
        if nobody_waits && waited >= self.patience.silent_after {
            self.silent = true;
        }
        if waited >= self.patience.abandon_after {
            self.silent = true;
            out.push(Effect::End(stream.generation));
            self.lose_stream(Why::Late, out);
        }
    }

    pub(super) fn heritage(&self) -> Heritage {
        Heritage {
            silent: self.silent,
            density: self.density,
        }
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.stream.as_ref().map(|stream| stream.generation)
    }

    pub(super) fn owes(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.owed.is_some())
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    pub(super) fn answered(&self) -> Option<Time> {
        self.answered
    }

    /// Messages that came when nobody waited for them.
    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    fn lose_stream(&mut self, why: Why, out: &mut Vec<Effect<T, D>>) {
        self.stream = None;
        for job in self.job.take().into_iter().chain(self.queue.drain(..)) {
            job.finish(Some(why), out);
        }
    }

    /// Asks for something that nobody waits for, to hear whether the agent answers again.
    fn probe(&mut self, now: Time, out: &mut Vec<Effect<T, D>>) {
        if !self.owes() && self.job.is_none() {
            self.send(now, Question::Latest, Names::default(), out);
        }
    }

    /// Takes up the next question if nothing is owed.
    fn proceed(&mut self, now: Time, out: &mut Vec<Effect<T, D>>) {
        let free = self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.owed.is_none());
        if !free || self.job.is_some() {
            return;
        }
        let Some(mut job) = self.queue.pop_front() else {
            return;
        };
        if let (Question::Window(window), None) = (job.question, job.rest) {
            job.rest = Some(window);
        }
        self.job = Some(job);
        self.send_rest(now, out);
    }

    fn send_rest(&mut self, now: Time, out: &mut Vec<Effect<T, D>>) {
        let (Some(job), Some(stream)) = (&mut self.job, &self.stream) else {
            return;
        };
        let question = match job.rest {
            None => Question::Latest,
            Some(rest) if stream.profile => {
                job.rest = None;
                Question::Window(rest)
            }
            Some(rest) => {
                let (now, later) = slice(rest, self.density, self.patience.slice_bytes);
                job.rest = later;
                Question::Window(now)
            }
        };
        let names = job.names.clone();
        self.send(now, question, names, out);
    }

    fn send(&mut self, now: Time, question: Question, names: Names, out: &mut Vec<Effect<T, D>>) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        debug_assert!(stream.owed.is_none(), "one question at a time");
        self.last_id += 1;
        let request = Request {
            generation: stream.generation,
            id: self.last_id,
            question,
            names,
            profile: stream.profile,
        };
        stream.owed = Some(Owed {
            request: request.clone(),
            since: now,
            bytes: 0,
        });
        out.push(Effect::Send(request));
    }

    fn learn(&mut self, owed: &Owed) {
        if owed.request.profile && !owed.request.names.list().is_empty() {
            // What a part of its series weighs says nothing of all.
            return;
        }
        match owed.request.question {
            Question::Latest => self.density.learn_latest(owed.bytes),
            Question::Window(window) => self.density.learn(window, owed.bytes),
        }
    }

    /// The message that was owed is here.
    fn advance(&mut self, now: Time, out: &mut Vec<Effect<T, D>>) {
        match self.job.take() {
            Some(job) if job.rest.is_some() => {
                self.job = Some(job);
                self.send_rest(now, out);
            }
            Some(job) => {
                job.finish(None, out);
                self.proceed(now, out);
            }
            None => self.proceed(now, out),
        }
    }
}

impl<T, D> Job<T, D> {
    fn start_anew(&mut self) {
        self.parts.clear();
        self.rest = None;
        self.cut = None;
    }

    /// Tells everybody whose deadline is over.
    fn expire(&mut self, now: Time, why: Why, out: &mut Vec<Effect<T, D>>) {
        if self.waiting.iter().all(|(_, deadline)| *deadline > now) {
            return;
        }
        let (over, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, deadline)| *deadline <= now);
        self.waiting = waiting;
        // What came so far is given to the last who leave; others may still wait for all of it.
        let parts = if self.waiting.is_empty() {
            std::mem::take(&mut self.parts)
        } else {
            Vec::new()
        };
        tell(over, parts, Some(why), out);
    }

    fn finish(self, why: Option<Why>, out: &mut Vec<Effect<T, D>>) {
        tell(self.waiting, self.parts, why.or(self.cut), out);
    }
}

fn tell<T, D>(
    waiting: Vec<(T, Time)>,
    parts: Vec<D>,
    why: Option<Why>,
    out: &mut Vec<Effect<T, D>>,
) {
    let parts = Arc::new(parts);
    for (who, _) in waiting {
        let outcome = match why {
            None => Outcome::Whole(Arc::clone(&parts)),
            Some(why) if parts.is_empty() => Outcome::Nothing(why),
            Some(why) => Outcome::Part(Arc::clone(&parts), why),
        };
        out.push(Effect::Tell(who, outcome));
    }
}

#[cfg(test)]
mod tests;
