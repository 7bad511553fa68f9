//! The message and the protocol that the tests speak.

use bytes::Bytes;
use steadfast::{
    Observed, Resume,
    session::{Context, End, Generation, Protocol, Signal, Time},
};
use tokio::sync::mpsc;

/// A message of either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Note {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) body: Bytes,
}

/// The first message of the peer is its greeting, the second completes what was restored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Sent at the beginning of every stream.
    pub(crate) hello: Vec<Note>,
    /// Sent when a heartbeat is due.
    pub(crate) heartbeat: Option<Note>,
    /// The number of notes with which a stream has caught up.
    pub(crate) missed: u32,
    pub(crate) received: u32,
}

/// An event of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NoteEvent {
    Note(Note),
    Down(End),
    Stopped(End),
}

/// The number of the note with which a peer announces that it stops.
pub(crate) const STOPPING: u64 = u64::MAX;

pub(crate) fn note(number: u64) -> Note {
    Note {
        number,
        body: Bytes::new(),
    }
}

/// A note with a body of that many bytes.
pub(crate) fn large(number: u64, bytes: usize) -> Note {
    Note {
        number,
        body: Bytes::from(vec![7; bytes]),
    }
}

/// A sink, and the receiver of its events.
pub(crate) fn note_sink() -> (
    impl FnMut(NoteEvent) + Send + 'static,
    mpsc::UnboundedReceiver<NoteEvent>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let sink = move |event| {
        sender.send(event).ok();
    };
    (sink, receiver)
}

impl Notes {
    /// Sends `number` at the beginning of every stream.
    pub(crate) fn sending(number: u64) -> Self {
        Self {
            hello: vec![note(number)],
            ..Self::default()
        }
    }
}

/// Requests the notes after the last one seen.
#[derive(Debug, Default)]
pub(crate) struct After(pub(crate) u64);

impl Resume for After {
    type Request = Note;
    type Response = Note;

    fn requests(&mut self) -> Vec<Note> {
        vec![note(self.0)]
    }

    fn observe(&mut self, response: &Note) -> Observed {
        if response.number <= self.0 {
            return Observed::Duplicate;
        }
        self.0 = response.number;
        Observed::New
    }
}

impl Protocol for Notes {
    type Send = Note;
    type Receive = Note;
    type Command = Note;
    type Event = NoteEvent;

    fn on_open(&mut self, _: Time, _: Generation, cx: &mut Context<Note, NoteEvent>) {
        self.received = 0;
        for note in &self.hello {
            cx.send(note.clone());
        }
    }

    fn on_message(&mut self, _: Time, message: Note, cx: &mut Context<Note, NoteEvent>) {
        self.received += 1;
        if message.number == STOPPING {
            cx.signal(Signal::Drain("stopping".into()));
            return;
        }
        cx.signal(if self.received == 1 {
            Signal::Greeted
        } else {
            Signal::Restored
        });
        cx.emit(NoteEvent::Note(message));
    }

    fn on_command(&mut self, _: Time, command: Note, cx: &mut Context<Note, NoteEvent>) {
        if cx.is_open() {
            cx.send(command);
        }
    }

    fn on_heartbeat(&mut self, _: Time, cx: &mut Context<Note, NoteEvent>) {
        if let Some(note) = &self.heartbeat {
            cx.send(note.clone());
        }
    }

    fn on_down(&mut self, _: Time, end: &End, cx: &mut Context<Note, NoteEvent>) {
        cx.emit(NoteEvent::Down(end.clone()));
    }

    fn on_stop(&mut self, _: Time, end: &End, cx: &mut Context<Note, NoteEvent>) {
        cx.emit(NoteEvent::Stopped(end.clone()));
    }

    fn caught_up(&self) -> bool {
        self.received >= self.missed
    }
}
