//! The state that the task of the link shares with the handles: queues, and the latest values.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use steadfast::{
    RenewalRequests,
    session::{End, Reason},
};
use tokio::sync::watch;

use super::{Server, error::Ended};
use steadfast_streamer_core::{
    Position,
    client::{Command, Counters, Event, Item, SubscriptionId, queue::Queue},
};

/// The queues of a client's subscriptions, filled by the event sink of its link.
#[derive(Debug)]
pub(super) struct Registry {
    shared: Mutex<Shared>,
    counters: watch::Sender<Counters>,
}

#[derive(Debug, Default)]
struct Shared {
    slots: BTreeMap<SubscriptionId, Arc<Slot>>,
    newest: u64,
    /// The end after which nothing is attempted: the link stopped by itself, or was left.
    stopped: Option<End>,
    server: Option<Server>,
    rtt: Option<Duration>,
}

/// The queue between the task of the link and the handle of one subscription.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    queue: Queue,
    phase: Phase,
    reader: Option<Waker>,
}

/// The phase of a subscription, as its handle sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// No server has answered.
    #[default]
    Pending,
    /// Some server has acknowledged it.
    Active,
    /// It ended. The reason is yielded once; `None` if the owner ended it.
    Ended(Option<Ended>),
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            shared: Mutex::default(),
            counters: watch::Sender::new(Counters::default()),
        })
    }

    /// Adds a subscription.
    ///
    /// # Errors
    ///
    /// Returns the end after which nothing is attempted until the client is started again.
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

    /// Accepts subscriptions again, after the client was started.
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

    /// Applies an event of the core. Never waits for a reader.
    fn on_event(&self, event: Event) {
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
            Event::Subscribed { id, position, .. } => self.with(id, |slot| {
                slot.phase = Phase::Active;
                if let Some(position) = position {
                    slot.queue.mark(position);
                }
            }),
            Event::Item { id, item } => self.with(id, |slot| slot.queue.push(item)),
            Event::Discard { id, from } => self.with(id, |slot| slot.queue.discard(from)),
            Event::Marker { id, position } => {
                self.with(id, |slot| slot.queue.mark(position));
            }
            // First the handle, which is found through the registry.
            Event::Refused { id, refusal } => {
                self.with(id, |slot| slot.end(Some(Ended::Refused(refusal))));
                self.remove(id);
            }
            Event::Stopped(end) => self.stop(&end),
            // The sink's own.
            Event::CredentialsDue => {}
        }
    }

    /// Ends every subscription, including those whose command the core has not received yet.
    fn stop(&self, end: &End) {
        let slots = {
            let mut shared = self.lock();
            // Under the lock that `add` takes: no subscription can be added after this and wait for
            // ever.
            shared.stopped = Some(end.clone());
            shared.server = None;
            std::mem::take(&mut shared.slots)
        };
        // An application that left or closed the client expects the end, so it is no error.
        let ended = (end.reason != Reason::Left).then(|| Ended::Stopped(end.clone()));
        for slot in slots.into_values() {
            // Outside the registry's lock: a reader that wakes may use the client at once.
            slot.change(|slot| slot.end(ended.clone()));
        }
    }

    fn with(&self, id: SubscriptionId, change: impl FnOnce(&mut SlotState)) {
        // Cloned, so that the registry is not locked while a reader is woken.
        let slot = self.lock().slots.get(&id).cloned();
        // A dropped handle leaves the registry at once, and the core with the next command.
        if let Some(slot) = slot {
            slot.change(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared
            .lock()
            .expect("no code panics while it holds the registry")
    }
}

impl Slot {
    /// Polls for the next item, then for the reason of the end, then for `None`. Also returns the number of
    /// the newest change taken, if the core is to be told.
    pub(super) fn poll_next(
        &self,
        cx: &mut Context<'_>,
    ) -> (Poll<Option<Result<Item, Ended>>>, Option<u64>) {
        let mut slot = self.lock();
        let next = if let Some(item) = slot.queue.pop() {
            Poll::Ready(Some(Ok(item)))
        } else {
            match &mut slot.phase {
                // The error once, then `None`, as a stream ends.
                Phase::Ended(reason) => Poll::Ready(reason.take().map(Err)),
                Phase::Pending | Phase::Active => {
                    slot.wake_later(cx);
                    Poll::Pending
                }
            }
        };
        // After the item, which may be the last change that was not reported.
        (next, slot.queue.take_report())
    }

    /// Polls for the first response: the subscription is active, or it ended (`None` if the client
    /// was closed).
    pub(super) fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Result<(), Option<Ended>>> {
        let mut slot = self.lock();
        match &mut slot.phase {
            Phase::Pending => {
                slot.wake_later(cx);
                Poll::Pending
            }
            Phase::Active => Poll::Ready(Ok(())),
            Phase::Ended(reason) => Poll::Ready(Err(reason.take())),
        }
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.lock().queue.position()
    }

    pub(super) fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    fn change(&self, change: impl FnOnce(&mut SlotState)) {
        let reader = {
            let mut slot = self.lock();
            change(&mut slot);
            slot.reader.take()
        };
        // After the lock is free, or the reader might run into it.
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().expect("no code panics while it holds a slot")
    }
}

impl SlotState {
    fn end(&mut self, reason: Option<Ended>) {
        self.phase = Phase::Ended(reason);
    }

    fn wake_later(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            // `clone_from` costs nothing when the same task polls again.
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }
}

/// The event sink of a link.
///
/// It is dropped with the task of the link, even when that panics. Readers then stop waiting.
#[derive(Debug)]
pub(super) struct Sink(pub(super) Arc<Registry>, pub(super) RenewalRequests);

impl Sink {
    pub(super) fn on_event(&self, event: Event) {
        match event {
            Event::CredentialsDue => self.1.request(),
            event => self.0.on_event(event),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let end = End::stop(steadfast::session::Initiator::Local, Reason::Left);
        self.0.stop(&end);
    }
}

/// Sends the commands of subscriptions, whatever the transport is.
pub(super) trait CommandSender: Send + Sync {
    /// Sends a command. A closed link ignores it: it has no subscriptions.
    fn send(self: Arc<Self>, command: Command);
}
