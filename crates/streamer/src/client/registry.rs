//! What the link's task and the handles share: the queues, and the latest news.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use steadfast::session::{End, Reason};
use tokio::sync::watch;

use super::{Ended, Server};
use steadfast_streamer_core::{
    Position,
    client::{Command, Counters, Event, Item, SubscriptionId, queue::Queue},
};

/// Everything the sink of one link fills.
#[derive(Debug)]
pub(super) struct Registry {
    shared: Mutex<Shared>,
    counters: watch::Sender<Counters>,
}

#[derive(Debug, Default)]
struct Shared {
    slots: BTreeMap<SubscriptionId, Arc<Slot>>,
    newest: u64,
    /// Why nothing is attempted, if the link stopped by itself or was left.
    stopped: Option<End>,
    server: Option<Server>,
    rtt: Option<Duration>,
}

/// One subscription's place between the link's task and its handle.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Mailbox>);

#[derive(Debug, Default)]
struct Mailbox {
    queue: Queue,
    phase: Phase,
    reader: Option<Waker>,
}

/// How far a subscription is, as its handle sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No server has answered.
    #[default]
    Asked,
    /// Some server has acknowledged it.
    Active,
    /// It ended; the reason is told once, if there is one worth telling.
    Over(Option<Ended>),
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            shared: Mutex::default(),
            counters: watch::Sender::new(Counters::default()),
        })
    }

    /// A place for a new subscription.
    ///
    /// # Errors
    ///
    /// Why there will be none until somebody connects again.
    pub(super) fn add(&self) -> Result<(SubscriptionId, Arc<Slot>), End> {
        let mut shared = self.lock();
        if let Some(end) = &shared.stopped {
            return Err(end.clone());
        }
        shared.newest += 1;
        let id = SubscriptionId(shared.newest);
        let slot = Arc::<Slot>::default();
        shared.slots.insert(id, Arc::clone(&slot));
        Ok((id, slot))
    }

    pub(super) fn remove(&self, id: SubscriptionId) {
        self.lock().slots.remove(&id);
    }

    /// Somebody wants a stream again.
    pub(super) fn resume(&self) {
        self.lock().stopped = None;
    }

    pub(super) fn server(&self) -> Option<Server> {
        self.lock().server.clone()
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.lock().rtt
    }

    pub(super) fn counters(&self) -> watch::Receiver<Counters> {
        self.counters.subscribe()
    }

    /// Takes what the core tells. Never blocks on a reader.
    fn take(&self, event: Event) {
        match event {
            Event::Greeted { server_id, head } => {
                self.lock().server = Some(Server {
                    id: server_id,
                    head,
                });
            }
            Event::Rtt(rtt) => self.lock().rtt = Some(rtt),
            Event::Counters(counters) => {
                self.counters.send_replace(*counters);
            }
            Event::Subscribed { id, position, .. } => self.with(id, |mailbox| {
                mailbox.phase = Phase::Active;
                if let Some(position) = position {
                    mailbox.queue.mark(position);
                }
            }),
            Event::Item { id, item } => self.with(id, |mailbox| mailbox.queue.push(item)),
            Event::Discard { id, from } => self.with(id, |mailbox| mailbox.queue.discard(from)),
            Event::Marker { id, position } => {
                self.with(id, |mailbox| mailbox.queue.mark(position));
            }
            Event::Refused { id, refusal } => {
                self.with(id, |mailbox| mailbox.end(Some(Ended::Refused(refusal))));
                self.remove(id);
            }
            Event::Stopped(end) => self.stop(&end),
        }
    }

    /// Ends every subscription: those the core knows and those it is about to be told of.
    fn stop(&self, end: &End) {
        let slots = {
            let mut shared = self.lock();
            shared.stopped = Some(end.clone());
            shared.server = None;
            std::mem::take(&mut shared.slots)
        };
        let told = (end.reason != Reason::Left).then(|| Ended::Stopped(end.clone()));
        for slot in slots.into_values() {
            slot.change(|mailbox| mailbox.end(told.clone()));
        }
    }

    fn with(&self, id: SubscriptionId, change: impl FnOnce(&mut Mailbox)) {
        let slot = self.lock().slots.get(&id).cloned();
        // A handle that was dropped is gone from here at once, and from the core soon.
        if let Some(slot) = slot {
            slot.change(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared
            .lock()
            .expect("nothing panics while it holds the registry")
    }
}

impl Slot {
    /// The next item, then why there will be no more, then nothing.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Ended>>> {
        let mut mailbox = self.lock();
        if let Some(item) = mailbox.queue.pop() {
            return Poll::Ready(Some(Ok(item)));
        }
        match &mut mailbox.phase {
            Phase::Over(why) => Poll::Ready(why.take().map(Err)),
            Phase::Asked | Phase::Active => {
                mailbox.wake_later(cx);
                Poll::Pending
            }
        }
    }

    /// The first answer: that it is active, or why it never will be (`None`: it was closed).
    pub(super) fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Result<(), Option<Ended>>> {
        let mut mailbox = self.lock();
        match &mut mailbox.phase {
            Phase::Asked => {
                mailbox.wake_later(cx);
                Poll::Pending
            }
            Phase::Active => Poll::Ready(Ok(())),
            Phase::Over(why) => Poll::Ready(Err(why.take())),
        }
    }

    pub(super) fn take_report(&self) -> Option<u64> {
        self.lock().queue.take_report()
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.lock().queue.position()
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    fn change(&self, change: impl FnOnce(&mut Mailbox)) {
        let reader = {
            let mut mailbox = self.lock();
            change(&mut mailbox);
            mailbox.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.0
            .lock()
            .expect("nothing panics while it holds a mailbox")
    }
}

impl Mailbox {
    fn end(&mut self, why: Option<Ended>) {
        self.phase = Phase::Over(why);
    }

    fn wake_later(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }
}

/// The sink of a link. When it is dropped the link's task is gone, however that came, and nobody
/// waits for it any longer.
#[derive(Debug)]
pub(super) struct Sink(pub(super) Arc<Registry>);

impl Sink {
    pub(super) fn take(&self, event: Event) {
        self.0.take(event);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let end = End::stop(steadfast::session::Initiator::Local, Reason::Left);
        self.0.stop(&end);
    }
}

/// Where handles of subscriptions send their commands, whatever the transport below is.
pub(super) trait Ask: Send + Sync {
    /// What is asked of a closed link is not heard, and need not be.
    fn ask(self: Arc<Self>, command: Command);
}
