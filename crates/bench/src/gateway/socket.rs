//! The least of a WebSocket client: a handshake, text frames, and nothing that costs the machine memory.

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The longest frame or response head of a server.
const MAX: usize = 1 << 20;

/// A connection after the handshake.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    /// What was received and is not read yet.
    received: Vec<u8>,
}

/// A frame of a server.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Close,
    Other,
}

impl Socket {
    /// Performs the handshake on a connection.
    pub(super) async fn open(mut tcp: TcpStream, path: &str, subprotocol: &str) -> Result<Self> {
        tcp.set_nodelay(true)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n"
        );
        tcp.write_all(request.as_bytes()).await?;
        let mut socket = Self {
            tcp,
            received: Vec::new(),
        };
        let end = loop {
            if let Some(end) = memchr::memmem::find(&socket.received, b"\r\n\r\n") {
                break end + 4;
            }
            socket.receive().await?;
        };
        let head: Vec<u8> = socket.received.drain(..end).collect();
        ensure!(
            head.starts_with(b"HTTP/1.1 101"),
            "the handshake was refused: {}",
            String::from_utf8_lossy(&head)
        );
        Ok(socket)
    }

    async fn receive(&mut self) -> Result<()> {
        ensure!(
            self.received.len() < MAX,
            "the server sends too much at once"
        );
        // Nothing is reserved while a socket is idle.
        self.tcp.readable().await?;
        self.received.reserve(2_048);
        let count = self.tcp.read_buf(&mut self.received).await?;
        ensure!(count > 0, "the server ended a connection");
        Ok(())
    }

    /// Sends a text or pong frame. The mask is zero: it hides nothing from a server.
    pub(super) async fn send(&mut self, is_pong: bool, payload: &[u8]) -> Result<()> {
        let mut frame = vec![if is_pong { 0x8a } else { 0x81 }];
        match payload.len() {
            short @ ..126 => frame.push(0x80 | short as u8),
            // The length follows in two bytes.
            long => {
                frame.push(0xfe);
                frame.extend(u16::try_from(long)?.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        Ok(self.tcp.write_all(&frame).await?)
    }

    /// Returns the next frame.
    pub(super) async fn next(&mut self) -> Result<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.received)? {
                self.received.drain(..length);
                if self.received.is_empty() {
                    self.received = Vec::new();
                }
                return Ok(frame);
            }
            self.receive().await?;
        }
    }
}

/// Returns the first frame and its length, if it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    ensure!(second & 0x80 == 0, "the server masks its frames");
    let long = |count: usize| {
        let number = rest.get(..count)?;
        Some(
            number
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte)),
        )
    };
    let (length, header) = match second & 0x7f {
        126 => (long(2), 4),
        127 => (long(8), 10),
        short => (Some(usize::from(short)), 2),
    };
    let Some(length) = length else {
        return Ok(None);
    };
    ensure!(length <= MAX, "a frame has {length} bytes");
    let Some(payload) = bytes.get(header..header + length) else {
        return Ok(None);
    };
    let frame = match first & 0x0f {
        1 => Frame::Text(payload.to_vec()),
        8 => Frame::Close,
        9 => Frame::Ping(payload.to_vec()),
        _ => Frame::Other,
    };
    Ok(Some((frame, header + length)))
}

/// Counts how often a text stands in another.
pub(super) fn count(text: &[u8], part: &str) -> usize {
    memchr::memmem::find_iter(text, part.as_bytes()).count()
}

/// Returns the number after a text, as in `"n":7`.
pub(super) fn number_after(text: &[u8], part: &str) -> Result<u64> {
    let at = memchr::memmem::find(text, part.as_bytes()).context("the number is missing")?;
    let digits = text[at + part.len()..].iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    Ok(digits.fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_once_they_are_whole() {
        let bytes = [0x81, 2, b'h', b'i', 0x89, 0];
        for short in 0..4 {
            assert_eq!(parse(&bytes[..short]).unwrap(), None);
        }
        assert_eq!(
            parse(&bytes).unwrap(),
            Some((Frame::Text(b"hi".to_vec()), 4))
        );
        assert_eq!(
            parse(&bytes[4..]).unwrap(),
            Some((Frame::Ping(Vec::new()), 2))
        );
        let mut long = vec![0x81, 126, 1, 0];
        long.resize(260, b'x');
        assert_eq!(parse(&long).unwrap().unwrap().1, 260);
        assert!(parse(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(parse(&[0x81, 0x80]).is_err());
    }
}
