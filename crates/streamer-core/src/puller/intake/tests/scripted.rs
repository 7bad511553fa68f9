//! A Puller that behaves as the original, and a log that an intake fills.

use std::collections::{BTreeMap, VecDeque};

use steadfast_session::Effect;

use super::*;
use crate::puller::{EventId, Loss, Progress};

/// A Puller with one consumer.
#[derive(Default)]
pub(super) struct Puller {
    /// In the order in which the changes happened.
    pub(super) buffer: Vec<ChangeEvent>,
    stream: Option<Stream>,
    /// Of changes with one time only the first is sent (P2).
    pub(super) drops_same_time: bool,
    /// Markers name only the backend of the last change (P4).
    pub(super) names_one_backend: bool,
}

struct Stream {
    queue: VecDeque<ChangeEvent>,
    marker: Progress,
}

impl Puller {
    pub(super) fn add(&mut self, change: ChangeEvent) {
        if let Some(stream) = &mut self.stream {
            stream.queue.push_back(change.clone());
        }
        self.buffer.push(change);
    }

    /// Forgets all changes of a backend so far.
    pub(super) fn forget(&mut self, backend: &str) {
        self.buffer.retain(|change| change.backend != backend);
    }

    pub(super) fn subscribe(&mut self, request: &SubscribeRequest) {
        let marker: Progress = request.after.parse().unwrap();
        self.stream = Some(Stream {
            queue: VecDeque::new(),
            marker,
        });
        self.replay();
    }

    /// Goes back to the last time of each backend, and sends it and what follows again.
    pub(super) fn replay_again(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        for id in stream.marker.backends.values_mut() {
            let mut parsed: EventId = id.parse().unwrap();
            parsed.time = parsed.time.previous();
            *id = parsed.to_string();
        }
        self.replay();
    }

    /// Sends what follows the consumer's marker, in the order of time, backend and id.
    fn replay(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        // An empty marker stands for live changes only (P3).
        if stream.marker.backends.is_empty() {
            return;
        }
        let key = |change: &ChangeEvent| {
            let id: EventId = change.event_id.parse().unwrap();
            (id.time, change.backend.clone(), id.hash)
        };
        let mut replay: Vec<_> = self
            .buffer
            .iter()
            .filter(|change| {
                let after = stream.marker.backends.get(&change.backend);
                let after = after.map(|id| id.parse::<EventId>().unwrap());
                let (time, _, hash) = key(change);
                // A backend that the marker does not name is sent from its beginning (P4).
                after.is_none_or(|after| (time, hash) > (after.time, after.hash))
            })
            .cloned()
            .collect();
        replay.sort_by_key(key);
        stream.queue = replay.into();
    }

    pub(super) fn cut(&mut self) {
        self.stream = None;
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Returns the next message.
    pub(super) fn next(&mut self) -> Option<PullerEvent> {
        let (drops, names_one) = (self.drops_same_time, self.names_one_backend);
        let stream = self.stream.as_mut()?;
        loop {
            let change = stream.queue.pop_front()?;
            let time = |id: &str| id.parse::<EventId>().unwrap().time;
            let last = stream.marker.backends.get(&change.backend);
            if drops && last.is_some_and(|last| time(&change.event_id) <= time(last)) {
                continue;
            }
            let id = change.event_id.clone();
            if names_one {
                stream.marker.backends.clear();
            }
            stream.marker.backends.insert(change.backend.clone(), id);
            return Some(PullerEvent {
                change_event: Some(change),
                progress: stream.marker.to_string(),
            });
        }
    }

    pub(super) fn heartbeat(&self) -> PullerEvent {
        let marker = self.stream.as_ref().map(|stream| stream.marker.to_string());
        PullerEvent {
            change_event: None,
            progress: marker.unwrap_or_default(),
        }
    }
}

/// An intake and its log: what is committed survives a kill, the rest does not.
pub(super) struct Store {
    pub(super) intake: Intake,
    pub(super) queue: VecDeque<Received>,
    pub(super) committed: Vec<ChangeEvent>,
    /// The losses that were told, with the number of changes committed before.
    pub(super) lost: Vec<(usize, Lost)>,
    /// As the log stores it, and as the batches advance it.
    stored: Vec<u8>,
    marker: Marker,
    generation: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            intake: Intake::new("test", Marker::default()),
            queue: VecDeque::new(),
            committed: Vec::new(),
            lost: Vec::new(),
            stored: Vec::new(),
            marker: Marker::default(),
            generation: 0,
        }
    }
}

impl Store {
    /// Opens a stream, and returns the request on it.
    pub(super) fn open(&mut self) -> SubscribeRequest {
        self.generation += 1;
        let mut cx = Context::new(true);
        self.intake
            .on_open(Time::ZERO, Generation(self.generation), &mut cx);
        match cx.into_effects().pop() {
            Some(Effect::Send(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn receive(&mut self, event: PullerEvent) {
        let mut cx = Context::new(true);
        self.intake.on_message(Time::ZERO, event, &mut cx);
        self.take(cx);
    }

    pub(super) fn down(&mut self, end: &End) {
        let mut cx = Context::new(false);
        self.intake.on_down(Time::ZERO, end, &mut cx);
        self.take(cx);
    }

    fn take(&mut self, cx: Context<SubscribeRequest, Received>) {
        for effect in cx.into_effects() {
            match effect {
                Effect::Event(received) => self.queue.push_back(received),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Commits up to `max` of what was received, with the marker.
    pub(super) fn commit(&mut self, max: usize) {
        for received in self.queue.drain(..max.min(self.queue.len())) {
            match received {
                Received::Event(event) => {
                    self.marker.advance(&event).unwrap();
                    self.committed.extend(event.change_event);
                }
                Received::Lost(lost) => {
                    if let Lost::Refused { .. } = lost {
                        self.marker = Marker::default();
                    }
                    self.marker.loss = Some(Loss::Pending);
                    self.lost.push((self.committed.len(), lost));
                }
            }
        }
        self.stored = self.marker.encode().to_vec();
    }

    pub(super) fn kill(&mut self) {
        self.marker = Marker::decode(&self.stored).unwrap();
        self.queue.clear();
        self.intake = Intake::new("test", self.marker.clone());
    }
}

/// A change of a document of its own.
pub(super) fn change(backend: &str, id: &str) -> ChangeEvent {
    let time = id.parse::<EventId>().unwrap().time;
    ChangeEvent {
        event_id: id.to_owned(),
        database: "default".to_owned(),
        op_type: "update".to_owned(),
        backend: backend.to_owned(),
        cluster_time: Some(time.into()),
        full_doc: format!(r#"{{"id":"{id}"}}"#).into(),
        ..ChangeEvent::default()
    }
}

pub(super) fn taken(change: &ChangeEvent) -> &str {
    &change.event_id
}

/// Returns how often each change is among these.
pub(super) fn counts(changes: &[ChangeEvent]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for change in changes {
        let key = (change.backend.clone(), change.event_id.clone());
        *counts.entry(key).or_default() += 1;
    }
    counts
}
