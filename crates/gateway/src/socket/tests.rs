use std::io;

use futures_util::FutureExt as _;

use super::*;
use crate::{
    driver::tests::{driver, shared},
    limits::Limits,
    rights::{Peer, Rights},
};

/// A connection that repeats a frame for ever, and whose flush has to be asked for twice.
#[derive(Debug, Default)]
struct Flood {
    /// Nothing can be read if it is empty.
    frame: Vec<u8>,
    read: usize,
    written: usize,
    flushed: usize,
    is_flushing: bool,
}

impl AsyncRead for Flood {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.frame.is_empty() {
            return Poll::Pending;
        }
        while buffer.remaining() >= self.frame.len() {
            buffer.put_slice(&self.frame);
            self.read += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushed < self.written {
            self.is_flushing = !self.is_flushing;
            if self.is_flushing {
                return Poll::Pending;
            }
            self.flushed = self.written;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn socket(frame: Vec<u8>) -> WebSocket<Flood> {
    let mut limits = Limits::default();
    limits.messages.burst = 1_000_000.try_into().unwrap();
    let driver = driver(&shared(Rights::default(), limits), Peer::default());
    let io = Flood {
        frame,
        ..Flood::default()
    };
    WebSocket::new(io, &[], driver, 64 << 10, false)
}

fn turn(socket: &mut WebSocket<Flood>) {
    std::future::poll_fn(|cx| socket.poll_open(cx)).now_or_never();
}

#[tokio::test]
async fn pings_are_read_no_faster_than_they_are_answered() {
    // An empty ping with a mask.
    let mut socket = socket(vec![0x89, 0x80, 0, 0, 0, 0]);
    for _ in 0..1_000 {
        turn(&mut socket);
        let held = socket.decoder.held_bytes();
        assert!(held <= 2 * READ, "{held} bytes wait");
    }
    assert!(socket.io.read > 1_000);
}

#[tokio::test]
async fn flush_that_had_to_wait_is_asked_for_again() {
    let mut socket = socket(Vec::new());
    for _ in 0..3 {
        turn(&mut socket);
    }
    let io = &socket.io;
    assert!(io.written > 0);
    assert_eq!(io.flushed, io.written);
}
