//! The metrics stream: questions go out, answers are read as they arrive.

use std::{sync::Arc, time::SystemTime};

use tonic::{Code, Status};

use super::{
    Call,
    held::{Held, stranger},
};
use crate::{
    answer::{Answer, Collector, Discard},
    asking::Reply,
    frames::Piece,
    moment::Moment,
    registry::{AgentId, Identity},
    reply::{Malformed, Reader},
    state::State,
};

/// Closes the stream at the asking when it ends, however it ends.
struct Line<'a> {
    state: &'a State,
    id: &'a AgentId,
    generation: u64,
    oversized: bool,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.state
            .close_metrics(self.id, self.generation, self.oversized);
    }
}

/// A message on its way.
#[derive(Debug, Default)]
struct Message {
    reader: Reader,
    answer: Answer,
    bytes: usize,
    /// Whose it is, if somebody waits for it.
    wanted: Option<Arc<Identity>>,
    now: Option<Moment>,
    full: bool,
}

pub(super) async fn run(mut call: Call, id: AgentId, method: &'static str) -> Status {
    let state = Arc::clone(&call.state);
    let Some(end) = state.hold(&id, method) else {
        return stranger(call).await;
    };
    let _held = Held::new(&state, &id, method);
    let Some(generation) = state.open_metrics(&id, &call.outbound) else {
        return stranger(call).await;
    };
    let mut line = Line {
        state: &state,
        id: &id,
        generation,
        oversized: false,
    };
    let status = tokio::select! {
        biased;
        () = end.cancelled() => Status::aborted("the registration has ended"),
        status = read(&mut call, &state, &id, generation) => status,
    };
    line.oversized = status.code() == Code::ResourceExhausted;
    status
}

async fn read(call: &mut Call, state: &State, id: &AgentId, generation: u64) -> Status {
    let mut message = Message::default();
    // An answer is as long as the one before, in the main.
    let mut usual = 0;
    loop {
        let piece = match call.inbound.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        };
        let read = match piece {
            Piece::Begin(bytes) => {
                message = Message::begin(state, id, generation, bytes);
                message.expect(usual);
                Ok(())
            }
            Piece::Data(data) => message.read(state, &data),
            Piece::End => {
                usual = message.answer.len();
                std::mem::take(&mut message).finish(state, id, generation)
            }
        };
        if let Err(malformed) = read {
            return Status::internal(malformed.to_string());
        }
    }
}

impl Message {
    fn begin(state: &State, id: &AgentId, generation: u64, bytes: usize) -> Self {
        Self {
            bytes,
            wanted: state.expected(id, generation),
            now: Some(wall_clock()),
            ..Self::default()
        }
    }

    /// Makes room for so many samples, as far as so many may come.
    fn expect(&mut self, samples: usize) {
        if self.wanted.is_some() {
            let fit = self.bytes / SAMPLE_BYTES;
            self.answer.expect(samples.min(fit).min(EXPECTED));
        }
    }

    fn read(&mut self, state: &State, data: &bytes::Bytes) -> Result<(), Malformed> {
        let Some(identity) = &self.wanted else {
            return self.reader.read(data, &mut Discard);
        };
        let mut collector = Collector::new(
            &state.store.catalogue,
            identity,
            &state.store.memory,
            &mut self.answer,
        );
        let read = self.reader.read(data, &mut collector);
        self.full |= collector.is_full();
        read
    }

    fn finish(mut self, state: &State, id: &AgentId, generation: u64) -> Result<(), Malformed> {
        let envelope = self.reader.finish()?;
        self.answer
            .seal(envelope.at.or(self.now), &state.store.catalogue);
        let reply = Reply {
            request_id: envelope.request_id,
            bytes: self.bytes,
            more: envelope.more,
            from: envelope.from,
            data: self.answer,
        };
        state.reply(id, generation, reply, !self.full);
        Ok(())
    }
}

/// A sample of a message is hardly ever shorter.
const SAMPLE_BYTES: usize = 32;

/// Room is made for no more samples before they have come.
const EXPECTED: usize = 16 << 10;

fn wall_clock() -> Moment {
    jiff::Timestamp::try_from(SystemTime::now()).map_or(Moment::from_nanos(0), Moment::from)
}
