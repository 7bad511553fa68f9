//! The applications of the clients: what they subscribe to, what they take, and what they do by themselves.

use rand::RngExt as _;
use steadfast_session::session;
use steadfast_streamer_core::{
    Direction, Window,
    client::{
        Command, Item, LiveDocuments, Resync, ResyncReason, Snapshot, Start, SubscribeOptions,
        SubscriptionId, WindowDocuments,
    },
};

use super::World;
use crate::{
    Fault, oracle,
    payload::{COLLECTIONS, Condition, Payload, Selection},
    scheduler::Task,
    subscription::{Consumed, Live, Subscription},
};

impl World {
    pub(super) fn subscribe(&mut self, number: usize) {
        let condition = Condition::draw(&mut self.rng);
        let selection = Selection {
            collection: COLLECTIONS[usize::from(self.rng.random_range(0..5) == 0)],
            condition,
        };
        let start = self.draw_start(number);
        self.subscribe_from(number, selection, start);
    }

    fn subscribe_from(&mut self, number: usize, selection: Selection, start: Start) {
        self.next_subscription += 1;
        let id = SubscriptionId(self.next_subscription);
        let mut subscription = Subscription::new(id, selection);
        // A plain server has no snapshots.
        if start == Start::Now && self.clients[number].profile {
            subscription.live = self.draw_live();
        }
        let options = subscription
            .live
            .as_ref()
            .map_or_else(SubscribeOptions::default, Live::options);
        match start {
            // A plain server tells no position. Its start is not before what the hub knew by now.
            Start::Now if !self.clients[number].profile => {
                subscription.start = Some(self.server.known_head);
            }
            Start::After(position) => subscription.start = Some(position.offset),
            Start::Oldest | Start::AtTime(_) => {
                subscription.begins = Some((start, self.server.known_first));
            }
            _ => {}
        }
        self.clients[number].subscriptions.push(subscription);
        let command = Command::Subscribe {
            id,
            database: "default".to_owned(),
            collection: selection.collection.to_owned(),
            filter: selection.condition.filter(),
            start,
            options,
        };
        self.command(number, command);
    }

    /// Decides where a subscription begins. A plain server has no past.
    fn draw_start(&mut self, number: usize) -> Start {
        if !self.clients[number].profile {
            return Start::Now;
        }
        match self.rng.random_range(0..8) {
            0 => Start::Oldest,
            1 => {
                let back = self.rng.random_range(0..4_000);
                let now = self.scheduler.now().as_micros() / 1_000;
                Start::AtTime(now.saturating_sub(back).cast_signed())
            }
            _ => Start::Now,
        }
    }

    /// Checks the offset at which the server began a subscription that was not to begin now.
    pub(super) fn check_start(&mut self, number: usize, id: SubscriptionId, offset: u64) {
        let subscription = self.subscription(number, id);
        let Some((start, known_first)) = subscription.and_then(|it| it.begins.take()) else {
            return;
        };
        self.read_events();
        let first = self.server.reader.bounds().first;
        let is_right = match start {
            // The log may have been trimmed while the request was on its way.
            Start::Oldest => {
                self.outcome.counts.starts_at_oldest += 1;
                (known_first..=first).contains(&offset)
            }
            Start::AtTime(time_ms) => {
                self.outcome.counts.starts_at_time += 1;
                self.events.begin_at(time_ms, offset, first)
            }
            _ => false,
        };
        if !is_right {
            self.violation(format!(
                "{id} was to begin at {start:?} and began at {offset}"
            ));
        }
    }

    /// Decides whether an application holds documents, and which.
    fn draw_live(&mut self) -> Option<Live> {
        match self.rng.random_range(0..6) {
            0 => Some(Live::Set(LiveDocuments::default())),
            1 => {
                let direction = if self.rng.random_range(0..2) == 0 {
                    Direction::Ascending
                } else {
                    Direction::Descending
                };
                // Of few documents, so that windows run empty and overflow.
                let mut window = Window::new("v", direction, self.rng.random_range(1..3));
                window.reserve = self.rng.random_range(0..2);
                let documents = WindowDocuments::new(window.clone());
                Some(Live::Window(window, Box::new(documents)))
            }
            _ => None,
        }
    }

    /// Cancels a random subscription. With `continues`, a new one goes on where its application
    /// stopped, as after a restart of the process.
    fn unsubscribe(&mut self, number: usize, continues: bool) {
        let count = self.clients[number].subscriptions.len();
        let at = self.rng.random_range(0..count);
        let subscription = &mut self.clients[number].subscriptions[at];
        // The entry stays in the list, because indices of tasks refer to it.
        if std::mem::replace(&mut subscription.unsubscribed, true) {
            return;
        }
        let queue = std::mem::take(&mut subscription.queue);
        let (id, selection) = (subscription.id, subscription.selection);
        // Of the consumed items, not of the received ones: the successor gets the queued ones
        // again.
        // A set that is held ends with its application.
        let position = queue
            .position()
            .filter(|_| continues && subscription.live.is_none());
        subscription.end = position.map(|position| position.offset);
        self.command(number, Command::Unsubscribe { id });
        if let Some(position) = position {
            self.subscribe_from(number, selection, Start::After(position));
        }
    }

    /// Lets an application consume some items of its queue.
    pub(super) fn on_consume(&mut self, number: usize, at: usize) {
        let now = self.scheduler.now();
        let most = self.rng.random_range(1..=6);
        self.read_events();
        let subscription = &mut self.clients[number].subscriptions[at];
        if subscription.paused_until > now {
            let resume_at = subscription.paused_until;
            return self.scheduler.at(resume_at, Task::Consume(number, at));
        }
        // Only of a position that had left the log, with its term if all of that had. A server that keeps
        // positions roughly may have had an earlier one.
        let lost_before = self.server.reader.bounds().first + self.shape.rewind;
        let is_explained = |resync: &Resync| {
            matches!(resync.reason, ResyncReason::Trimmed | ResyncReason::Epoch)
                && resync.lost_from.offset < lost_before
        };
        let (mut trims, mut unexpected) = (0, Vec::new());
        let (mut differences, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..most {
            let item = subscription.queue.pop();
            if let (Some(live), Some(item)) = (&mut subscription.live, &item) {
                let granted = &mut subscription.granted;
                match item {
                    Item::Resync(resync) if is_explained(resync) => trims += 1,
                    Item::Resync(resync)
                        if resync.reason == ResyncReason::Rights && granted.has_changed() => {}
                    Item::Resync(_) => unexpected.push(item.clone()),
                    Item::Snapshot(Snapshot::Begin { follows }) => {
                        let has_changed = granted.hold(*follows);
                        self.outcome.counts.rights_snapshots += u64::from(has_changed);
                    }
                    _ => {}
                }
                asked.extend(live.apply(subscription.id, item.clone()));
                // Whole sets are compared with a query of the log at every position.
                if let Some(at) = subscription.queue.position().filter(|_| live.is_exact()) {
                    self.outcome.counts.live_checks += 1;
                    let difference = |rights| {
                        let selection = subscription.selection;
                        oracle::live_difference(&self.events, selection, rights, at.offset, live)
                    };
                    // A whole set has begun with a snapshot.
                    assert!(!granted.held().is_empty());
                    let found: Option<Vec<_>> = granted.held().iter().map(difference).collect();
                    differences.extend(found.into_iter().flatten().next());
                }
                continue;
            }
            match item {
                Some(Item::Change(change)) => match Payload::from_json(&change.data) {
                    Some(payload) => subscription.consumed.push(Consumed::Change(payload)),
                    None => subscription.refused = Some("unreadable payload".to_owned()),
                },
                Some(Item::Gap(_)) => subscription.consumed.push(Consumed::Gap),
                Some(Item::Resync(resync)) if is_explained(&resync) => {
                    let (from, to) = (resync.lost_from.offset, resync.resumes_at.offset);
                    subscription.consumed.push(Consumed::Trimmed(from, to));
                    trims += 1;
                }
                Some(item) => unexpected.push(item),
                None => break,
            }
        }
        let unexpected = unexpected
            .first()
            .map(|item| format!("{} got {item:?}", subscription.id));
        *self.outcome.fault_effects.entry(Fault::Trim).or_default() += trims;
        let id = subscription.id;
        let report = subscription.queue.take_report();
        if !subscription.queue.is_empty() {
            let delay = self.millis(1, 25);
            self.scheduler.after(delay, Task::Consume(number, at));
        }
        if let Some(through) = report {
            self.trace(id.0 ^ through);
            self.command(number, Command::Taken { id, through });
        }
        for command in asked {
            match &command {
                Command::Refill { .. } => self.outcome.counts.windows_refilled += 1,
                _ => self.outcome.counts.windows_narrowed += 1,
            }
            self.command(number, command);
        }
        if let Some(what) = unexpected {
            self.violation(what);
        }
        self.outcome.violations.extend(differences);
    }

    /// Checks that the server has ended the older streams of every session.
    fn check_sessions(&mut self) {
        let held = self.server.hub.as_ref().map(|hub| hub.stats().gauges);
        if let Some(held) = held.filter(|held| held.profile_streams > held.sessions) {
            self.violation(format!("two streams of one session: {held:?}"));
        }
    }

    /// Lets a client act by itself.
    pub(super) fn on_act(&mut self, number: usize) {
        if self.settling || self.clients[number].has_ended {
            return;
        }
        self.check_sessions();
        if self.rng.random_range(0..4) == 0 {
            self.change_rights(number);
        }
        match self.rng.random_range(0..8) {
            0 | 1 => self.subscribe(number),
            2 => self.unsubscribe(number, false),
            3 | 4 => self.unsubscribe(number, true),
            5 => {
                // A requested attempt may come before the backoff ends, but not before the minimum
                // interval.
                self.clients[number].pace.on_connect_requested();
                self.session(number, session::Input::Reconnect);
            }
            _ => {
                self.clients[number].pace.on_connect_requested();
                self.session(number, session::Input::Connect);
            }
        }
        let delay = self.millis(100, 2_500);
        self.scheduler.after(delay, Task::Act(number));
    }
}
