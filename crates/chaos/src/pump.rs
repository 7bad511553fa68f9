//! One direction of one connection: read, hold as the conditions demand, write.

use std::{collections::VecDeque, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{ReadHalf, WriteHalf},
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    conditions::{Conditions, Cut, Shaping},
    fault::Direction,
    stats::Meter,
};

/// The end of a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PumpEnd {
    /// The reading side ended and all bytes were passed on.
    Finished,
    /// One side failed; the other must be reset.
    Broken,
    /// A fault cuts the connection.
    Cut(Cut),
}

pub(crate) struct Pump<'a> {
    direction: Direction,
    reader: ReadHalf<'a>,
    writer: WriteHalf<'a>,
    conditions: watch::Receiver<Conditions>,
    meter: &'a Meter,
    /// Bytes that are not passed on yet, with the time they were read.
    queue: VecDeque<(Instant, Vec<u8>)>,
    reader_ended: bool,
}

/// The number of bytes that a pump reads ahead of those it can pass on.
const HELD_MAX: u64 = 64 * 1024;
const READ_MAX: usize = 16 * 1024;

impl<'a> Pump<'a> {
    pub(crate) fn new(
        direction: Direction,
        reader: ReadHalf<'a>,
        writer: WriteHalf<'a>,
        conditions: watch::Receiver<Conditions>,
        meter: &'a Meter,
    ) -> Self {
        Self {
            direction,
            reader,
            writer,
            conditions,
            meter,
            queue: VecDeque::new(),
            reader_ended: false,
        }
    }

    /// Copies until the reading side ends, one side fails, or the connection is cut.
    pub(crate) async fn run(mut self) -> PumpEnd {
        let mut buffer = vec![0; READ_MAX];
        loop {
            let conditions = *self.conditions.borrow_and_update();
            if let Some(cut) = conditions.cut {
                return PumpEnd::Cut(cut);
            }
            let shaping = match self.direction {
                Direction::ToServer => conditions.to_server,
                Direction::ToClient | Direction::Both => conditions.to_client,
            };
            // A direction that is stopped also withholds the end of the stream.
            if self.reader_ended && self.queue.is_empty() && !shaping.stopped {
                // Fails only if the peer has closed already.
                self.writer.shutdown().await.ok();
                return PumpEnd::Finished;
            }
            if let Err(_broken) = self.step(shaping, &mut buffer).await {
                return PumpEnd::Broken;
            }
        }
    }

    /// Waits for one event: a change of the conditions, bytes read, bytes written, or a time to write.
    async fn step(&mut self, shaping: Shaping, buffer: &mut [u8]) -> io::Result<()> {
        let now = Instant::now();
        let due = self
            .queue
            .front()
            .map(|(read_at, _)| *read_at + shaping.delay);
        let writable = !shaping.stopped && due.is_some_and(|due| due <= now);
        let waiting = !shaping.stopped && !writable && due.is_some();
        let front = self.queue.front().map_or(&[][..], |(_, bytes)| bytes);
        // A full hold stops the reading, which fills the sender's buffers as a real fault does.
        let readable = HELD_MAX.saturating_sub(self.meter.held());
        let readable = READ_MAX.min(readable as usize);
        select! {
            // A change of the conditions goes first: a fault must hold back bytes that are due.
            biased;
            changed = self.conditions.changed() => {
                changed.map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
            }
            // Reads and writes of sockets are cancel safe: the losing branch has moved no byte.
            written = self.writer.write(front), if writable => {
                self.on_written(written?);
            }
            read = self.reader.read(&mut buffer[..readable]), if !self.reader_ended && readable > 0 => {
                match read? {
                    0 => self.reader_ended = true,
                    count => {
                        // The time of the read: a later delay also applies to bytes that wait.
                        self.queue.push_back((Instant::now(), buffer[..count].to_vec()));
                        self.meter.add_read(count as u64);
                    }
                }
            }
            // `select!` evaluates the expression of a disabled branch, too.
            () = sleep_until(due.unwrap_or(now)), if waiting => {}
        }
        Ok(())
    }

    fn on_written(&mut self, count: usize) {
        self.meter.add_passed(count as u64);
        if let Some((_, bytes)) = self.queue.front_mut() {
            bytes.drain(..count);
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}
