//! Divides the long DATA frames of a peer, so that the buffer they are read into stays small.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

/// The bytes of an HTTP/2 connection in which no DATA frame is longer than [`PAYLOAD_MAX`].
///
/// A peer may send frames of 16 KiB, and no setting forbids them. `h2` reads into a buffer of 8 KiB, which grows for
/// the first longer frame and keeps its size for as long as the connection lasts. Two shorter frames mean the same as a
/// long one: flow control counts bytes.
#[derive(Debug)]
pub(crate) struct ShortFrames<S> {
    /// Reads no further than to the end of the current part.
    io: Take<S>,
    part: Part,
    /// The head of a frame: what has arrived of it, or is to be passed on.
    head: [u8; HEAD],
}

/// The place in what is read.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// In a connection whose frames are passed on as they are.
    Everything,
    /// In the head of a frame, of which so many bytes have arrived.
    HeadArriving(usize),
    /// In a head that is passed on from this byte, before a payload.
    HeadLeaving(usize, Payload),
    /// In bytes that are passed on as they are. The preface of a connection is such a part.
    Payload(Payload),
}

/// The rest of a payload.
#[derive(Clone, Copy, Debug)]
struct Payload {
    /// The bytes until the next head.
    bytes: usize,
    /// The bytes of the same frame of the peer after these, which get a head of their own.
    later: usize,
}

/// A head: the length in three bytes, the type, the flags, and the stream in four bytes.
const HEAD: usize = 9;

/// The bytes before the first frame.
const PREFACE: usize = 24;

/// A frame of this length fills the buffer of `h2` with its head.
const PAYLOAD_MAX: usize = (8 << 10) - HEAD;

const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

impl<S: AsyncRead> ShortFrames<S> {
    /// Divides the frames if `divides` is set.
    pub(crate) fn new(io: S, divides: bool) -> Self {
        let preface = Payload {
            bytes: PREFACE,
            later: 0,
        };
        Self {
            io: io.take(0),
            part: if divides {
                Part::Payload(preface)
            } else {
                Part::Everything
            },
            head: [0; HEAD],
        }
    }

    /// Decides what becomes of the frame whose head has arrived.
    fn begin(&mut self) -> Part {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if kind == DATA && flags & PADDED == 0 && length > PAYLOAD_MAX {
            return self.divide(length);
        }
        let payload = Payload {
            bytes: length,
            later: 0,
        };
        Part::HeadLeaving(0, payload)
    }

    /// Writes the head of the next part of a payload, of which `rest` is left.
    fn divide(&mut self, rest: usize) -> Part {
        // Equal parts: servers limit the number of very short frames.
        let bytes = rest.div_ceil(rest.div_ceil(PAYLOAD_MAX));
        let [_, high, middle, low] = (bytes as u32).to_be_bytes();
        self.head[..3].copy_from_slice(&[high, middle, low]);
        let later = rest - bytes;
        Part::HeadLeaving(0, Payload { bytes, later })
    }

    /// Returns the head as it is passed on.
    fn leaving(&self, payload: Payload) -> [u8; HEAD] {
        let mut head = self.head;
        if payload.later > 0 {
            // Only the last part ends the stream.
            head[4] &= !END_STREAM;
        }
        head
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ShortFrames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whatever is put into the buffer is returned at once: nothing of it may be lost by a wait.
        loop {
            match this.part {
                Part::Everything => return Pin::new(this.io.get_mut()).poll_read(cx, buffer),
                Part::HeadArriving(HEAD) => this.part = this.begin(),
                Part::HeadArriving(arrived) => {
                    let mut head = ReadBuf::new(&mut this.head[arrived..]);
                    this.io.set_limit(head.capacity() as u64);
                    ready!(Pin::new(&mut this.io).poll_read(cx, &mut head))?;
                    let read = head.filled().len();
                    if read == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    this.part = Part::HeadArriving(arrived + read);
                }
                Part::HeadLeaving(HEAD, payload) => this.part = Part::Payload(payload),
                Part::HeadLeaving(left, payload) => {
                    let fits = buffer.remaining().min(HEAD - left);
                    buffer.put_slice(&this.leaving(payload)[left..left + fits]);
                    this.part = Part::HeadLeaving(left + fits, payload);
                    return Poll::Ready(Ok(()));
                }
                Part::Payload(Payload { bytes: 0, later: 0 }) => this.part = Part::HeadArriving(0),
                Part::Payload(Payload { bytes: 0, later }) => this.part = this.divide(later),
                Part::Payload(Payload { bytes, later }) => {
                    let before = buffer.filled().len();
                    this.io.set_limit(bytes as u64);
                    ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
                    let bytes = bytes - (buffer.filled().len() - before);
                    this.part = Part::Payload(Payload { bytes, later });
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ShortFrames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    /// Returns the heads' types, flags and streams, and the payloads.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let payload = bytes[HEAD..HEAD + length].to_vec();
            frames.push((bytes[3], bytes[4], bytes[8], payload));
            bytes = &bytes[HEAD + length..];
        }
        frames
    }

    /// Passes bytes on that arrive in pieces of one length, and are read in pieces of another.
    fn passed_on(sent: &[u8], arriving: usize, read: usize, divides: bool) -> Vec<u8> {
        let (mut peer, io) = duplex(arriving);
        let mut io = ShortFrames::new(io, divides);
        let mut received = Vec::new();
        for piece in sent.chunks(arriving) {
            peer.write_all(piece).now_or_never().unwrap().unwrap();
            loop {
                let mut buffer = vec![0; read];
                match io.read(&mut buffer).now_or_never() {
                    Some(length) => received.extend_from_slice(&buffer[..length.unwrap()]),
                    None => break,
                }
            }
        }
        drop(peer);
        let mut last = [0; 1];
        assert_eq!(io.read(&mut last).now_or_never().unwrap().unwrap(), 0);
        received
    }

    #[test]
    fn long_data_arrives_in_short_frames() {
        let long: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        let headers = frame(1, 4, 1, &long[..9_000]);
        let padded = frame(DATA, PADDED, 3, &long[..10_000]);
        let sent = [
            vec![b'P'; PREFACE],
            headers.clone(),
            frame(DATA, 0, 1, &long[..16_384]),
            frame(4, 1, 0, &[]),
            padded.clone(),
            frame(DATA, 0, 3, &long[..PAYLOAD_MAX]),
            frame(DATA, END_STREAM, 1, &long[..=PAYLOAD_MAX]),
            frame(DATA, END_STREAM, 3, &[]),
        ];
        let sent = sent.concat();
        for (arriving, read) in [(1, 1), (3, 8_192), (8, 5), (8_192, 7), (1 << 20, 8_192)] {
            assert_eq!(passed_on(&sent, arriving, read, false), sent);
            let received = passed_on(&sent, arriving, read, true);
            assert_eq!(received[..PREFACE], sent[..PREFACE]);
            let received = frames(&received[PREFACE..]);
            let shape = received
                .iter()
                .map(|(kind, flags, stream, payload)| (*kind, *flags, *stream, payload.len()));
            let shape: Vec<_> = shape.collect();
            assert_eq!(
                shape,
                [
                    (1, 4, 1, 9_000),
                    (DATA, 0, 1, 5_462),
                    (DATA, 0, 1, 5_461),
                    (DATA, 0, 1, 5_461),
                    (4, 1, 0, 0),
                    (DATA, PADDED, 3, 10_000),
                    (DATA, 0, 3, PAYLOAD_MAX),
                    (DATA, 0, 1, 4_092),
                    (DATA, END_STREAM, 1, 4_092),
                    (DATA, END_STREAM, 3, 0),
                ],
                "{arriving} {read}"
            );
            let of = |stream| {
                let all = received
                    .iter()
                    .filter(move |it| it.0 == DATA && it.2 == stream);
                all.flat_map(|it| it.3.clone()).collect::<Vec<u8>>()
            };
            assert_eq!(of(1), [&long[..16_384], &long[..=PAYLOAD_MAX]].concat());
            assert_eq!(of(3), [&long[..10_000], &long[..PAYLOAD_MAX]].concat());
        }
    }
}
