//! The task of one WebSocket: its connection and its driver.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use steadfast_net::Socket;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep, timeout},
};

use crate::{
    driver::{Driver, Outgoing},
    limits::Held,
    metrics::Refused,
    websocket::{Decoder, Opcode, Received, Violation, close_payload, compress, encode},
};

/// One WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S = Socket> {
    io: S,
    driver: Driver,
    decoder: Decoder,
    /// Frames that the connection has not taken. Empty, and without memory, while the client waits.
    unsent: Vec<u8>,
    written: usize,
    /// What was written may still be held by TLS.
    is_unflushed: bool,
    compresses: bool,
    phase: Phase,
    unfinished: Unfinished,
}

/// The messages of the client that are not complete.
#[derive(Debug)]
struct Unfinished {
    /// The bytes that are counted for them.
    bytes: Held,
    /// Set while there are any. Most sockets never need it for long, hence the box.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our close frame is on its way, or that of the client was answered. The connection ends when the
    /// client has seen it.
    Closing,
    /// Nothing more is sent.
    Over,
}

/// Bytes that are collected from the driver before they are written.
const BATCH: usize = 16 << 10;
/// Bytes that are read at a time, into the stack: an idle socket holds no buffer.
const READ: usize = 4 << 10;
/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: usize = 32;
/// The longest time from the first byte of a message to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The bytes of unfinished messages on all sockets.
const UNFINISHED_BYTES: usize = 256 << 20;
/// The smallest message that is worth compressing.
const COMPRESSED: usize = 256;
/// The longest wait for the client's part of a closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    pub(crate) fn new(
        io: S,
        already_received: &[u8],
        driver: Driver,
        max_bytes: usize,
        compresses: bool,
    ) -> Self {
        let mut decoder = Decoder::new(max_bytes, compresses);
        decoder.push(already_received);
        let bytes = driver.unfinished();
        Self {
            io,
            driver,
            decoder,
            unsent: Vec::new(),
            written: 0,
            is_unflushed: false,
            compresses,
            phase: Phase::Open,
            unfinished: Unfinished {
                bytes,
                deadline: None,
            },
        }
    }

    /// Serves the socket until its end.
    pub(crate) async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll_open(cx)).await;
        // Boxed, so that an open socket does not keep the space of its end.
        if self.phase == Phase::Closing {
            let closing = Box::pin(async {
                std::future::poll_fn(|cx| self.poll_closing(cx)).await;
            });
            timeout(CLOSE_TIMEOUT, closing).await.ok();
        }
    }

    /// Resolves when the socket closes.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let Poll::Ready(is_written) = self.poll_write(cx) else {
                // Not read either: a client that takes nothing cannot ask for more.
                return Poll::Pending;
            };
            if !is_written {
                self.phase = Phase::Over;
            }
            if self.phase != Phase::Open {
                return Poll::Ready(());
            }
            let has_read = self.poll_read(cx);
            self.check_unfinished(cx);
            let has_frames = self.fill(cx);
            if self.phase == Phase::Over {
                return Poll::Ready(());
            }
            if !has_read && !has_frames {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes and flushes what is unsent. Returns false if the connection has failed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.written < self.unsent.len() {
            let rest = &self.unsent[self.written..];
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.unsent.is_empty() {
            (self.unsent, self.written) = (Vec::new(), 0);
            self.driver.note_unsent(0);
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            // Asked again until it is done: nothing else would send the last record of TLS.
            let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
            self.is_unflushed = false;
            return Poll::Ready(flushed.is_ok());
        }
        Poll::Ready(true)
    }

    /// Reads once, and passes what is complete to the driver. Returns false if nothing came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        // What came with the last bytes, or with the handshake.
        self.take_frames();
        // While an answer waits, what was read before is not used up: more would only collect.
        if !self.unsent.is_empty() || !self.driver.takes_messages() {
            return false;
        }
        let mut bytes = [0; READ];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.decoder.push(buffer.filled());
                self.take_frames();
                true
            }
            Poll::Ready(_) => {
                self.phase = Phase::Over;
                true
            }
        }
    }

    /// Counts what is not complete, and closes the socket if there is too much of it, or for too long.
    fn check_unfinished(&mut self, cx: &mut Context<'_>) {
        let (before, now) = (self.unfinished.bytes.own(), self.decoder.held_bytes());
        let all = self.unfinished.bytes.set(now);
        // Fewer than before: a message was finished, and the time begins anew.
        if now == 0 || now < before {
            self.unfinished.deadline = None;
        }
        if now == 0 || self.phase != Phase::Open {
            return;
        }
        let deadline = &mut self.unfinished.deadline;
        let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(MESSAGE_TIMEOUT)));
        if deadline.as_mut().poll(cx).is_ready() {
            let what = "a message was not finished in time";
            self.driver.refuse(Refused::Unfinished, 1008, what);
        } else if all > UNFINISHED_BYTES {
            let what = "the gateway holds too many unfinished messages";
            self.driver.refuse(Refused::Unfinished, 1013, what);
        }
    }

    /// Takes the frames that are complete, as long as the driver has nothing to send.
    fn take_frames(&mut self) {
        while self.phase == Phase::Open && self.driver.takes_messages() {
            match self.decoder.next() {
                Ok(None) => return,
                Ok(Some(Received::Text(text))) => self.driver.on_text(&text),
                Ok(Some(Received::Pong)) => self.driver.on_alive(),
                Ok(Some(Received::Ping(payload))) => {
                    encode(Opcode::Pong, false, &payload, &mut self.unsent);
                    self.driver.on_alive();
                    // One at a time: the answers must not pile up.
                    return;
                }
                Ok(Some(Received::Close(code))) => {
                    let payload = code.map_or_else(Vec::new, |code| close_payload(code, ""));
                    encode(Opcode::Close, false, &payload, &mut self.unsent);
                    self.phase = Phase::Closing;
                }
                Err(violation) => {
                    let refused = match violation {
                        Violation::TooLarge => Refused::FrameTooLarge,
                        _ => Refused::Protocol,
                    };
                    let (code, reason) = violation.close();
                    self.driver.refuse(refused, code, reason);
                }
            }
        }
    }

    /// Collects frames from the driver. Returns false if there is nothing to write.
    fn fill(&mut self, cx: &mut Context<'_>) -> bool {
        while self.phase == Phase::Open && self.unsent.len() < BATCH {
            let Poll::Ready(outgoing) = self.driver.poll(cx) else {
                break;
            };
            match outgoing {
                Outgoing::Text(text) if self.compresses && text.len() >= COMPRESSED => {
                    let packed = compress(text.as_bytes());
                    encode(Opcode::Text, true, &packed, &mut self.unsent);
                }
                Outgoing::Text(text) => {
                    encode(Opcode::Text, false, text.as_bytes(), &mut self.unsent);
                }
                Outgoing::Ping => encode(Opcode::Ping, false, &[], &mut self.unsent),
                Outgoing::Close { code, reason } => {
                    let payload = close_payload(code, reason);
                    encode(Opcode::Close, false, &payload, &mut self.unsent);
                    self.phase = Phase::Closing;
                }
                Outgoing::Cut => self.phase = Phase::Over,
            }
        }
        self.driver.note_unsent(self.unsent.len());
        !self.unsent.is_empty()
    }

    /// Sends what is left, and waits until the client has ended its side too. A connection that is closed
    /// with unread bytes is reset, and the reset overtakes the close frame.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_write(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(false) => return Poll::Ready(()),
            Poll::Ready(true) => {}
        }
        // The client sees the end also if it ignores the close frame.
        if Pin::new(&mut self.io).poll_shutdown(cx).is_pending() {
            return Poll::Pending;
        }
        let mut bytes = [0; READ];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
