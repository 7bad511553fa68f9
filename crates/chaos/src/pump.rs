//! One direction of one connection: read, hold as the conditions say, write.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{ReadHalf, WriteHalf},
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::conditions::{Conditions, Cut, Direction, Lane};

/// What one direction has done so far.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes passed on.
    pub(crate) passed: AtomicU64,
    /// Bytes read and not passed on.
    pub(crate) held: AtomicU64,
}

/// Why a pump stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PumpEnd {
    /// The reading side ended and everything was passed on.
    Finished,
    /// A side failed; the other is to be told with a reset.
    Broken,
    /// The conditions say so.
    Cut(Cut),
}

pub(crate) struct Pump<'a> {
    direction: Direction,
    reader: ReadHalf<'a>,
    writer: WriteHalf<'a>,
    conditions: watch::Receiver<Conditions>,
    meter: &'a Meter,
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// Nothing is written before this time (rate and pauses).
    gate: Instant,
    /// The limit in force and what had been passed when it came.
    limit: Option<(u64, u64)>,
    ended: bool,
}

/// How far a pump reads ahead of what it could pass on.
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
            gate: Instant::now(),
            limit: None,
            ended: false,
        }
    }

    /// Copies until the reading side ends, something fails, or the connection is cut.
    pub(crate) async fn run(mut self) -> PumpEnd {
        let mut buffer = vec![0; READ_MAX];
        loop {
            let conditions = *self.conditions.borrow_and_update();
            if let Some(cut) = conditions.cut {
                return PumpEnd::Cut(cut);
            }
            let lane = match self.direction {
                Direction::ToServer => conditions.to_server,
                Direction::ToClient | Direction::Both => conditions.to_client,
            };
            if self.ended && self.queue.is_empty() && !lane.stopped {
                // The peer may have closed already; then there is nobody to tell.
                self.writer.shutdown().await.ok();
                return PumpEnd::Finished;
            }
            let allowance = self.allowance(lane);
            if allowance == Some(0) {
                return PumpEnd::Cut(Cut::Reset);
            }
            if let Err(_broken) = self.turn(lane, allowance, &mut buffer).await {
                return PumpEnd::Broken;
            }
        }
    }

    /// One thing that happens: the conditions change, bytes come, or bytes go.
    async fn turn(
        &mut self,
        lane: Lane,
        allowance: Option<u64>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let now = Instant::now();
        let due = self
            .queue
            .front()
            .map(|(read_at, _)| (*read_at + lane.delay).max(self.gate));
        let writable = !lane.stopped && due.is_some_and(|due| due <= now);
        let waiting = !lane.stopped && !writable && due.is_some();
        let piece = piece_max(lane, allowance);
        let front = match self.queue.front() {
            Some((_, bytes)) => &bytes[..bytes.len().min(piece)],
            None => &[],
        };
        let room = HELD_MAX.saturating_sub(self.meter.held.load(Ordering::Relaxed));
        let room = READ_MAX.min(room as usize);
        select! {
            biased;
            changed = self.conditions.changed() => {
                changed.map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
            }
            written = self.writer.write(front), if writable => {
                let written = written?;
                self.passed(written, lane);
            }
            read = self.reader.read(&mut buffer[..room]), if !self.ended && room > 0 => {
                match read? {
                    0 => self.ended = true,
                    count => {
                        self.queue.push_back((Instant::now(), buffer[..count].to_vec()));
                        self.meter.held.fetch_add(count as u64, Ordering::Relaxed);
                    }
                }
            }
            () = sleep_until(due.unwrap_or(now)), if waiting => {}
        }
        Ok(())
    }

    fn passed(&mut self, count: usize, lane: Lane) {
        self.meter.passed.fetch_add(count as u64, Ordering::Relaxed);
        self.meter.held.fetch_sub(count as u64, Ordering::Relaxed);
        if let Some((_, bytes)) = self.queue.front_mut() {
            bytes.drain(..count);
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        let pause = lane.slice.map_or(Duration::ZERO, |(_, pause)| pause);
        let rate = lane.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(count as f64 / rate as f64)
        });
        self.gate = Instant::now() + pause.max(rate);
    }

    /// Bytes that may still pass before the limit cuts; `None` without a limit.
    fn allowance(&mut self, lane: Lane) -> Option<u64> {
        let (id, bytes) = lane.limit?;
        let passed = self.meter.passed.load(Ordering::Relaxed);
        let base = match self.limit {
            Some((known, base)) if known == id => base,
            _ => passed,
        };
        self.limit = Some((id, base));
        Some((base + bytes).saturating_sub(passed))
    }
}

/// The largest piece to write at once: with a rate, what passes in 20 ms.
fn piece_max(lane: Lane, allowance: Option<u64>) -> usize {
    let sliced = lane.slice.map_or(usize::MAX, |(bytes, _)| bytes);
    let rated = lane
        .bytes_per_second
        .map_or(usize::MAX, |rate| (rate / 50).max(1) as usize);
    let allowed = allowance.map_or(usize::MAX, |bytes| bytes as usize);
    sliced.min(rated).min(allowed)
}
